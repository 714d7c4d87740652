"""Per-channel statistics of stored latents, summed so that no order of work and no resume changes a digit."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.store.checks import check_count
from semdis_cli.store.quantised import dequantise

_IMAGES_AT_ONCE = 8  # in float64 what is fast to go through several times
# Whitened latents beyond these were hardly whitened by the statistics of the weights that made them.
_MOST_ABS_MEAN = 1.0
_LEAST_STD, _MOST_STD = 0.3, 3.0


@dataclass(frozen=True, slots=True)
class ChannelSums:
    """Positions counted, and per channel the sum and the sum of squares, float64."""

    count: int
    total: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def zero(cls, channels: int) -> Self:
        """Sums of nothing."""
        return cls(0, (0.0,) * channels, (0.0,) * channels)

    @classmethod
    def of(cls, latents: Tensor) -> Self:
        """Sums over `latents` [Z,h,w]: one image, in NumPy so that the number of threads cannot matter."""
        values = latents.float().numpy().reshape(latents.shape[0], -1).astype(np.float64)
        return cls(values.shape[1], tuple(values.sum(1).tolist()), tuple(np.square(values).sum(1).tolist()))

    @classmethod
    def of_all(cls, latents: Tensor, scale: Tensor | None = None) -> Self:
        """Sums over `latents` [N,Z,h,w]: digit for digit as if they were added one by one.

        `scale` [N,Z,1,1]: of those that are quantised.
        """
        return cls.zero(latents.shape[1]).plus_all(latents, scale)

    def plus_all(self, latents: Tensor, scale: Tensor | None = None) -> Self:
        """These sums, to which `latents` are added as in `of_all`: however many come at once, the digits are the same.

        An image is summed by NumPy, and the images one after the other, in float64.
        """
        total, squares = np.array([self.total]), np.array([self.squares])
        for first in range(0, len(latents), _IMAGES_AT_ONCE):
            rows = slice(first, first + _IMAGES_AT_ONCE)
            images = latents[rows] if scale is None else dequantise(latents[rows], scale[rows])
            exact = images.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
            values = exact.numpy().reshape(len(images), latents.shape[1], -1)
            total = _sum_after(total, values)
            squares = _sum_after(squares, np.square(values, out=values))
        count = self.count + latents.shape[0] * latents.shape[2] * latents.shape[3]
        return type(self)(count, tuple(total[0].tolist()), tuple(squares[0].tolist()))

    @property
    def are_finite(self) -> bool:
        """Tell whether no infinity and no NaN was among what was summed."""
        return bool(np.isfinite(self.squares).all())

    def __add__(self, other: Self) -> "ChannelSums":
        return ChannelSums(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def __sub__(self, other: Self) -> "ChannelSums":
        return ChannelSums(
            self.count - other.count,
            tuple(a - b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a - b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each channel, [Z]; zeros if nothing was counted."""
        count = max(self.count, 1)
        mean = np.array(self.total) / count
        return mean, np.sqrt(np.maximum(np.array(self.squares) / count - mean**2, 0.0))

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Return the same, rounded to six digits."""
        mean, std = self.moments()
        return [round(float(x), 6) for x in mean], [round(float(x), 6) for x in std]

    def far_off(self) -> dict[str, float] | None:
        """Compare whitened latents, summed here, with mean 0 and standard deviation 1; None if they are about right.

        `abs_mean`: median over the channels of |mean|, at most 1; `std`: that of the standard deviation, 0.3 to 3.
        Both are given if one of them is outside.
        """
        if self.count == 0:
            return None
        mean, std = map(np.array, self.mean_std())
        abs_mean, middle_std = float(np.median(np.abs(mean))), float(np.median(std))
        if abs_mean <= _MOST_ABS_MEAN and _LEAST_STD <= middle_std <= _MOST_STD:
            return None
        return {"abs_mean": round(abs_mean, 3), "std": round(middle_std, 3)}

    def to_json(self) -> dict[str, Any]:
        """Floats survive JSON exactly (shortest repr)."""
        return {"count": self.count, "total": list(self.total), "squares": list(self.squares)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Inverse of `to_json`. Raises one of `MALFORMED` for anything that cannot be sums."""
        total, squares = tuple(map(float, fields["total"])), tuple(map(float, fields["squares"]))
        if len(total) != len(squares) or not all(map(_is_sum, (*total, *squares))):
            raise ValueError("the sums are not finite numbers, one of each kind for a channel")
        return cls(check_count(fields["count"]), total, squares)


def _sum_after(before: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add `values` [N,Z,n] to sums [1,Z], in the order of their rows."""
    return np.add.accumulate(np.concatenate([before, values.sum(2)]))[-1:]


def _is_sum(value: float) -> bool:
    """Tell whether `value` can be the sum of (squared) float32 values: so its square can be taken too."""
    return abs(value) < 1e100
