"""`Tokenizer`: uint8 images <-> latents, as the pipeline sees a model.

Holds what a bare model leaves open: the pixel convention, device and dtype, one size of call (padded, or in groups, so
that an image's bytes do not depend on its neighbours), and one noise generator per image, seeded from (seed, key).
"""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError
from semdis_cli.model import flops
from semdis_cli.model.arguments import check_finite, check_latent_shape, check_uint8_images
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.call_sizes import (
    BatchSize,
    CallSizes,
    Half,
    least_call_bytes,
    packed_call_bytes,
    plain_call_bytes,
)
from semdis_cli.model.checkpoint import resolve_model
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.devices import find_device, find_dtype, move_model, pays_to_compile, unused_gpu
from semdis_cli.model.network import CallStreams, CompiledNetwork, choose_network, pixels_to_device, to_host
from semdis_cli.model.noise import noise_of_images, posterior_noise
from semdis_cli.model.posterior import EncoderPosterior
from semdis_cli.provenance import ModelIdentity, ModelSource
from semdis_cli.settings import NoiseKind, TokenizerSettings


class Tokenizer:
    """uint8 sRGB images [B,3,H,W] <-> latents [B,Z,h,w] float32, whitened if the model has statistics.

    `settings`: as it was made with them, what "auto" of compiling has come to. `device_note`: why it is not on the GPU
    that is here; None if all is well.
    """

    def __init__(
        self, model: FCDMDiffAE, identity: ModelIdentity, settings: TokenizerSettings, description: str = ""
    ) -> None:
        """Take over `model`: move and cast it as `settings` say. `description`: of its weights file, for a person.

        It is compiled where `settings.compile` is "on".

        Raises `UsageError` for a device that is not there, or has no memory for the model.
        """
        self.device_note = unused_gpu() if settings.device == "auto" else None
        device = find_device(settings.device)
        dtype = find_dtype(settings.dtype, device)
        if dtype == torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # torch's default: 10 bits of mantissa under the name of float32
        self.identity = identity
        self.settings = settings
        self.description = description
        self.model = move_model(model, device, dtype).requires_grad_(False).eval()
        self._num_threads = settings.num_threads or (1 if device.type == "cpu" else None)
        self._use_threads()
        self._network, self._compile_note = choose_network(self.model, compiled=settings.compile == "on")
        self._calls = CallSizes(settings.batch_size, self.model)
        self._streams = CallStreams(device)

    @classmethod
    def load(
        cls,
        name: str,
        settings: TokenizerSettings | None = None,
        *,
        revision: str | None = None,
        source: ModelSource | None = None,
        num_alike: int = 0,
    ) -> "Tokenizer":
        """Load a model by bundled name, folder or repository id. Raises `CheckpointError` or `UsageError`.

        `num_alike`: images of few sizes that it is for; "auto" compiles where that pays for so many. A device that is
        not there, and a dtype that there is not, are known before anything is fetched.
        """
        settings = settings or TokenizerSettings()
        device = find_device(settings.device)
        find_dtype(settings.dtype, device)
        if settings.compile == "auto" and pays_to_compile(device, num_alike):
            settings = replace(settings, compile="on")
        location = resolve_model(name, revision=revision, source=source)
        model, found = FCDMDiffAE.from_folder(location.folder)
        if model.config.in_channels != 3:
            raise CheckpointError(f"takes {model.config.in_channels} channels, but images have 3", place=name)
        config_sha256 = hashlib.sha256(model.config.to_json().encode()).hexdigest()
        identity = ModelIdentity(location.name, location.source, location.revision, found.sha256, config_sha256)
        return cls(model, identity, settings, found.describe())

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
        """True if latents are whitened; False for a checkpoint without statistics, whose latents are raw."""
        return self.model.has_latent_stats

    @property
    def has_spread(self) -> bool:
        """True if posteriors have one; False for a deterministic encoder, whose mode is all there is."""
        return not self.model.encoder.is_deterministic

    @property
    def is_on_cpu(self) -> bool:
        """True if model calls are CPU work, like reading images."""
        return self.model.device.type == "cpu"

    @property
    def device_name(self) -> str:
        """The string "cpu", or the name of the accelerator."""
        device = self.model.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    @property
    def dtype_name(self) -> str:
        """Either "bfloat16" or "float32": what the network computes in."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def num_threads(self) -> int:
        """CPU threads of one call."""
        return self._num_threads or torch.get_num_threads()

    @property
    def batch_size(self) -> BatchSize:
        """Images per model call as they were asked for."""
        return self._calls.batch_size

    @property
    def kernels(self) -> str:
        """Whose kernels compute: "onednn" (packed weights), "torch" or "inductor" (compiled). Last bits differ."""
        return self._network.kernels

    @property
    def compile_note(self) -> str | None:
        """Why nothing is compiled though it was asked for; None if all is well."""
        return self._network.note if isinstance(self._network, CompiledNetwork) else self._compile_note

    @property
    def halved_to(self) -> dict[tuple[int, int], int]:
        """Images of one call by size (H, W), where memory ran out over more of them."""
        return self._calls.halved_to

    @property
    def chosen_sizes(self) -> dict[tuple[int, int], int]:
        """Images of one call by size (H, W), where "auto" has a GPU's free memory decide."""
        return self._calls.chosen

    def images_per_call(self, height: int, width: int) -> int:
        """Images that one call of `encode` or `decode` takes at this size.

        A function of settings and size only (and, for "auto", of the memory that was free when first asked): never of
        how many images there are.
        """
        return self._calls.most(height, width)

    @torch.inference_mode()
    def encode(
        self,
        images: Tensor,
        keys: Sequence[str],
        *,
        sample_seed: int | None = None,
        noise: NoiseKind = "philox",
        are_mirrored: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """uint8 [B,3,H,W] of any strides -> latents [B,Z,h,w] on the CPU: the posterior mode, or a sample.

        They are float32, rounded to `dtype` on the device, so that no more comes back than is wanted.

        With `sample_seed`, eps of each image is drawn from (sample_seed, key), by the generator `noise`;
        `are_mirrored`: in a stream of its own, as the same keys have other pixels. B at most `images_per_call`. Any
        number of threads may call at once. Raises `UnreadableImageError` if there is no memory even for one image,
        `ValueError` for another dtype or shape and for other than one key each, and `TypeError` for no tensor.
        """
        check_uint8_images(images, 3, keys)
        self._use_threads()

        def call(part: slice, size: int) -> Tensor:
            with self._streams.current():
                posterior = self._posterior(images[part], size)
                eps = None if sample_seed is None else draw(sample_seed, keys[part], posterior.mean)
                return to_host(self._latents(posterior, len(keys[part]), eps).to(dtype))

        def draw(seed: int, keys: Sequence[str], mean: Tensor) -> Tensor:
            purpose = posterior_noise(is_mirrored=are_mirrored)
            return noise_of_images(purpose, seed, keys, tuple(mean.shape[1:]), mean.device, noise)

        return self._calls.run("encode", len(images), images.shape[2], images.shape[3], call)

    @torch.inference_mode()
    def moments(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """uint8 [B,3,H,W] of any strides -> [B,2,Z,h,w] float32 on the CPU: posterior mode, whitened, and log-SNR.

        The mode is that of `encode`, bit for bit. Threads, memory and errors as there.
        """
        check_uint8_images(images, 3, keys)
        self._use_threads()

        def call(part: slice, size: int) -> Tensor:
            with self._streams.current():
                posterior = self._posterior(images[part], size)
                modes = self._latents(posterior, len(keys[part]))
                return to_host(torch.stack([modes, posterior.logsnr[: len(modes)].float()], dim=1))

        return self._calls.run("encode", len(images), images.shape[2], images.shape[3], call)

    @torch.inference_mode()
    def decode(self, latents: Tensor, keys: Sequence[str], config: FCDMDiffAEInferenceConfig | None = None) -> Tensor:
        """Latents [B,Z,h,w] -> uint8 [B,3,H,W] on the CPU. Each image's noise comes from (`config.seed` or 0, key).

        It is made on the device, so that a GPU need not wait for it to be copied. Threads, memory and errors as in
        `encode`; `ValueError` too for latents that hold NaN or infinity, and for settings that were changed to what
        there is not.
        """
        check_latent_shape(latents, self.latent_channels, keys)
        check_finite(latents, "latents")
        config = FCDMDiffAEInferenceConfig() if config is None else config
        config.check()
        self._use_threads()
        height, width = (side * self.patch_size for side in latents.shape[-2:])
        shape = (self.model.config.in_channels, height, width)

        def call(part: slice, size: int) -> Tensor:
            with self._streams.current():
                device, seed = self.model.device, config.seed or 0
                noise = noise_of_images("pixels", seed, keys[part], shape, device, config.noise)
                noise *= self.model.config.pixel_noise_std
                batch = self._padded(latents[part], size), self._padded(noise, size)
                return to_host(self._network.images(*batch, config)[: len(noise)])

        return self._calls.run("decode", len(latents), height, width, call)

    def without_calls(self) -> AbstractContextManager[None]:
        """Wait until no call of this model runs, and let none begin within: others need the device's memory."""
        return self._calls.alone()

    def warm_up(self, height: int, width: int) -> None:
        """Encode and decode black images of this size, so that no later call pays for packing or compiling."""
        count = self.images_per_call(height, width)
        keys = [""] * count
        latents = self.encode(torch.zeros(count, 3, height, width, dtype=torch.uint8), keys)
        self.decode(latents, keys)

    def call_bytes(self, height: int, width: int, half: Half) -> int:
        """Estimated memory in bytes that a full call of `encode` or `decode`, as `half` says, takes beside the weights.

        Within a factor of two on a CPU.
        """
        estimate = plain_call_bytes if self._network.pads_calls else packed_call_bytes
        num_images = self.images_per_call(height, width)
        return estimate(self.model.config, height, width, num_images, self.model.dtype.itemsize, half)

    def least_call_bytes(self, size: tuple[int, int], num_images: int, half: Half, *, is_guided: bool = False) -> int:
        """Memory in bytes without which a call for images of `size` (H, W) cannot be; 0 on a GPU, which halves calls.

        `is_guided`: it decodes with path-drop guidance.
        """
        if not self.is_on_cpu:
            return 0
        count = self.images_per_call(*size) if self._network.pads_calls else num_images
        is_packed = not self._network.pads_calls
        element_bytes = self.model.dtype.itemsize
        return least_call_bytes(
            self.model.config, size, count, element_bytes, half, is_packed=is_packed, is_guided=is_guided
        )

    def encode_flops(self, height: int, width: int) -> int:
        """Floating-point operations of encoding one image."""
        return flops.encode_flops(self.model.config, height, width)

    def decode_flops(self, height: int, width: int, num_steps: int = 1, *, pdg: bool = False) -> int:
        """Floating-point operations of decoding one image; steps and guidance's two passes share what they can."""
        return flops.decode_flops_with_reuse(self.model.config, height, width, num_steps, pdg=pdg)

    def _posterior(self, images: Tensor, size: int) -> EncoderPosterior:
        """Of images that are padded on the device: black ones need not be sent there."""
        return self._network.posterior(self._padded(pixels_to_device(images, self.model.device), size))

    def _padded(self, batch: Tensor, size: int) -> Tensor:
        """Zeros appended along the first axis up to `size`, where the network wants one size."""
        if not self._network.pads_calls or len(batch) == size:
            return batch
        return torch.cat([batch, batch.new_zeros(size - len(batch), *batch.shape[1:])])

    def _latents(self, posterior: EncoderPosterior, num_images: int, eps: Tensor | None = None) -> Tensor:
        """[num_images,Z,h,w] of the first images, samples if `eps` is given.

        Image by image on a CPU, where torch's vectors would straddle two.
        """

        def some(rows: slice) -> Tensor:
            chosen = posterior[rows]
            return self.model.whiten(chosen.mode() if eps is None else chosen.sample_with(eps[rows]))

        step = 1 if self.is_on_cpu else num_images
        return torch.cat([some(slice(start, start + step)) for start in range(0, num_images, step)])

    def _use_threads(self) -> None:
        """Give the calling thread its share of cores: torch counts them per thread.

        Only where it differs: setting the number throws torch's prepared convolutions away.
        """
        if self._num_threads is not None and torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
