"""Fréchet distance between the features of two sets of images (Heusel et al. 2017)."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

MIN_IMAGES = 2049  # one more than there are features: a covariance of fewer images has no full rank


@dataclass
class FeatureSums:
    """Sums of the features of `num` images, float64: `total` [D], and `products` [D,D] of each two features."""

    num: int
    total: Tensor
    products: Tensor

    @classmethod
    def nothing(cls, num_features: int) -> Self:
        """Return the sums of no images."""
        total = torch.zeros(num_features, dtype=torch.float64)
        return cls(0, total, torch.zeros(num_features, num_features, dtype=torch.float64))

    def add(self, features: Tensor) -> None:
        """Add those of N more images, [N,D]."""
        values = features.double()
        self.num += len(values)
        self.total += values.sum(0)
        self.products.addmm_(values.T, values)

    def merge(self, other: "FeatureSums") -> None:
        """Add those that another process or shard has summed."""
        self.num += other.num
        self.total += other.total
        self.products += other.products

    @property
    def mean(self) -> Tensor:
        """The mean [D]."""
        return self.total / self.num

    @property
    def covariance(self) -> Tensor:
        """The covariance [D,D], by N - 1."""
        return (self.products - torch.outer(self.total, self.mean)) / (self.num - 1)


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
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    common = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return max(0.0, float(apart + one.trace() + other.trace() - 2 * common))
