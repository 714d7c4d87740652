"""Shares of right answers, and how sure they are."""

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_Z_95 = 1.959963984540054  # of the normal distribution: 95 % lie within


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers among `images`, with its interval of 95 % (Wilson 1927)."""

    images: int
    correct: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: NDArray[np.bool_]) -> Self:
        """Count answers, [N], N at least 1.

        The interval is that of a share p whose test of n answers does not refuse the one found: with z = 1.96,
        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).
        """
        images, right = len(correct), int(correct.sum())
        share, square = right / images, _Z_95**2 / images
        middle = share + square / 2
        width = _Z_95 * sqrt(share * (1 - share) / images + square / images / 4)
        low, high = (middle - width) / (1 + square), (middle + width) / (1 + square)
        return cls(images, right, share, min(share, max(0.0, low)), max(share, min(1.0, high)))  # rounding

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class AccuracyDifference:
    """Difference of two shares of right answers to the same `images`, with its interval of 95 %.

    `better`, `worse`: images that only one of both has right.
    """

    images: int
    better: int
    worse: int
    difference: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> Self:
        """Compare answers, [N], with those of a baseline to the same N images.

        The interval is Wald's after half an image was added to each of the four cells (Agresti and Min 2005), which
        holds for few images and for shares near 0 and 1.
        """
        images = len(correct)
        better, worse = int((correct & ~baseline).sum()), int((~correct & baseline).sum())
        shift, total = better - worse, images + 2
        width = _Z_95 * sqrt(better + worse + 1 - shift**2 / total) / total
        low, high = shift / total - width, shift / total + width
        return cls(images, better, worse, shift / images, max(-1.0, low), min(1.0, high))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
