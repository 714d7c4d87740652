"""The encoder's answer: a diagonal Gaussian in variance-preserving form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from semdis_cli.model.diffusion import vp_alpha


@dataclass(frozen=True)
class EncoderPosterior:
    """z ~ N(alpha mean, sigma^2), alpha = sqrt(sigmoid(logsnr)), sigma = sqrt(sigmoid(-logsnr)).

    `mean`, `logsnr`: [B,Z,h,w], raw (not whitened); from the encoder in float32. All arithmetic is float32; results
    come back in the dtype of `mean`.
    """

    mean: Tensor
    logsnr: Tensor

    def __getitem__(self, images: slice) -> "EncoderPosterior":
        """The posterior of some of the images."""
        return EncoderPosterior(self.mean[images], self.logsnr[images])

    @property
    def alpha(self) -> Tensor:
        """[B,Z,h,w] float32 in (0, 1)."""
        return vp_alpha(self.logsnr)

    @property
    def sigma(self) -> Tensor:
        """[B,Z,h,w] float32 in (0, 1)."""
        return vp_alpha(-self.logsnr)

    def mode(self) -> Tensor:
        """alpha * mean: the raw latents that are stored."""
        return (self.alpha * self.mean.float()).to(self.mean.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """alpha * mean + sigma * eps, eps ~ N(0, I) drawn in float32 on the generator's device (default: of `mean`)."""
        device = generator.device if generator is not None else self.mean.device
        eps = torch.randn(self.mean.shape, generator=generator, device=device, dtype=torch.float32)
        return self.sample_with(eps.to(self.mean.device))

    def sample_with(self, eps: Tensor) -> Tensor:
        """alpha * mean + sigma * eps for a given standard normal `eps` [B,Z,h,w] float32."""
        return (self.alpha * self.mean.float() + self.sigma * eps).to(self.mean.dtype)
