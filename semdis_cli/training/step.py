"""One training step: crops -> posterior -> noisy pixels -> decoder -> loss terms."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from semdis_cli.model import diffusion
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.posterior import EncoderPosterior
from semdis_cli.training import losses
from semdis_cli.training.alignment import AlignmentHead, alignment_loss, draw_tau, noisy_latents
from semdis_cli.training.settings import LossSettings


def generator_for(seed: int, purpose: str, number: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the random generator of one step: it depends on nothing but these values."""
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{number}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Draws:
    """The chance in one step. The first `num_one_step` images have t = 1.

    `t` [B] float32; `pixel_noise` [B,3,H,W] of the model's pixel noise std; `latent_noise` [B,Z,h,w] standard normal;
    `order` [B] a permutation: its first entries are the images whose middle blocks are left out.
    """

    t: Tensor
    pixel_noise: Tensor
    latent_noise: Tensor
    order: Tensor
    num_one_step: int


def draw(model: FCDMDiffAE, images: Tensor, settings: LossSettings, generator: torch.Generator) -> Draws:
    """Draw for `images` [B,3,H,W], on the generator's device."""
    config, device = model.config, generator.device
    count, _, height, width = images.shape
    grid = (height // config.effective_patch_size, width // config.effective_patch_size)
    num_one_step = round(settings.one_step_share * count)
    t = torch.rand(count, generator=generator, device=device)
    t[:num_one_step] = 1.0
    pixel_noise = torch.randn(images.shape, generator=generator, device=device) * config.pixel_noise_std
    latent_noise = torch.randn((count, config.latent_channels, *grid), generator=generator, device=device)
    order = torch.randperm(count, generator=generator, device=device)
    return Draws(t, pixel_noise, latent_noise, order, num_one_step)


@dataclass(frozen=True)
class Forward:
    """Results of a forward pass: the posterior, the latents drawn from it and the weighted `terms` of the loss."""

    posterior: EncoderPosterior
    latents: Tensor
    terms: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """Return the sum of the terms, which is minimised."""
        return torch.stack(list(self.terms.values())).sum()


def forward(model: FCDMDiffAE, images: Tensor, draws: Draws, settings: LossSettings) -> Forward:
    """Compute the loss of `images` [B,3,H,W] float32 in [-1, 1] with the random `draws`; without the alignment term."""
    posterior = model.encode_posterior(images)
    latents = posterior.sample_with(draws.latent_noise)
    x0_hat = _predict(model, images, draws, latents, num_dropped=round(settings.path_drop * len(images)))
    errors = losses.squared_error(x0_hat, images)
    one_step, any_time = errors[: draws.num_one_step], errors[draws.num_one_step :]
    config = model.config
    weight = losses.sid2_weight(draws.t[draws.num_one_step :], settings.sid2_bias, config.logsnr_min, config.logsnr_max)
    terms = {"diffusion": (weight * any_time).sum() / len(images)}
    if draws.num_one_step:
        terms["one_step"] = losses.balanced(one_step, settings.balance).sum() / len(images)
    terms["latent_scale"] = settings.latent_scale * losses.latent_scale_loss(posterior.mode())
    if config.bottleneck_posterior_kind == "diagonal_gaussian":
        terms["variance_expansion"] = settings.variance_expansion * losses.variance_expansion_loss(posterior.logsnr)
    return Forward(posterior, latents, terms)


def align(head: AlignmentHead, features: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the alignment loss of a teacher's `features` [B,F,h,w] and noisy `latents` [B,Z,h,w]: in [-1, 1]."""
    tau = draw_tau(len(latents), generator)
    eps = torch.randn(latents.shape, generator=generator, device=generator.device)
    return alignment_loss(head(noisy_latents(latents, eps, tau), tau), features)


def _predict(model: FCDMDiffAE, images: Tensor, draws: Draws, latents: Tensor, num_dropped: int) -> Tensor:
    """Predict x0_hat [B,3,H,W]; of the first `num_dropped` images in `draws.order` without the middle blocks."""
    config, noise = model.config, draws.pixel_noise
    limits = (config.logsnr_min, config.logsnr_max)
    x_t = diffusion.add_noise(images, noise, diffusion.vp_logsnr(draws.t, *limits))
    # At t = 1 the sampler starts without the trace of the image that add_noise leaves; training must not see it either.
    start = diffusion.initial_state(noise[: draws.num_one_step], *limits)
    x_t = torch.cat([start, x_t[draws.num_one_step :]])
    z = functional.pixel_shuffle(latents, config.bottleneck_patch)
    dropped, kept = draws.order[:num_dropped], draws.order[num_dropped:]
    parts = [model.decoder(x_t[kept], draws.t[kept], z[kept])] if len(kept) else []
    if len(dropped):
        parts.insert(0, model.decoder(x_t[dropped], draws.t[dropped], z[dropped], drop_middle_blocks=True))
    back = torch.argsort(draws.order)
    return torch.cat(parts)[back]
