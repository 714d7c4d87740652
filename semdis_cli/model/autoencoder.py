"""`FCDMDiffAE`: the diffusion autoencoder with the published Python API."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model import diffusion
from semdis_cli.model.arguments import (
    check_channels,
    check_finite,
    check_float_images,
    check_latent_shape,
    check_noise,
    check_pixel_values,
    check_whole,
)
from semdis_cli.model.checkpoint import (
    FLOAT32_BUFFERS,
    LATENT_STATS,
    TIME_FREQUENCIES,
    WEIGHTS_FILE,
    WeightsFile,
    read_weights,
    resolve_model,
    write_checkpoint,
)
from semdis_cli.model.config import CONFIG_FILE, FCDMDiffAEConfig, FCDMDiffAEInferenceConfig
from semdis_cli.model.decoder import Decoder, DecoderGrid, DecoderSteps
from semdis_cli.model.devices import check_dtype, find_device, move_model
from semdis_cli.model.encoder import Encoder
from semdis_cli.model.layers import time_frequencies
from semdis_cli.model.posterior import EncoderPosterior


class FCDMDiffAE(nn.Module):
    """Encoder, VP diffusion decoder and the statistics that whiten its latents.

    Images are [B,3,H,W] in [-1,1]; H and W multiples of `config.effective_patch_size`. Latents are [B,Z,h,w] float32,
    whitened, unless the checkpoint came without statistics (`has_latent_stats` False): then they are raw.
    """

    latent_norm_running_mean: Tensor
    latent_norm_running_var: Tensor

    def __init__(self, config: FCDMDiffAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or FCDMDiffAEConfig()
        self.has_latent_stats = True
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.register_buffer(LATENT_STATS[0], torch.zeros(self.config.latent_channels))
        self.register_buffer(LATENT_STATS[1], torch.ones(self.config.latent_channels))

    # ---- Weights ----

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        *,
        device: str | int | torch.device | None = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Load a folder, a repository id, or the bundled model by name, in evaluation mode.

        `dtype` None keeps the weights as stored. Parameters come frozen; `requires_grad_()` thaws them. Raises
        `UsageError` for a device that is not there and `ValueError` for a dtype of no weights, both before anything is
        fetched, and `CheckpointError` listing everything that is wrong.
        """
        found_device = None if device is None else find_device(device)
        check_dtype(dtype)
        location = resolve_model(str(path_or_repo_id), revision=revision, cache_dir=cache_dir)
        model, found = cls.from_folder(location.folder)
        if found.has_own_frequencies:
            warnings.warn(f"{path_or_repo_id}: {found.describe()}", stacklevel=2)
        return move_model(model, found_device, dtype).eval()

    @classmethod
    def from_folder(cls, folder: Path) -> tuple[Self, WeightsFile]:
        """Load `config.json` + `model.safetensors` on the CPU as stored; also what was found in the weights file."""
        config = FCDMDiffAEConfig.load(folder / CONFIG_FILE)
        with torch.device("meta"):  # the config is untrusted: allocate nothing before the tensors have been checked
            model = cls(config)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        patch_shape = (config.in_channels, config.patch_size, config.patch_size)
        stored, found = read_weights(folder / WEIGHTS_FILE, expected, patch_shape)
        tensors = dict(stored)
        if not found.has_latent_stats:
            model.has_latent_stats = False
            tensors[LATENT_STATS[0]] = torch.zeros(config.latent_channels)
            tensors[LATENT_STATS[1]] = torch.ones(config.latent_channels)
        tensors.update({name: tensors[name].float() for name in FLOAT32_BUFFERS})
        if found.has_rounded_frequencies:  # as they are, angles would be off by whole radians at t = 1
            tensors[TIME_FREQUENCIES] = time_frequencies()
        if len({tensor.dtype for name, tensor in tensors.items() if name not in FLOAT32_BUFFERS}) > 1:
            tensors = {name: tensor.float() for name, tensor in tensors.items()}  # a mixed file: its best precision
        model.load_state_dict(tensors, assign=True)
        return model.requires_grad_(False), found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` under the published names. Raises `UsageError` if it cannot."""
        tensors = self.state_dict()
        if not self.has_latent_stats:
            tensors = {name: tensor for name, tensor in tensors.items() if name not in LATENT_STATS}
        write_checkpoint(Path(folder), self.config.to_json(), tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 (inherited)
        """Move or cast like any module, but leave the statistics and time frequencies in float32.

        `.to(bfloat16)` would cost them all but three digits.
        """
        kept = {name: buffer for name, buffer in self.named_buffers() if name in FLOAT32_BUFFERS}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            owner_name, _, leaf = name.rpartition(".")
            owner = self.get_submodule(owner_name)
            after = owner.get_buffer(leaf)
            if after.dtype != before.dtype:
                owner.register_buffer(leaf, before.to(after.device))
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, in which the network computes."""
        return self.decoder.out_proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.decoder.out_proj.weight.device

    # ---- Images -> latents ----

    def encode_posterior(self, images: Tensor) -> EncoderPosterior:
        """[B,3,H,W] in [-1,1] -> raw posterior, float32 [B,Z,h,w].

        Raises `ValueError` for sizes off the patch grid, and for what is no batch of such images: another number of
        dimensions or channels, whole numbers, NaN, values in [0, 255]. `TypeError` for what is no tensor.
        """
        check_float_images(images, self.config.in_channels)
        self.check_size(images.shape[-2], images.shape[-1])
        if not self.training:  # what is trained on was made here, and to look at values is to wait for the device
            check_pixel_values(images)
        return self.posterior(images)

    def posterior(self, images: Tensor) -> EncoderPosterior:
        """Encode images that are checked already: `encode_posterior` without its checks."""
        posterior: EncoderPosterior = self.encoder(images.to(self.device, self.dtype))
        return posterior

    def encode(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> whitened posterior mode [B,Z,h,w] float32. Raises as `encode_posterior` does."""
        return self.whiten(self.encode_posterior(images).mode())

    def whiten(self, latents: Tensor) -> Tensor:
        """Raw -> whitened, (z - mean) / sqrt(var + eps) per channel, float32; the identity without statistics.

        [...,Z,h,w] of any dtype of floating point. Raises `ValueError` for another shape, `TypeError` for no tensor.
        """
        check_channels(latents, self.config.latent_channels)
        if not self.has_latent_stats:
            return latents.float()
        mean, std = self.latent_mean_std()
        return (latents.float() - mean) / std

    def dewhiten(self, latents: Tensor) -> Tensor:
        """Whitened -> raw, z sqrt(var + eps) + mean per channel, float32; the identity without statistics.

        [...,Z,h,w] of any dtype of floating point. Raises `ValueError` for another shape, `TypeError` for no tensor.
        """
        check_channels(latents, self.config.latent_channels)
        if not self.has_latent_stats:
            return latents.float()
        mean, std = self.latent_mean_std()
        return latents.float() * std + mean

    def latent_mean_std(self) -> tuple[Tensor, Tensor]:
        """Per channel the mean and sqrt(var + eps) of raw latents, [Z,1,1] float32: what whitening takes out."""
        variance = self.latent_norm_running_var.float() + self.config.latent_running_stats_eps
        return self.latent_norm_running_mean.float()[:, None, None], variance.sqrt()[:, None, None]

    # ---- Latents -> images ----

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        height: int,
        width: int,
        *,
        inference_config: FCDMDiffAEInferenceConfig | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Whitened latents [B,Z,h,w] -> images [B,3,height,width] float32, unclamped, about [-1,1].

        `noise` [B,3,height,width] replaces the starting noise (std `pixel_noise_std`), which is otherwise drawn on the
        CPU from `inference_config.seed`. Raises `ValueError` if the sizes do not fit, for latents or noise that are no
        floats or hold NaN, and for settings that were changed to what there is not; `TypeError` for no tensor.
        """
        config = FCDMDiffAEInferenceConfig() if inference_config is None else inference_config
        config.check()
        check_whole(height=height, width=width)
        self.check_latents(latents, height, width)
        check_finite(latents, "latents")
        shape = (latents.shape[0], self.config.in_channels, height, width)
        if noise is None:
            noise = self.draw_noise(shape, config.seed)
        else:
            check_noise(noise, shape)
        return self.sample_images(latents, noise, config)

    @torch.no_grad()
    def decoder_grid(self, config: FCDMDiffAEInferenceConfig) -> DecoderGrid:
        """Compute what does not depend on latents, for as long as the weights are what they are now."""
        times = diffusion.time_grid(config.num_steps, config.schedule)[:-1]
        return DecoderGrid(self.decoder, times.to(self.device))

    @torch.no_grad()
    def sample_images(
        self, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig, grid: DecoderGrid | None = None
    ) -> Tensor:
        """Decode latents and noise that are checked already: `decode` without its checks.

        `grid`: that of `config`, where it is computed already.
        """
        raw = self.dewhiten(latents.to(self.device))
        z = functional.pixel_shuffle(raw, self.config.bottleneck_patch).to(self.dtype)
        steps = DecoderSteps(grid or self.decoder_grid(config), z)

        def predict(x_t: Tensor, step: int) -> Tensor:
            if not config.pdg:
                return steps.predict(x_t.to(self.dtype), step)
            x0_full, x0_drop = steps.predict_both(x_t.to(self.dtype), step)
            return diffusion.path_drop_guidance(x0_full, x0_drop, config.pdg_strength)

        limits = (self.config.logsnr_min, self.config.logsnr_max)
        return diffusion.sample(predict, noise.to(self.device, torch.float32), config, *limits)

    def draw_noise(self, shape: tuple[int, ...], seed: int | None) -> Tensor:
        """Normal noise of std `pixel_noise_std`, float32 on the CPU: from `seed`, or fresh if it is None.

        Raises `ValueError` for a seed that torch does not take.
        """
        if seed is not None and not -(2**63) <= seed < 2**64:
            raise ValueError(f"seed must be a whole number of 64 bits, not {seed}")
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator) * self.config.pixel_noise_std

    def reconstruct(self, images: Tensor, *, inference_config: FCDMDiffAEInferenceConfig | None = None) -> Tensor:
        """[B,3,H,W] in [-1,1] -> the same through `encode` and `decode`, float32, unclamped. Raises as they do."""
        with torch.no_grad():
            latents = self.encode(images)
        return self.decode(latents, images.shape[-2], images.shape[-1], inference_config=inference_config)

    def check_size(self, height: int, width: int) -> None:
        """Raise `ValueError` for image sizes off the patch grid."""
        patch = self.config.effective_patch_size
        if height < 1 or width < 1 or height % patch or width % patch:
            raise ValueError(f"image size {height}x{width} is not a multiple of {patch} pixels on both sides")

    def check_latents(self, latents: Tensor, height: int, width: int) -> None:
        """Raise `ValueError` unless these are latents [B,Z,h,w] of images of that size; `TypeError` for no tensor."""
        self.check_size(height, width)
        patch, channels = self.config.effective_patch_size, self.config.latent_channels
        check_latent_shape(latents, channels)
        expected = (channels, height // patch, width // patch)
        if tuple(latents.shape[1:]) != expected:
            raise ValueError(f"latents are {list(latents.shape)}; {height}x{width} needs [B, {str(expected)[1:-1]}]")
