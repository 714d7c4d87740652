"""Repeated timing: warm-up, rounds of about equal length, and what is said of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

_LEAST_S = 1e-9  # a clock may stand still


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a figure over `num_rounds` rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float
    num_rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper, len(values))

    @classmethod
    def over(cls, spreads: Sequence["Spread"]) -> Self:
        """Of a figure that was measured at several times, which count alike: what changed between them shows.

        That is the lowest of the lower quartiles, and the highest of the upper ones.
        """
        return cls(
            statistics.median(one.median for one in spreads),
            min(one.lower_quartile for one in spreads),
            max(one.upper_quartile for one in spreads),
            sum(one.num_rounds for one in spreads),
        )


@dataclass(frozen=True)
class Effort:
    """How long is measured: rounds before anything counts, rounds that count, and about how long each of them takes."""

    num_warmup_rounds: int
    num_rounds: int
    round_s: float


QUICK = Effort(num_warmup_rounds=1, num_rounds=3, round_s=0.15)
THOROUGH = Effort(num_warmup_rounds=2, num_rounds=9, round_s=0.8)


@dataclass(frozen=True)
class Rounds:
    """Seconds of each round, of which each was `num_units` of work."""

    num_units: int
    seconds: tuple[float, ...]

    def rate(self, per_unit: float = 1.0) -> Spread:
        """Units a second, times `per_unit`."""
        return Spread.of([per_unit * self.num_units / seconds for seconds in self.seconds])

    def unit_s(self) -> Spread:
        """Seconds a unit."""
        return Spread.of([seconds / self.num_units for seconds in self.seconds])


def time_rounds(run: Callable[[int], object], effort: Effort, *, multiple: int = 1) -> Rounds:
    """Time `run(num_units)` as `effort` says; the number of units, a multiple of `multiple`, follows from the warm-up.

    `run` returns when its work is done, on an accelerator too.
    """
    warm_s = min(elapsed_s(run, multiple) for _ in range(effort.num_warmup_rounds + 1))
    num_units = multiple * max(1, round(effort.round_s / warm_s))
    return Rounds(num_units, tuple(elapsed_s(run, num_units) for _ in range(effort.num_rounds)))


def elapsed_s(run: Callable[[int], object], num_units: int) -> float:
    """Seconds that `run(num_units)` takes."""
    started = time.perf_counter()
    run(num_units)
    return max(time.perf_counter() - started, _LEAST_S)
