"""Fréchet distance between the features of two sets of images (Heusel et al. 2017)."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MIN_IMAGES = 2049  # one more than there are features: a covariance of fewer images has no full rank


@dataclass
class FeatureSums:
    """Sums of the features of `num` images, float64: `total` [D], and `products` [D,D] of each two features."""

    num: int
    total: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def nothing(cls, num_features: int) -> Self:
        """Return the sums of no images."""
        return cls(0, np.zeros(num_features), np.zeros((num_features, num_features)))

    def add(self, features: Tensor) -> None:
        """Add those of N more images, [N,D]."""
        values = features.double().numpy()
        self.num += len(values)
        self.total += values.sum(axis=0)
        self.products += values.T @ values

    def merge(self, other: "FeatureSums") -> None:
        """Add those that another process or shard has summed."""
        self.num += other.num
        self.total += other.total
        self.products += other.products

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean [D]."""
        return self.total / self.num

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The covariance [D,D], by N - 1."""
        return (self.products - np.outer(self.total, self.mean)) / (self.num - 1)


def why_none(num_images: int) -> str | None:
    """Return what to say instead of a distance where there are too few images for one; None where there are enough."""
    if num_images >= MIN_IMAGES:
        return None
    return f"rFID needs {MIN_IMAGES:,} images or more, not {num_images:,}: of fewer it tells their number, not quality"


def frechet_distance(a: FeatureSums, b: FeatureSums) -> float:
    """Return |mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2), A and B the covariances; both of more than D images.

    The root's trace is that of (A^1/2 B A^1/2)^1/2, which is symmetric: eigenvalues are real, and those that rounding
    makes negative are 0.
    """
    assert min(a.num, b.num) > len(a.total), f"{a.num} and {b.num} images tell nothing of {len(a.total)} features"
    one, other = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    apart = np.square(a.mean - b.mean).sum()
    return max(0.0, float(apart + one.trace() + other.trace() - 2 * common))
