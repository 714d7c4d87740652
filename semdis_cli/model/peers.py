"""Other published autoencoders, by diffusers: with random weights of their size, or with those of a folder."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from semdis_cli.errors import CheckpointError, MissingExtraError
from semdis_cli.files.links import or_pointer
from semdis_cli.model.network import CallStreams, to_device, to_host
from semdis_cli.model.pixels import float_to_images, images_to_float
from semdis_cli.model.tensor_file import open_tensors
from semdis_cli.settings.contenders import PeerName
from semdis_cli.tensors import is_finite
from semdis_cli.wording import first_line

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
_CONFIG_FILE, _INDEX_FILE, _WITHIN_PIPELINES = "config.json", f"{WEIGHTS_FILE}.index.json", "vae"
_SAVE_AGAIN = "save_pretrained of diffusers makes one file of them"
_MAX_CONFIG_BYTES, _MAX_NUMBER, _MAX_LAYERS = 2**20, 2**16, 64  # of published ones: a few KiB, 1024 and 6
_MOST_HELD = 3
_FOUR = 4  # levels of the KL autoencoders, each half the size of the one before
_LOADING_ERRORS = (  # of a class that is made by a file; it checks little
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class PeerKind:
    """A published autoencoder: its class in diffusers, the arguments of that, and the shape of its latents."""

    title: str
    class_name: str
    arguments: dict[str, Any]
    latent_channels: int
    downsampling: int


# Arguments as in the published configs; what is not given is the class's default, and equal to them.
PEERS: dict[PeerName, PeerKind] = {
    "flux2": PeerKind("FLUX.2 VAE", "AutoencoderKLFlux2", {}, 32, 8),
    "sd": PeerKind(
        "Stable Diffusion VAE",
        "AutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D",) * _FOUR,
            "up_block_types": ("UpDecoderBlock2D",) * _FOUR,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
        },
        4,
        8,
    ),
    "dcae": PeerKind(  # dc-ae-f32c32-sana
        "DC-AE f32c32",
        "AutoencoderDC",
        {
            "latent_channels": 32,
            "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
            "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
            "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "upsample_block_type": "interpolate",
            "downsample_block_type": "conv",
        },
        32,
        32,
    ),
}


@dataclass(frozen=True)
class Peer:
    """A peer that is ready to compute. `streams`: of its device, for calls at once. Any thread may call."""

    network: nn.Module
    streams: CallStreams

    @classmethod
    def of(cls, network: nn.Module, device: torch.device, dtype: torch.dtype) -> "Peer":
        """Move and cast `network`."""
        # Their own `to` warns of layers to keep in float32, of which it has none
        nn.Module.to(network, device=device, dtype=dtype)
        return cls(network.eval().requires_grad_(False), CallStreams(device))

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Encode uint8 [B,3,H,W] to latents, float32 on the CPU, as our own model does: the posterior's mode."""
        network: Any = self.network
        weight = next(network.parameters())
        with self.streams.current():
            found = network.encode(_as_weights(images_to_float(to_device(images, weight.device)), weight))
            latents: Tensor = found.latent if hasattr(found, "latent") else found.latent_dist.mode()
            return to_host(latents.float())

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to uint8 [B,3,H,W] on the CPU."""
        network: Any = self.network
        weight = next(network.parameters())
        with self.streams.current():
            decoded = network.decode(_as_weights(to_device(latents, weight.device), weight)).sample
            return to_host(float_to_images(decoded))


@dataclass(frozen=True)
class PublishedPeer:
    """A peer with the weights of a folder. `widths`: channels of its levels, each of half the size of the one before.

    `class_name`: of its class in diffusers; `sha256` (hex): of its weights file.
    """

    peer: Peer
    class_name: str
    widths: tuple[int, ...]
    sha256: str

    @property
    def downsampling(self) -> int:
        """Pixels of a position of the latents along each side."""
        return 2 ** (len(self.widths) - 1)

    @property
    def least_bytes_per_px(self) -> int:
        """Memory in bytes that decoding takes for each pixel, at least; 0 on a GPU, which tells when it is full.

        The last level begins with the channels of the one before: it holds these, a copy that is normed, and what a
        convolution makes of that. Measured: 3.2 times these channels for DC-AE, 5 times for Stable Diffusion's.
        """
        weight = next(self.peer.network.parameters())
        return _MOST_HELD * self.widths[:2][-1] * weight.element_size() if weight.device.type == "cpu" else 0


def find_peer(name: PeerName, option: str) -> Any:
    """Return the class of a peer, which `option` asks for.

    Raises `MissingExtraError` where diffusers is not installed, or does not work.
    """
    try:
        import diffusers

        return getattr(diffusers, PEERS[name].class_name)
    except (ImportError, AttributeError, RuntimeError) as error:  # it loads its own parts, and what they need, late
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise MissingExtraError(f"{option} needs diffusers: pip install 'semdis[peers]' ({reason:.200})") from error


def load_peer(name: PeerName, folder: Path, device: torch.device, dtype: torch.dtype, option: str) -> PublishedPeer:
    """Load a peer from a folder of diffusers, or from the `vae` in that of a pipeline; nothing is fetched or unpickled.

    Raises `CheckpointError` for a folder of something else, and as `find_peer`.
    """
    folder = _find_folder(folder)
    config = _read_config(folder / _CONFIG_FILE, PEERS[name].class_name)
    weights = folder / WEIGHTS_FILE
    peer_class = find_peer(name, option)
    _check_weights(peer_class, config, weights)
    try:
        network, found = peer_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except _LOADING_ERRORS as error:
        raise CheckpointError(f"cannot be loaded ({first_line(error)})", place=folder) from error
    problems = [f"{what} {', '.join(map(str, names))}" for what, names in found.items() if names]
    if problems:
        raise CheckpointError(f"is not whole: {'; '.join(problems):.200}", place=weights)
    if not all(is_finite(tensor) for tensor in network.state_dict().values() if tensor.is_floating_point()):
        raise CheckpointError("holds NaN or infinity", place=weights)
    with weights.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return PublishedPeer(Peer.of(network, device, dtype), PEERS[name].class_name, _widths(config), sha256)


def make_peer(name: PeerName, device: torch.device, dtype: torch.dtype, option: str) -> Peer:
    """Make a peer of the published size with random weights. Raises as `find_peer`."""
    return Peer.of(find_peer(name, option)(**PEERS[name].arguments), device, dtype)


def _find_folder(folder: Path) -> Path:
    for one in (folder, folder / _WITHIN_PIPELINES):
        if (one / _CONFIG_FILE).is_file():
            if not (one / WEIGHTS_FILE).is_file():
                raise CheckpointError(f"has no {WEIGHTS_FILE}, which alone is read (never pickled weights)", place=one)
            if os.path.lexists(one / _INDEX_FILE):  # diffusers would follow it to files of any name
                raise CheckpointError(f"has weights in several files, of which none is read; {_SAVE_AGAIN}", place=one)
            return one
    what = f"holds no {_CONFIG_FILE} of diffusers" if folder.is_dir() else "no such folder"
    raise CheckpointError(f"{what}; give one with {_CONFIG_FILE} and {WEIGHTS_FILE}", place=folder)


def _read_config(path: Path, class_name: str) -> dict[str, Any]:
    """Read the arguments of a class. Raises `CheckpointError` for those of another, or of nothing that is published."""
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
        too_large = _is_too_large("", config)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", place=path) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is no JSON of a config ({first_line(error)})", place=path) from error
    if not isinstance(config, dict) or config.get("_class_name") != class_name:
        found = config.get("_class_name") if isinstance(config, dict) else None
        raise CheckpointError(f"is of the class {found!r:.60}, not {class_name!r}", place=path)
    if config.get("quantization_config") is not None:  # another package's code would run
        raise CheckpointError(f"is of quantised weights, which are not read; {_SAVE_AGAIN}", place=path)
    if too_large:
        raise CheckpointError(f"has numbers or lists that no {class_name} has", place=path)
    return config


def _is_too_large(name: str, value: Any) -> bool:
    """Tell whether a number or a list in a config is beyond all that is published; `name`: of its field."""
    if isinstance(value, int | float):
        return value > (_MAX_LAYERS if "layers" in name else _MAX_NUMBER)
    if isinstance(value, list):
        return len(value) > _MAX_LAYERS or any(_is_too_large(name, one) for one in value)
    return isinstance(value, dict) and any(_is_too_large(field, one) for field, one in value.items())


def _check_weights(peer_class: Any, config: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` for weights of another size than a config's, before so much is allocated."""
    try:
        with torch.device("meta"):
            wanted = sum(tensor.numel() for tensor in peer_class.from_config(config).state_dict().values())
        with open_tensors(path) as file:
            found = sum(torch.Size(file.get_slice(name).get_shape()).numel() for name in file.keys())  # noqa: SIM118
    except _LOADING_ERRORS as error:
        raise CheckpointError(or_pointer(path, f"cannot be loaded ({first_line(error)})"), place=path) from error
    if wanted != found:
        raise CheckpointError(f"has {found:,} numbers, but {_CONFIG_FILE} is of {wanted:,}", place=path)


def _widths(config: dict[str, Any]) -> tuple[int, ...]:
    """Return the channels of the levels of a config that a peer was made by."""
    return tuple(config.get("block_out_channels") or config["encoder_block_out_channels"])


def _as_weights(x: Tensor, weight: Tensor) -> Tensor:
    """Convert `x` to the dtype of `weight`, and to its memory format."""
    is_last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return x.to(weight.dtype, memory_format=torch.channels_last if is_last else torch.contiguous_format)
