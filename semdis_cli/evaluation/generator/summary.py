"""Curves -> figures: relative losses, intervals over seeds, and after how many steps a loss is reached."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semdis_cli.evaluation.generator.train import Point

# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom: as many seeds as there may be, less one.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
DROPS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval; None of one seed."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return mean -/+ t s / sqrt(n) (Student 1908) of n `values`, s their standard deviation with n - 1."""
        n = len(values)
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, None, None)
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        half = _T[n - 2] * math.sqrt(variance / n)
        return cls(mean, mean - half, mean + half)

    def to_json(self) -> dict[str, float | None]:
        """As plain values, numbers to six digits."""
        values = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: None if value is None else float(f"{value:.6g}") for name, value in values.items()}


@dataclass(frozen=True)
class SetCurves:
    """The curves of one set, one a seed, with points at the same steps.

    `linear`: of each bin of time what the best linear prediction from single values leaves; `constant`: the best
    constant.
    """

    title: str
    curves: tuple[tuple[Point, ...], ...]
    linear: tuple[float, ...]
    constant: float

    @property
    def steps(self) -> list[int]:
        """Steps of the points."""
        return [point.step for point in self.curves[0]]

    def relative(self) -> list[list[float]]:
        """Return the held-out loss over that of the best linear prediction, of each seed at each point."""
        level = sum(self.linear) / len(self.linear)
        return [[point.loss / level for point in curve] for curve in self.curves]

    def relative_at(self, number: int) -> Interval:
        """Return the same of one point over the seeds."""
        return Interval.of([curve[number] for curve in self.relative()])

    def last_by_time(self) -> list[Interval]:
        """Return the relative loss in each bin of time at the last point."""
        return [
            Interval.of([curve[-1].by_time[number] / level for curve in self.curves])
            for number, level in enumerate(self.linear)
        ]

    def to_json(self, batch_size: int) -> dict[str, Any]:
        """Return all figures of the curves as plain values."""
        points = [self._point_json(number, batch_size) for number in range(len(self.steps))]
        own_drops = {f"{share:g}": self._steps_to_drop(share) for share in DROPS}
        return {"points": points, "by_time": self._by_time_json(), "steps_to_share_of_own_drop": own_drops}

    def _point_json(self, number: int, batch_size: int) -> dict[str, Any]:
        points = [curve[number] for curve in self.curves]
        trained = [point.train_loss for point in points if point.train_loss is not None]
        return {
            "step": points[0].step,
            "images_seen": points[0].step * batch_size,
            "train_loss": Interval.of(trained).to_json() if trained else None,
            "held_out_loss": Interval.of([point.loss for point in points]).to_json(),
            "relative_loss": self.relative_at(number).to_json(),
            "share_of_variance": Interval.of([point.loss / self.constant for point in points]).to_json(),
        }

    def _by_time_json(self) -> list[dict[str, Any]]:
        num_bins = len(self.linear)
        return [
            {
                "t": [number / num_bins, (number + 1) / num_bins],
                "held_out_loss": Interval.of([curve[-1].by_time[number] for curve in self.curves]).to_json(),
                "linear_loss": float(f"{level:.6g}"),
                "constant_loss": float(f"{self.constant:.6g}"),
                "relative_loss": relative.to_json(),
            }
            for number, (level, relative) in enumerate(zip(self.linear, self.last_by_time(), strict=True))
        ]

    def _steps_to_drop(self, share: float) -> dict[str, float | None] | None:
        """Return the steps in which the loss comes down by a share of the whole way from first to lowest point."""
        needed = []
        for curve in self.relative():
            target = curve[0] - share * (curve[0] - min(curve))
            needed.append(steps_to(self.steps, curve, target))
        return over_seeds(needed)


def steps_to(steps: Sequence[int], values: Sequence[float], target: float) -> float | None:
    """Return the step at which `values` first come down to `target`, straight between points; None if never."""
    if values[0] <= target:
        return float(steps[0])
    for number in range(1, len(steps)):
        above, below = values[number - 1], values[number]
        if below <= target:
            return steps[number - 1] + (above - target) / (above - below) * (steps[number] - steps[number - 1])
    return None


def over_seeds(needed: Sequence[float | None]) -> dict[str, float | None] | None:
    """Return the interval of steps over seeds as plain values; None if with some seed the loss was never reached."""
    reached = [steps for steps in needed if steps is not None]
    return Interval.of(reached).to_json() if len(reached) == len(needed) else None


def difference(one: SetCurves, other: SetCurves) -> dict[str, Any]:
    """Compare two sets seed by seed: their last relative losses, and when `one` reaches what `other` ends at.

    Below 0, `one` has the lower loss. Where that is no further below 0 than at first, when nothing is learned, it is
    chance of the images that are measured.
    """
    pairs = list(zip(one.relative(), other.relative(), strict=True))
    return {
        "set": one.title,
        "against": other.title,
        "relative_loss": Interval.of([mine[-1] - theirs[-1] for mine, theirs in pairs]).to_json(),
        "relative_loss_at_first": Interval.of([mine[0] - theirs[0] for mine, theirs in pairs]).to_json(),
        "steps_to_its_last_loss": over_seeds([steps_to(one.steps, mine, theirs[-1]) for mine, theirs in pairs]),
    }
