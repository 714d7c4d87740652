"""`Tokenizer`: uint8 images <-> latents, as the pipeline sees a model.

Holds what a bare model leaves open: the pixel convention, device and dtype, a fixed batch shape (so that an image's
bytes do not depend on its neighbours), and one noise generator per image, seeded from (seed, key).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError, UnreadableImageError, UsageError
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.checkpoint import Source, resolve_model
from semdis_cli.model.config import FCDMDiffAEInferenceConfig

DtypeName = Literal["auto", "bfloat16", "float32"]
_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Pixels per model call where no batch size is given: a CPU gains nothing from more, a GPU needs them to fill up.
# Tiny images stop gaining long before that, and each odd size is padded to a whole call: hence the second limit.
_CPU_BATCH_PIXELS, _CPU_BATCH_IMAGES = 4 * 256**2, 32
_GPU_BATCH_PIXELS, _GPU_BATCH_IMAGES = 64 * 256**2, 256


@dataclass(frozen=True)
class TokenizerSettings:
    """How a model is run.

    `device`: "auto" (CUDA if present), "cpu", "cuda", "cuda:1", ... `dtype` "auto": bfloat16 where the device
    multiplies it in hardware. `batch_size`: images per model call; None chooses by image size. `num_threads`: CPU
    threads of the model; None leaves torch's choice.
    """

    device: str = "auto"
    dtype: DtypeName = "auto"
    batch_size: int | None = None
    num_threads: int | None = None


@dataclass(frozen=True)
class ModelIdentity:
    """Which model it is: name as asked for, where that leads, hub revision (or None), and the hashes that decide."""

    name: str
    source: Source
    revision: str | None
    weights_sha256: str
    config_sha256: str


class Tokenizer:
    """uint8 sRGB images [B,3,H,W] <-> latents [B,Z,h,w] float32, whitened if the model has statistics."""

    def __init__(
        self, model: FCDMDiffAE, identity: ModelIdentity, settings: TokenizerSettings, description: str = ""
    ) -> None:
        """Take over `model`: move and cast it as `settings` say. `description`: of its weights file, for a person.

        Raises `UsageError` for a device that is not there.
        """
        device = find_device(settings.device)
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)
        self.identity = identity
        self.description = description
        self.batch_size = settings.batch_size
        dtype = find_dtype(settings.dtype, device)
        if dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # torch's default: 10 bits of mantissa under the name of float32
        self.model = model.to(device=device, dtype=dtype).eval()

    @classmethod
    def load(
        cls,
        name: str,
        settings: TokenizerSettings | None = None,
        *,
        revision: str | None = None,
        source: Source | None = None,
    ) -> "Tokenizer":
        """Load a model by bundled name, folder or repository id. Raises `CheckpointError` or `UsageError`."""
        location = resolve_model(name, revision=revision, source=source)
        model, found = FCDMDiffAE.from_folder(location.folder)
        if model.config.in_channels != 3:
            raise CheckpointError(f"{name}: takes {model.config.in_channels} channels, but images have 3")
        config_sha256 = hashlib.sha256(model.config.to_json().encode()).hexdigest()
        identity = ModelIdentity(location.name, location.source, location.revision, found.sha256, config_sha256)
        return cls(model, identity, settings or TokenizerSettings(), found.describe())

    @property
    def patch_size(self) -> int:
        """Pixels per latent position along each side; image sides are multiples of it."""
        return self.model.config.effective_patch_size

    @property
    def latent_channels(self) -> int:
        """Channels Z of a latent."""
        return self.model.config.latent_channels

    @property
    def whitening(self) -> tuple[Tensor, Tensor] | None:
        """Per channel the mean and the standard deviation, [Z] float32, that whitening takes out.

        raw = whitened * std + mean. None for a checkpoint without statistics.
        """
        if not self.is_whitened:
            return None
        mean, std = self.model.latent_mean_std()
        return mean.flatten().cpu(), std.flatten().cpu()

    @property
    def is_whitened(self) -> bool:
        """Whether latents are whitened; False for a checkpoint without statistics, whose latents are raw."""
        return self.model.has_latent_stats

    @property
    def device_name(self) -> str:
        """The string "cpu", or the name of the accelerator."""
        device = self.model.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    @property
    def dtype_name(self) -> str:
        """Either "bfloat16" or "float32": what the network computes in."""
        return str(self.model.dtype).removeprefix("torch.")

    def images_per_call(self, height: int, width: int) -> int:
        """Images of one model call at this size: a function of settings and size only, never of how many there are."""
        if self.batch_size is not None:
            return self.batch_size
        if self.model.device.type == "cpu":
            pixels, images = _CPU_BATCH_PIXELS, _CPU_BATCH_IMAGES
        else:
            pixels, images = _GPU_BATCH_PIXELS, _GPU_BATCH_IMAGES
        return max(1, min(images, pixels // (height * width)))

    @torch.inference_mode()
    def encode(self, images: Tensor, keys: Sequence[str], *, sample_seed: int | None = None) -> Tensor:
        """uint8 [B,3,H,W] -> latents [B,Z,h,w] float32 on the CPU: the posterior mode, or a sample.

        With `sample_seed`, eps of each image is drawn from (sample_seed, key). B at most `images_per_call`; a smaller
        batch is padded to it, so that the kernels see one shape.
        """
        assert len(keys) == len(images), f"{len(keys)} keys for {len(images)} images"
        batch = self._pad(images)
        with _said_if_out_of_memory(batch):
            posterior = self.model.encode_posterior(images_to_float(batch.to(self.model.device)))
        if sample_seed is None:
            raw = posterior.mode()
        else:
            shape = tuple(posterior.mean.shape[1:])
            eps = torch.stack([image_noise("posterior", sample_seed, key, shape) for key in keys])
            raw = posterior.sample_with(self._pad(eps, len(batch)).to(self.model.device))
        return self.model.whiten(raw)[: len(images)].cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor, keys: Sequence[str], config: FCDMDiffAEInferenceConfig | None = None) -> Tensor:
        """Latents [B,Z,h,w] -> uint8 [B,3,H,W] on the CPU. Each image's noise comes from (`config.seed` or 0, key)."""
        assert len(keys) == len(latents), f"{len(keys)} keys for {len(latents)} latents"
        config = config or FCDMDiffAEInferenceConfig()
        height, width = (side * self.patch_size for side in latents.shape[-2:])
        shape = (self.model.config.in_channels, height, width)
        noise = torch.stack([image_noise("pixels", config.seed or 0, key, shape) for key in keys])
        noise *= self.model.config.pixel_noise_std
        batch = self._pad(latents, self.images_per_call(height, width))
        noise = self._pad(noise, len(batch))
        with _said_if_out_of_memory(noise):
            images = self.model.decode(batch, height, width, inference_config=config, noise=noise)
        return float_to_images(images[: len(latents)]).cpu()

    def _pad(self, batch: Tensor, size: int | None = None) -> Tensor:
        """Append zeros along the first axis up to `size` (default: the images of one call)."""
        size = self.images_per_call(*batch.shape[-2:]) if size is None else size
        assert len(batch) <= size, f"{len(batch)} images in a call for {size}"
        if len(batch) == size:
            return batch
        return torch.cat([batch, batch.new_zeros(size - len(batch), *batch.shape[1:])])


