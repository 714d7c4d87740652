"""The diffusion arithmetic: one equation, one function; images in float32, coefficients in float64, rounded once.

Variance preserving: x_t = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1, time t in [0, 1] (0 clean, 1 noise) and the
natural log-SNR `logsnr` = log(alpha^2 / sigma^2). Noise `eps` is drawn with the pixel noise std of the model (0.558),
not unit variance. Times and log-SNRs are 0-dim or [B] tensors, those of a sampler on the CPU; images are [B,3,H,W] in
[-1, 1] units, never clamped. `out`: a float32 tensor of that shape that takes the result, which may be the state before
it; not where gradients are wanted.
"""

import math
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.settings import Sampler, Schedule

# x_t [B,3,H,W], index of the step into `time_grid` -> x0_hat [B,3,H,W]
Predict = Callable[[Tensor, int], Tensor]


def vp_logsnr(t: Tensor, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> Tensor:
    """Log-SNR of the cosine schedule, -2 ln tan(a t + b), truncated to [logsnr_min, logsnr_max] at t = 1, 0.

    Source: Hoogeboom et al., "simple diffusion" (2023), eq. for the truncated cosine schedule.
    """
    b = math.atan(math.exp(-logsnr_max / 2))
    a = math.atan(math.exp(-logsnr_min / 2)) - b
    return -2.0 * torch.log(torch.tan(a * t.float() + b))


def vp_alpha_sigma(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = sqrt(sigmoid(logsnr)), sigma = sqrt(sigmoid(-logsnr)). Source: Kingma et al. 2021, VDM.

    float32, or float64 if `logsnr` is.
    """
    return vp_alpha(logsnr), vp_alpha(-logsnr)


def vp_alpha(logsnr: Tensor) -> Tensor:
    """alpha = sqrt(sigmoid(logsnr)), of -logsnr sigma. float32, or float64 if `logsnr` is."""
    return torch.sigmoid(logsnr.to(torch.promote_types(logsnr.dtype, torch.float32))).sqrt()


def add_noise(x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    """x_t = alpha x0 + sigma noise, with one `logsnr` per image ([B]) or one for all (0-dim)."""
    alpha, sigma = (_per_image(value) for value in vp_alpha_sigma(logsnr))
    return alpha * x0.float() + sigma * noise.float()


def time_grid(num_steps: int, schedule: Schedule) -> Tensor:
    """`num_steps + 1` times from exactly 1 down to exactly 0: evenly spaced, or 0.5 (1 - cos(pi i / N)) reversed.

    Returns [num_steps + 1] float32. Raises `ValueError` if `num_steps` < 1, and for another schedule.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    i = torch.arange(num_steps, -1, -1, dtype=torch.float64)
    match schedule:
        case "linear":
            times = i / num_steps
        case "cosine":
            times = 0.5 * (1.0 - torch.cos(math.pi * i / num_steps))
        case _:
            raise ValueError(f"schedule must be one of {get_args(Schedule)}, not {schedule!r}")
    return times.float()


def initial_state(
    noise: Tensor, logsnr_min: float = -10.0, logsnr_max: float = 10.0, out: Tensor | None = None
) -> Tensor:
    """The sampler's start, sigma(t=1) * noise: what is left of the image at t = 1 is taken to be zero."""
    _, sigma = vp_alpha_sigma(vp_logsnr(torch.ones(()), logsnr_min, logsnr_max))
    return torch.mul(noise.float(), float(sigma), out=out)


def ddim_step(x_t: Tensor, x0_hat: Tensor, logsnr: Tensor, logsnr_next: Tensor, out: Tensor | None = None) -> Tensor:
    """DDIM step, alpha_next x0_hat + sigma_next eps_hat with eps_hat = (x_t - alpha x0_hat) / sigma.

    Source: Song et al. 2021, eq. 12 without its noise term.
    """
    alpha, sigma = vp_alpha_sigma(logsnr.double())
    alpha_next, sigma_next = vp_alpha_sigma(logsnr_next.double())
    ratio = sigma_next / sigma
    return _weighted_sum((ratio, x_t), (alpha_next - ratio * alpha, x0_hat), out=out)


def dpmpp_2m_step(
    x_t: Tensor,
    x0_hat: Tensor,
    logsnr: Tensor,
    logsnr_next: Tensor,
    x0_hat_prev: Tensor | None = None,
    logsnr_prev: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """DPM-Solver++(2M) step with data prediction; first order while there is no previous prediction.

    Source: Lu et al. 2022, "DPM-Solver++", algorithm 2. Their lambda is half of our log-SNR.
    """
    _, sigma = vp_alpha_sigma(logsnr.double())
    alpha_next, sigma_next = vp_alpha_sigma(logsnr_next.double())
    h = (logsnr_next.double() - logsnr.double()) / 2
    of_x0_hat = -alpha_next * torch.expm1(-h)
    if x0_hat_prev is None or logsnr_prev is None:
        return _weighted_sum((sigma_next / sigma, x_t), (of_x0_hat, x0_hat), out=out)
    r = (logsnr.double() - logsnr_prev.double()) / 2 / h
    of_slope = of_x0_hat / (2 * r)
    terms = (of_x0_hat + of_slope, x0_hat), (-of_slope, x0_hat_prev)
    return _weighted_sum((sigma_next / sigma, x_t), *terms, out=out)


def path_drop_guidance(x0_full: Tensor, x0_drop: Tensor, pdg_strength: float) -> Tensor:
    """x0 = x0_drop + s (x0_full - x0_drop): away from what the decoder says without its middle blocks."""
    x0_drop = x0_drop.float()
    return x0_drop + pdg_strength * (x0_full.float() - x0_drop)


def sample(
    predict: Predict,
    noise: Tensor,
    config: FCDMDiffAEInferenceConfig,
    logsnr_min: float,
    logsnr_max: float,
    *,
    in_place: bool = False,
) -> Tensor:
    """Run the sampler of `config` from `noise` [B,3,H,W] (float32, pixel noise std) to t = 0.

    `predict(x_t, step)` gives x0_hat (guidance included) at `time_grid(...)[step]`. Returns [B,3,H,W] float32,
    unclamped. Every step is elementwise: images may be cut into patches, in any order of their values. `in_place`: in
    the memory of `noise`, without gradients; `predict` must not keep x_t then. Raises `ValueError` for another sampler
    or schedule.
    """
    out = noise if in_place else None
    logsnrs = vp_logsnr(time_grid(config.num_steps, config.schedule), logsnr_min, logsnr_max)  # on the CPU
    x = initial_state(noise, logsnr_min, logsnr_max, out)
    x0_hat_prev: Tensor | None = None
    for i in range(config.num_steps):
        x0_hat = predict(x, i)
        match config.sampler:
            case "ddim":
                x = ddim_step(x, x0_hat, logsnrs[i], logsnrs[i + 1], out)
            case "dpmpp_2m":
                before = logsnrs[i - 1] if i else None
                x = dpmpp_2m_step(x, x0_hat, logsnrs[i], logsnrs[i + 1], x0_hat_prev, before, out)
            case _:
                raise ValueError(f"sampler must be one of {get_args(Sampler)}, not {config.sampler!r}")
        x0_hat_prev = x0_hat
    return x


def _weighted_sum(first: tuple[Tensor, Tensor], *others: tuple[Tensor, Tensor], out: Tensor | None = None) -> Tensor:
    """The sum of coefficient times images, float32: a pass over the images for each.

    Coefficients are float64, 0-dim on the CPU or [B]; they are rounded once.
    """
    coefficient, x = first
    total = torch.mul(x.float(), _per_image(coefficient.float()), out=out)
    for coefficient, x in others:
        if coefficient.ndim:
            total += _per_image(coefficient.float()) * x.float()
        else:
            total.add_(x, alpha=float(coefficient))
    return total


def _per_image(value: Tensor) -> Tensor:
    """[B] -> [B,1,1,1]; a 0-dim tensor stays as it is."""
    return value[:, None, None, None] if value.ndim else value
