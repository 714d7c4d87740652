"""The terms of the training loss: one equation, one function, float32."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def sid2_weight(t: Tensor, bias: float = -2.0, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> Tensor:
    """Weight of the squared x0 error at time t, [B] -> [B]: -1/2 dlogsnr/dt e^bias sigmoid(logsnr - bias).

    Sigmoid loss of SiD2 (Hoogeboom et al. 2024, arXiv 2410.19324): with the factor -dlogsnr/dt the expected loss does
    not depend on the noise schedule. There it weighs the error of eps by sigmoid(bias - logsnr); written for x0, whose
    error is e^-logsnr times as large, that is e^logsnr sigmoid(bias - logsnr) = e^bias sigmoid(logsnr - bias).
    On the cosine schedule logsnr = -2 ln tan(a t + b), so dlogsnr/dt = -4 a / sin(2 (a t + b)).
    """
    b = math.atan(math.exp(-logsnr_max / 2))
    a = math.atan(math.exp(-logsnr_min / 2)) - b
    angle = a * t.float() + b
    slope = -4.0 * a / torch.sin(2.0 * angle)
    logsnr = -2.0 * torch.log(torch.tan(angle))
    return -0.5 * slope * math.exp(bias) * torch.sigmoid(logsnr - bias)


def squared_error(x0_hat: Tensor, x0: Tensor) -> Tensor:
    """Mean squared error of each image: [B,3,H,W] in [-1, 1] units -> [B] float32."""
    return (x0_hat.float() - x0.float()).square().mean(dim=(1, 2, 3))


def balanced(errors: Tensor, power: float) -> Tensor:
    """[B] errors -> [B], each times (mean / own)^power, a factor that no gradient flows through.

    PSNR is a logarithm: a smooth picture gains as much from a tenth less error as a rough one, though its error is a
    hundredth. `power` 1 makes the gradient that of the mean log error, 0 that of the mean error.
    """
    fixed = errors.detach().clamp_min(1e-12)
    return errors * (fixed.mean() / fixed).pow(power)


def variance_expansion_loss(logsnr: Tensor) -> Tensor:
    """Pushes the posterior's variance up: the mean of softplus(logsnr) = -log sigma^2 over [B,Z,h,w]. Float32 scalar.

    The published form is not known. This is the variance part, -1/2 log sigma^2, of the divergence KL(q || N(0, I))
    of a VAE (Kingma & Welling 2014, appendix B), doubled; for the variance-preserving posterior sigma^2 =
    sigmoid(-logsnr). Zero where the latents are all noise, growing like logsnr where they are not.
    """
    return functional.softplus(logsnr.float()).mean()


def latent_scale_loss(mode: Tensor) -> Tensor:
    """Keeps latents near unit scale: mean over channels of (log E[z^2])^2, z [B,Z,h,w] the posterior mode.

    The published form is not known. A penalty on the log of each channel's mean square holds small and large channels
    alike, where the mean-square part of the VAE's divergence (1/2 E[z^2]) only ever shrinks them.
    """
    mean_square = mode.float().square().mean(dim=(0, 2, 3))
    return torch.log(mean_square + 1e-6).square().mean()
