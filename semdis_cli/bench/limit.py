"""Figures: their spread, how fast a run could be if nothing ever waited, what holds it up. Pure arithmetic."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

Resource = Literal["cores", "accelerator", "disk"]
_REACHED = 0.9  # of the limit: what is below it is worth a word
_SLOWER = 1.05  # stages beside each other: less may be chance
_WORTHWHILE = 1.05  # times the limit: what a setting must bring to be named


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a figure over `num_rounds` rounds."""

    median: float
    lower_quartile: float
    upper_quartile: float
    num_rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Compute the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper, len(values))

    @classmethod
    def over(cls, spreads: Sequence["Spread"]) -> Self:
        """Join spreads of one figure at several times, which count alike: what changed between them shows.

        That is the lowest of the lower quartiles, and the highest of the upper ones.
        """
        return cls(
            statistics.median(one.median for one in spreads),
            min(one.lower_quartile for one in spreads),
            max(one.upper_quartile for one in spreads),
            sum(one.num_rounds for one in spreads),
        )


@dataclass(frozen=True)
class StageCost:
    """Time that one stage takes for an image, measured by itself with all its threads at work.

    `thread_s_per_image`: wall-clock seconds of one of its `num_threads` threads; of a model on CUDA, seconds that the
    device computes for one of as many calls at once. `cpu_s_per_image`: seconds of a core in that, and beside it.
    `resource`: what it keeps busy, and shares with other stages.
    """

    name: str
    resource: Resource
    num_threads: int
    num_images: int
    thread_s_per_image: Spread
    cpu_s_per_image: float
    images_per_s: float

    @classmethod
    def of(
        cls, name: str, resource: Resource, num_threads: int, num_images: int, rounds: Sequence[tuple[float, float]]
    ) -> "StageCost":
        """Compute the cost from `rounds`: seconds of threads and of cores of all images together, for each round."""
        thread_s = Spread.of([max(seconds, 1e-9) / num_images for seconds, _ in rounds])
        cpu_s = Spread.of([seconds / num_images for _, seconds in rounds]).median
        return cls(name, resource, num_threads, num_images, thread_s, cpu_s, num_threads / thread_s.median)

    @classmethod
    def over(cls, costs: Sequence["StageCost"]) -> "StageCost":
        """Join the costs of one stage at several times."""
        thread_s = Spread.over([cost.thread_s_per_image for cost in costs])
        return replace(
            costs[0],
            thread_s_per_image=thread_s,
            cpu_s_per_image=statistics.median(cost.cpu_s_per_image for cost in costs),
            images_per_s=costs[0].num_threads / thread_s.median,
        )


@dataclass(frozen=True)
class Limit:
    """The rate of a run in which no thread that could work ever waits.

    `resource`: what is busy all the time then, and `stages`: the shares of its time that the stages take, the largest
    first. `without_first_images_per_s`: the limit if that first stage cost nothing; None where nothing else is left.
    """

    images_per_s: float
    resource: Resource
    stages: dict[str, float]
    without_first_images_per_s: float | None

    @property
    def binding_stage(self) -> str:
        """Return the stage that takes most of the busiest resource."""
        return next(iter(self.stages))


def find_limit(stages: Sequence[StageCost], num_threads: int) -> Limit:
    """Return the work-conserving limit: 1 / sum(cost / parallelism) over the stages of the busiest resource.

    Stages that share a resource take turns on it, those of different resources overlap. What waits for the disk or for
    an accelerator takes some of the cores too. `num_threads`: that CPU work is done by.
    """
    costs = _resource_costs(stages, num_threads)
    resource = max(costs, key=lambda name: sum(costs[name].values()))
    total_s = sum(costs[resource].values())
    shares = sorted(((cost / total_s, name) for name, cost in costs[resource].items()), reverse=True)
    others = [stage for stage in stages if stage.name != shares[0][1]]
    without = find_limit(others, num_threads).images_per_s if others else None
    return Limit(1 / total_s, resource, {name: share for share, name in shares}, without)


