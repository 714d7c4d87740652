"""Golden tensors of a tiny model: what is in the file, how it is computed, and how it is made anew.

`tests/golden/tiny.safetensors` holds the config, the weights (bfloat16 values, computed with in float32), the inputs,
and what the model made of them on one CPU thread. After a change that is meant to alter the output, run from the
project's folder

    python -m tests.model.make_golden

It keeps the stored config, weights and inputs, and says how far each output has moved. Delete the file before to draw
all of it again.
"""

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEConfig, FCDMDiffAEInferenceConfig
from semdis_cli.model.pixels import images_to_float
from tests.worlds import tiny_config, tiny_model

PATH = Path(__file__).parents[1] / "golden" / "tiny.safetensors"
ONE_STEP = FCDMDiffAEInferenceConfig()
FOUR_GUIDED_STEPS = FCDMDiffAEInferenceConfig(4, "dpmpp_2m", "cosine", pdg=True, pdg_strength=2.0)

_CHANGES: dict[str, Any] = {"patch_size": 8, "latent_running_stats_eps": 1e-3}
_METADATA_KEY = "semdis-golden"


@dataclass(frozen=True)
class Golden:
    """`weights` float32 by state-dict name; `images` [B,3,H,W] uint8; `noise` [B,3,H,W], `pixel_noise_std` included."""

    config: FCDMDiffAEConfig
    machine: dict[str, str]
    weights: dict[str, Tensor]
    images: Tensor
    noise: Tensor
    outputs: dict[str, Tensor]


def this_machine() -> dict[str, str]:
    """What decides, beside the number of threads, in which order a CPU adds up."""
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "cpu": _cpu_name()}


@torch.inference_mode()
def compute(config: FCDMDiffAEConfig, weights: dict[str, Tensor], images: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Every output that is guarded, on one thread."""
    model = FCDMDiffAE(config).eval()
    model.load_state_dict(weights)
    height, width = images.shape[-2:]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        posterior = model.encode_posterior(images_to_float(images))
        latents = model.whiten(posterior.mode())
        return {
            "posterior mean": posterior.mean,
            "posterior logsnr": posterior.logsnr,
            "whitened latents": latents,
            "decoded in one step": model.decode(latents, height, width, inference_config=ONE_STEP, noise=noise),
            "decoded in four guided steps": model.decode(
                latents, height, width, inference_config=FOUR_GUIDED_STEPS, noise=noise
            ),
        }
    finally:
        torch.set_num_threads(num_threads)


def read() -> Golden:
    """The stored golden."""
    with safe_open(PATH, framework="pt") as file:
        about = json.loads(file.metadata()[_METADATA_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return Golden(
        FCDMDiffAEConfig.from_fields(about["config"]),
        about["machine"],
        {name: tensor.float() for name, tensor in _under("weights", tensors).items()},
        tensors["inputs/images"],
        tensors["inputs/noise"],
        _under("outputs", tensors),
    )


def draw() -> Golden:
    """A new golden, from seeds, without outputs."""
    config = tiny_config(**_CHANGES)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 24, 40), dtype=torch.uint8, generator=generator)
    noise = torch.randn(images.shape, generator=generator) * config.pixel_noise_std
    weights = {
        name: tensor if name.endswith("freqs") else tensor.bfloat16().float()
        for name, tensor in tiny_model(**_CHANGES).state_dict().items()
    }
    return Golden(config, {}, weights, images, noise, {})


def main() -> None:
    """Compute the outputs and write the file."""
    golden = read() if PATH.exists() else draw()
    outputs = compute(golden.config, golden.weights, golden.images, golden.noise)
    for name, tensor in outputs.items():
        before = golden.outputs.get(name)
        moved = "new" if before is None else f"moved by at most {float((tensor - before).abs().max()):.3g}"
        sys.stdout.write(f"{name}: {moved}\n")
    tensors = {f"weights/{name}": _stored(name, tensor) for name, tensor in golden.weights.items()}
    tensors |= {"inputs/images": golden.images, "inputs/noise": golden.noise}
    tensors |= {f"outputs/{name}": tensor.contiguous() for name, tensor in outputs.items()}
    about: dict[str, Any] = {"config": asdict(golden.config), "machine": this_machine()}
    PATH.parent.mkdir(exist_ok=True)
    save_file(tensors, PATH, {_METADATA_KEY: json.dumps(about, sort_keys=True)})
    PATH.chmod(0o644)  # safetensors leaves it to the owner alone


def _stored(name: str, tensor: Tensor) -> Tensor:
    return tensor if name.endswith("freqs") else tensor.bfloat16()


def _under(folder: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
