"""Equations of the loss: the straight path from latents to noise, its velocity, and what predicting it is worth.

t is 0 for clean and 1 for noise.
"""

import torch
from torch import Tensor


def interpolate(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x + t eps (Liu et al. 2022, Rectified Flow, eq. 1; Ma et al. 2024, SiT, its linear path).

    [B,Z,h,w] twice and t [B] -> [B,Z,h,w].
    """
    t = t[:, None, None, None]
    return (1 - t) * latents + t * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """v = dx_t / dt = eps - x, the same at every t (Liu et al. 2022, eq. 1)."""
    return noise - latents


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(v_hat - v)^2, mean of an image (Lipman et al. 2023, Flow Matching, eq. 9): [B,Z,h,w] twice -> [B] float32."""
    return (predicted.float() - target).square().mean(dim=(1, 2, 3))


def constant_error(variance: Tensor) -> Tensor:
    """E (v - E v)^2 = 1 + s^2: error of the best constant, for channels of variance s^2 [Z]; mean over them."""
    return 1 + variance.mean()


def linear_error(t: Tensor, variance: Tensor) -> Tensor:
    """E (v - a x_t - b)^2 = s^2 / ((1 - t)^2 s^2 + t^2) for the best a, b at each t: [B] and s^2 [Z] -> [B].

    Mean over channels. All of v that is to be known from a value of x_t by itself: a = (t - (1 - t) s^2) / Var x_t,
    and what is left is 1 + s^2 - (t - (1 - t) s^2)^2 / Var x_t, Var x_t = (1 - t)^2 s^2 + t^2. No network does better
    on latents that are white Gaussian noise.
    """
    spread = (1 - t[:, None]).square() * variance + t[:, None].square()
    return torch.where(variance > 0, variance / spread, 0.0).mean(dim=1)
