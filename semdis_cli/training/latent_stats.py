"""Mean and variance of each latent channel, which whiten what the model exchanges: running, and of one fixed model."""

from collections.abc import Iterable

import torch
from torch import Tensor


class RunningLatentStats:
    """Exponential averages of z and z^2 per channel over the batches seen (as in batch normalisation, Ioffe 2015).

    Divided by the weight gathered so far, so that the first batches already count in full (as Adam's averages are).
    """

    def __init__(self, num_channels: int, device: torch.device, decay: float = 0.999) -> None:
        self._decay = decay
        self.tensors = {
            name: torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in (("weight", ()), ("total", (num_channels,)), ("square", (num_channels,)))
        }

    @torch.no_grad()
    def add(self, latents: Tensor) -> None:
        """Count raw latents [B,Z,h,w]."""
        z = latents.detach().float()
        self._lerp("weight", torch.ones((), device=z.device))
        self._lerp("total", z.mean(dim=(0, 2, 3)))
        self._lerp("square", z.square().mean(dim=(0, 2, 3)))

    def mean_and_var(self) -> tuple[Tensor, Tensor] | None:
        """Mean [Z] and variance [Z], float32; None before the first batch."""
        weight = self.tensors["weight"]
        if weight == 0:
            return None
        mean, square = self.tensors["total"] / weight, self.tensors["square"] / weight
        return mean.float(), (square - mean.square()).clamp_min(0).float()

    def _lerp(self, name: str, value: Tensor) -> None:
        self.tensors[name].lerp_(value.double(), 1.0 - self._decay)


@torch.no_grad()
def mean_and_var_of(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [Z] and variance [Z], float32, of equally large batches of raw latents [B,Z,h,w], each counting the same."""
    moments = [torch.stack([z.double().mean(dim=(0, 2, 3)), z.double().square().mean(dim=(0, 2, 3))]) for z in batches]
    mean, square = torch.stack(moments).mean(dim=0)
    return mean.float(), (square - mean.square()).clamp_min(0).float()