def _resource_costs(stages: Sequence[StageCost], num_threads: int) -> dict[Resource, dict[str, float]]:
    """Return the seconds that an image takes of each resource, by stage."""
    costs: dict[Resource, dict[str, float]] = {}
    for stage in stages:
        costs.setdefault(stage.resource, {})[stage.name] = 1 / stage.images_per_s
        if stage.resource != "cores":
            costs.setdefault("cores", {})[stage.name] = stage.cpu_s_per_image / num_threads
    return {resource: by_stage for resource, by_stage in costs.items() if sum(by_stage.values()) > 0}


def with_cost(stages: Sequence[StageCost], changed: StageCost) -> list[StageCost]:
    """Return `stages` with `changed` in the place of the one of its name."""
    return [changed if stage.name == changed.name else stage for stage in stages]


def with_threads(stages: Sequence[StageCost], before: int, after: int) -> list[StageCost]:
    """Scale `stages` to `after` threads for CPU work instead of `before`, each on a core of its own.

    Model calls of several threads have fewer threads that make them, in the same proportion.
    """
    return [_scaled(stage, before, after) if stage.resource == "cores" else stage for stage in stages]


def _scaled(stage: StageCost, before: int, after: int) -> StageCost:
    num_threads = max(1, stage.num_threads * after // before)
    return replace(stage, num_threads=num_threads, images_per_s=num_threads / stage.thread_s_per_image.median)


@dataclass(frozen=True)
class Setting:
    """A setting that was not used, and the limit that it would have."""

    option: str
    images_per_s: float


@dataclass(frozen=True)
class Reached:
    """Share of its limit that a run reached, and share of the threads' time in which nothing was done."""

    share_of_limit: float
    wait_share: float

    @property
    def slowdown(self) -> float:
        """Return the time of the stages beside each other, over their time by themselves."""
        return (1 - self.wait_share) / self.share_of_limit


def explain(verb: str, limit: Limit, reached: Reached, others: Sequence[Setting]) -> str:
    """Say what holds `verb` up and what would help, as far as the figures tell; for a person.

    `others`: settings that could be used instead.
    """
    (first, first_share), *stages = limit.stages.items()
    rest = "".join(f", {name} {share:.0%}" for name, share in stages if share >= 0.05)
    sentences = [f"{verb} is bound by {first}: it takes {first_share:.0%} of {_NAMES[limit.resource]}{rest}."]
    best = max(others, key=lambda other: other.images_per_s, default=None)
    if best is not None and best.images_per_s > _WORTHWHILE * limit.images_per_s:
        sentences.append(f"{best.option} would raise the limit from {_rate(limit)} to {_rate(best)} images/s.")
    elif limit.without_first_images_per_s is not None:
        without = limit.without_first_images_per_s
        sentences.append(f"Were it free, the limit would be {without:.1f} images/s instead of {_rate(limit)}.")
    if reached.share_of_limit < _REACHED:
        sentences.append(_shortfall(reached, limit.resource))
    return " ".join(sentences)


def _shortfall(reached: Reached, resource: Resource) -> str:
    """Say how much was reached, and why not more, as far as the figures tell."""
    reasons = [f"threads waited for {reached.wait_share:.0%} of their time"]
    if resource == "cores" and reached.slowdown > _SLOWER:
        reasons.append(f"beside each other the stages took {reached.slowdown:.1f} times as long as by themselves")
    return f"The run reached {reached.share_of_limit:.0%} of the limit: {', and '.join(reasons)}."


_NAMES: dict[Resource, str] = {
    "cores": "the threads' time",
    "accelerator": "the accelerator's time",
    "disk": "the disk's time",
}


def _rate(rate: Limit | Setting) -> str:
    return f"{rate.images_per_s:.1f}"
