"""Covariance of the channels of latents, summed in a stream, and what its eigenvalues say."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_POSITIONS_AT_ONCE = 1 << 13  # in float64


class CovarianceSums:
    """Sums over positions, in float64: their number, each channel, and each product of two channels.

    They are taken of what differs from the first position, so that what does not vary has no variance.
    """

    def __init__(self, num_channels: int) -> None:
        self.count = 0
        self._origin = np.zeros(num_channels)
        self._total = np.zeros(num_channels)
        self._products = np.zeros((num_channels, num_channels))

    def add(self, positions: NDArray[np.float32]) -> None:
        """Count positions [P,Z]; the order of calls decides the last digits."""
        exact = positions.astype(np.float64)
        if not self.count and len(exact):
            self._origin = exact[0].copy()
        exact -= self._origin
        self.count += len(exact)
        self._total += exact.sum(0)
        self._products += exact.T @ exact

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel, [Z]; zeros if nothing was counted."""
        return self._origin + self._total / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the channels over all positions (divided by their number), [Z,Z]."""
        shift = self._total / max(self.count, 1)
        return self._products / max(self.count, 1) - np.outer(shift, shift)


def positions_of(latents: Tensor) -> list[NDArray[np.float32]]:
    """Return latents [N,Z,h,w] as positions [P,Z] float32, row by row of one image after the other, in handy parts."""
    num_images = max(1, _POSITIONS_AT_ONCE // max(1, latents.shape[2] * latents.shape[3]))
    channels_last = (part.float().permute(0, 2, 3, 1) for part in latents.split(num_images))
    return [part.reshape(-1, latents.shape[1]).numpy() for part in channels_last]


def principal_components(
    covariance: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the eigenvalues of a covariance [Z,Z], largest first, and the components [Z,Z] in the same order, as rows.

    The largest entry of each component (in size, the first of several) is positive. Rounding below 0 is 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    components = vectors.T[::-1]
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    return np.maximum(values[::-1], 0.0), components * np.where(largest < 0, -1.0, 1.0)


def explained_variance(eigenvalues: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the share of the variance of each component; zeros where nothing varies."""
    total = float(eigenvalues.sum())
    return tuple((eigenvalues / total).tolist()) if total > 0 else (0.0,) * len(eigenvalues)


def effective_rank(explained: tuple[float, ...]) -> float:
    """Return exp of the entropy of the shares (Roy and Vetterli 2007): 1 to the number of channels; 0 of nothing."""
    shares = np.array([share for share in explained if share > 0])
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def participation_ratio(explained: tuple[float, ...]) -> float:
    """Return 1 / sum of the squared shares: how many equal components would spread as much; 0 of nothing."""
    squares = float(np.square(explained).sum())
    return 1 / squares if squares else 0.0


def describe_spectrum(explained: tuple[float, ...]) -> dict[str, Any]:
    """Return the shares and both ranks as plain values."""
    return {
        "explained_variance": list(explained),
        "effective_rank": effective_rank(explained),
        "participation_ratio": participation_ratio(explained),
    }