@contextmanager
def _said_if_out_of_memory(images: Tensor) -> Iterator[None]:
    """Where memory runs out over `images` [B,3,H,W], say so: of a single one that it is too large."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        size = f"{images.shape[2]}x{images.shape[3]}"
        if len(images) == 1:
            raise UnreadableImageError(f"not enough memory at {size}; encode it with --max-pixels") from error
        raise UsageError(
            f"not enough memory for {len(images)} images of {size}; give a smaller --batch-size"
        ) from error


def images_to_float(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def float_to_images(x: Tensor) -> Tensor:
    """Float in about [-1, 1] -> uint8 0..255, clamped and rounded to nearest (not truncated)."""
    return ((x.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def image_noise(purpose: str, seed: int, key: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 noise of one image, the same wherever and beside whatever it is computed.

    `purpose` keeps the streams of encoding and decoding apart.
    """
    text = f"{purpose}\0{seed}\0{key}".encode(errors="surrogatepass")
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA if present. Raises `UsageError` if there is none of that name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in _DEVICE_TYPES:
            raise UsageError(f"--device {name}: must be auto, or one of {', '.join(_DEVICE_TYPES)}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UsageError(f"--device {name}: not available here ({reason:.200})") from error
    return device


def find_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The dtype called `name`; "auto" is bfloat16 where `device` multiplies it fast, else float32."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has bfloat16 dot products (AVX-512 BF16 or AMX); without them bfloat16 is slower than float32."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as cpuinfo:
            flags = next((line for line in cpuinfo if line.startswith(("flags", "Features"))), "")
    except OSError:  # not Linux
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())
