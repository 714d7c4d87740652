"""Statistics of each channel of latents, summed in a stream."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_DEAD = 0.01  # of the median standard deviation


class ChannelMoments:
    """Sums over positions, float64: the first four powers of each channel, and products with the next position.

    They are taken of what differs from the first position that was added.
    """

    def __init__(self, num_channels: int) -> None:
        self.count = self._num_pairs = 0
        self._origin = torch.zeros(num_channels, 1, 1, dtype=torch.float64)
        self._powers = torch.zeros(4, num_channels, dtype=torch.float64)
        self._pairs = torch.zeros(2, num_channels, dtype=torch.float64)  # sums of a + b, and of ab

    def add(self, latents: Tensor) -> None:
        """Count latents [N,Z,h,w]; the grid may be another one each time."""
        exact = latents.double()
        if not self.count:
            self._origin = exact[0, :, :1, :1].clone()
        exact = exact - self._origin
        self.count += exact.numel() // exact.shape[1]
        power = torch.ones_like(exact)
        for number in range(4):
            power = power * exact
            self._powers[number] += power.sum((0, 2, 3))
        for one, other in ((exact[..., 1:], exact[..., :-1]), (exact[..., 1:, :], exact[..., :-1, :])):
            self._num_pairs += one.numel() // one.shape[1]
            self._pairs += torch.stack([(one + other).sum((0, 2, 3)), (one * other).sum((0, 2, 3))])

    def describe(self) -> dict[str, Any]:
        """Return the statistics as plain values; those of shape are None for a channel that does not vary.

        `neighbour_correlation`: mean over the channels that vary of the correlation of positions beside and below one
        another; None if there are none.
        """
        first, second, third, fourth = (self._powers / max(self.count, 1)).numpy()
        variance = np.maximum(second - first**2, 0.0)
        std, varies = np.sqrt(variance), variance > 0
        third = third - 3 * first * second + 2 * first**3
        fourth = (
            fourth - 4 * first * (self._powers[2].numpy() / max(self.count, 1)) + 6 * first**2 * second - 3 * first**4
        )
        safe = np.where(varies, std, 1.0)
        return {
            "positions": self.count,
            "mean": (first + self._origin.flatten().numpy()).tolist(),
            "std": std.tolist(),
            "skewness": _where(varies, third / safe**3),
            "excess_kurtosis": _where(varies, fourth / safe**4 - 3),
            "dead_channels": np.flatnonzero(std <= _DEAD * np.median(std)).tolist(),
            "neighbour_correlation": self._neighbours(first, safe**2, varies),
        }

    def _neighbours(
        self, mean: NDArray[np.float64], variance: NDArray[np.float64], varies: NDArray[np.bool_]
    ) -> float | None:
        if not self._num_pairs or not varies.any():
            return None
        sums, products = (self._pairs / self._num_pairs).numpy()
        covariance = products - mean * sums + mean**2
        return float((covariance / variance)[varies].mean())


def _where(is_known: NDArray[np.bool_], values: NDArray[np.float64]) -> list[float | None]:
    return [value if known else None for known, value in zip(is_known.tolist(), values.tolist(), strict=True)]
