"""`FCDMDiffAE`: the diffusion autoencoder with the published Python API."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model import diffusion
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
from semdis_cli.model.decoder import Decoder, DecoderSteps
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
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Load a folder, a repository id, or the bundled model by name, in evaluation mode.

        `dtype` None keeps the weights as stored. Parameters come frozen; `requires_grad_()` thaws them. Raises
        `CheckpointError` listing everything that is wrong.
        """
        location = resolve_model(str(path_or_repo_id), revision=revision, cache_dir=cache_dir)
        model, _ = cls.from_folder(location.folder)
        return model.to(device=device, dtype=dtype).eval()

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
        if stored[TIME_FREQUENCIES].dtype != torch.float32:  # rounded, they are off by whole radians at t = 1
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
        """Where the weights are."""
        return self.decoder.out_proj.weight.device

    # ---- Images -> latents ----

    def encode_posterior(self, images: Tensor) -> EncoderPosterior:
        """[B,3,H,W] in [-1,1] -> raw posterior, float32 [B,Z,h,w]. Raises `ValueError` for sizes off the patch grid."""
        self.check_size(images.shape[-2], images.shape[-1])
        posterior: EncoderPosterior = self.encoder(images.to(self.device, self.dtype))
        return posterior

    def encode(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] -> whitened posterior mode [B,Z,h,w] float32."""
        return self.whiten(self.encode_posterior(images).mode())

    def whiten(self, latents: Tensor) -> Tensor:
        """Raw -> whitened, (z - mean) / sqrt(var + eps) per channel, float32; the identity without statistics."""
        if not self.has_latent_stats:
            return latents.float()
        mean, std = self.latent_mean_std()
        return (latents.float() - mean) / std

    def dewhiten(self, latents: Tensor) -> Tensor:
        """Whitened -> raw, z sqrt(var + eps) + mean per channel, float32; the identity without statistics."""
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
        CPU from `inference_config.seed`. Raises `ValueError` if the sizes do not fit.
        """
        config = inference_config or FCDMDiffAEInferenceConfig()
        self.check_latents(latents, height, width)
        shape = (latents.shape[0], self.config.in_channels, height, width)
        if noise is None:
            noise = self.draw_noise(shape, config.seed)
        elif noise.shape != shape:
            raise ValueError(f"noise is {list(noise.shape)}, but the images are {list(shape)}")
        raw = self.dewhiten(latents.to(self.device))
        z = functional.pixel_shuffle(raw, self.config.bottleneck_patch).to(self.dtype)

        times = diffusion.time_grid(config.num_steps, config.schedule)[:-1].to(self.device)
        steps = DecoderSteps(self.decoder, z, times)

        def predict(x_t: Tensor, step: int) -> Tensor:
            if not config.pdg:
                return steps.predict(x_t.to(self.dtype), step)
            x0_full, x0_drop = steps.predict_both(x_t.to(self.dtype), step)
            return diffusion.path_drop_guidance(x0_full, x0_drop, config.pdg_strength)

        limits = (self.config.logsnr_min, self.config.logsnr_max)
        return diffusion.sample(predict, noise.to(self.device, torch.float32), config, *limits)

    def draw_noise(self, shape: tuple[int, ...], seed: int | None) -> Tensor:
        """Normal noise of std `pixel_noise_std`, float32 on the CPU: from `seed`, or fresh if it is None."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator) * self.config.pixel_noise_std

    def reconstruct(self, images: Tensor, *, inference_config: FCDMDiffAEInferenceConfig | None = None) -> Tensor:
        """[B,3,H,W] in [-1,1] -> the same through `encode` and `decode`, float32, unclamped."""
        with torch.no_grad():
            latents = self.encode(images.to(self.device))
        return self.decode(latents, images.shape[-2], images.shape[-1], inference_config=inference_config)

    def check_size(self, height: int, width: int) -> None:
        """Raise `ValueError` for image sizes off the patch grid."""
        patch = self.config.effective_patch_size
        if height < 1 or width < 1 or height % patch or width % patch:
            raise ValueError(f"image size {height}x{width} is not a multiple of {patch} pixels on both sides")

    def check_latents(self, latents: Tensor, height: int, width: int) -> None:
        """Raise `ValueError` unless these are latents [B,Z,h,w] of images of that size."""
        self.check_size(height, width)
        patch, channels = self.config.effective_patch_size, self.config.latent_channels
        expected = (channels, height // patch, width // patch)
        if latents.ndim != 4 or tuple(latents.shape[1:]) != expected:
            raise ValueError(f"latents are {list(latents.shape)}; {height}x{width} needs [B, {str(expected)[1:-1]}]")
