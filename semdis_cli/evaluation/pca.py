"""Latents as colours: the three first principal components of a whole set, so that a colour means the same in all."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.evaluation.position_sample import PositionSample
from semdis_cli.evaluation.spectrum import CovarianceSums, explained_variance, positions_of, principal_components

LOW, HIGH = 1.0, 99.0  # percentiles that become 0 and 255
_MIDDLE = 128  # where a component does not vary
_LEAST_SHARE = 1e-12  # of the variance: below it there is nothing but rounding


@dataclass(frozen=True, eq=False)
class LatentBasis:
    """Basis of the colours of a set.

    `mean` [Z] and `components` [3,Z], float64, rows of length 1 (zeros where nothing more varies); `low` and `high`
    [3]: 1st and 99th percentile of each component. `explained`: share of the variance of every component, also of those
    that are not shown, largest first.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    explained: tuple[float, ...]

    def picture(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return latents [Z,h,w], as they were added to the fit, as colours [3,h,w] uint8: the first one is red."""
        values = latents.double().numpy().reshape(len(self.mean), -1)
        projected = self.components @ (values - self.mean[:, None])
        span = self.high - self.low
        scaled = 255 * (projected - self.low[:, None]) / np.where(span > 0, span, 1.0)[:, None]
        scaled[span == 0] = _MIDDLE
        return scaled.round().clip(0, 255).astype(np.uint8).reshape(3, *latents.shape[1:])

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values: enough to colour other latents in the same way."""
        return {
            "mean": self.mean.tolist(),
            "components": self.components.tolist(),
            "percentiles": [LOW, HIGH],
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "explained_variance": list(self.explained),
        }


class BasisFit:
    """Fits a `LatentBasis` in one stream and bounded memory; equal latents in equal order give an equal basis.

    `sums` are over all positions; percentiles are those of a `sample` of them.
    """

    def __init__(self, num_channels: int) -> None:
        self.sums = CovarianceSums(num_channels)
        self.sample = PositionSample(num_channels)

    def add(self, latents: Tensor) -> None:
        """Count latents [N,Z,h,w], finite and of any floating dtype; the grid may be another one each time."""
        for positions in positions_of(latents):
            self.sums.add(positions)
            self.sample.add(positions)

    def basis(self) -> LatentBasis:
        """Return the basis of what was added; of nothing, one that makes all grey."""
        mean = self.sums.mean
        eigenvalues, every = principal_components(self.sums.covariance)
        explained = explained_variance(eigenvalues)
        components = np.zeros((3, len(mean)))
        for number, share in enumerate(explained[:3]):
            components[number] = every[number] if share > _LEAST_SHARE else 0.0
        positions = self.sample.positions().astype(np.float64)
        projected = (positions - mean) @ components.T if len(positions) else np.zeros((1, 3))
        low, high = np.percentile(projected, (LOW, HIGH), axis=0)
        return LatentBasis(mean, components, low, high, explained)
