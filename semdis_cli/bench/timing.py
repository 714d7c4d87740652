"""Repeated timing: of one function in rounds of about equal length, and of all tasks of a stage in its threads."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from semdis_cli.bench.limit import Resource, Spread, StageCost
from semdis_cli.model.device_time import collecting
from semdis_cli.pipeline.workers import Workers
from semdis_cli.stops import look

READ_IMAGES, MODEL_ENCODE, WRITE_LATENTS = "reading images", "model encode", "writing latents"
READ_LATENTS, MODEL_DECODE = "reading latents", "model decode"
WRITE_IMAGES, PUBLISH_IMAGES = "writing images", "publishing files"

_TASKS_A_THREAD = 2  # at least
_LEAST_S = 1e-9  # a clock may stand still

T = TypeVar("T")
Task = Callable[[], T]


@dataclass(frozen=True)
class Effort:
    """Length of a measurement: rounds that do not count, rounds that do, and about the seconds of each."""

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
        """Return units a second, times `per_unit`."""
        return Spread.of([per_unit * self.num_units / seconds for seconds in self.seconds])

    def unit_s(self) -> Spread:
        """Return the seconds of a unit."""
        return Spread.of([seconds / self.num_units for seconds in self.seconds])


def time_rounds(run: Callable[[int], object], effort: Effort, *, multiple: int = 1) -> Rounds:
    """Time `run(num_units)` as `effort` says; the number of units, a multiple of `multiple`, follows from the warm-up.

    `run` returns when its work is done, on an accelerator too.
    """
    warm_s = min(elapsed_s(run, multiple) for _ in range(effort.num_warmup_rounds + 1))
    num_units = multiple * max(1, round(effort.round_s / warm_s))
    return Rounds(num_units, tuple(elapsed_s(run, num_units) for _ in range(effort.num_rounds)))


def elapsed_s(run: Callable[[int], object], num_units: int) -> float:
    """Return the seconds that `run(num_units)` takes. Raises `StoppedError` if a signal asked for it before."""
    look()
    started = time.perf_counter()
    run(num_units)
    return max(time.perf_counter() - started, _LEAST_S)


@dataclass(frozen=True)
class StageBench:
    """Runs a stage by itself, with the threads that it has in a run."""

    num_images: int
    workers: Workers
    is_on_cpu: bool
    effort: Effort

    def run(
        self, name: str, tasks: Sequence[Task[T]], copies: Sequence[int] | None = None
    ) -> tuple[list[T], StageCost]:
        """Time `tasks`, all that a stage has to do; also returns what they gave.

        `copies`: how many times each task's images are there, default once. Few tasks are run several times in a round,
        so that every thread is at work.
        """
        place: tuple[_Submit[T], Resource, int] = self._place(name)
        submit, resource, num_threads = place
        again = -(-_TASKS_A_THREAD * num_threads // len(tasks))
        times = [again * count for count in copies or [1] * len(tasks)] * again
        self._run_all(tasks[:: max(1, len(tasks) // num_threads)], submit)
        rounds: list[tuple[float, float]] = []
        results: list[_Done[T]] = []
        started = time.perf_counter()
        while not rounds or (len(rounds) < self.effort.num_rounds and not self._is_over(started)):
            results = []  # or those of two rounds would be held
            results = self._run_all([*tasks] * again, submit)
            done = list(zip(results, times, strict=True))
            rounds.append((sum(one.thread_s / n for one, n in done), sum(one.cpu_s / n for one, n in done)))
            del done
        cost = StageCost.of(name, resource, num_threads, self.num_images, rounds)
        return [one.value for one in results[: len(tasks)]], cost

    def warm_up(self, name: str, tasks: Iterable[Task[T]]) -> None:
        """Run `tasks` of a stage untimed: the first of their kind, which take longer."""
        place: tuple[_Submit[T], Resource, int] = self._place(name)
        self._run_all(list(tasks), place[0])

    def _run_all(self, tasks: Sequence[Task[T]], submit: "_Submit[T]") -> "list[_Done[T]]":
        return [self.workers.result(future) for future in [submit(_timed, task) for task in tasks]]

    def _is_over(self, started: float) -> bool:
        """Tell whether the time for a stage is over: large images would take minutes a round."""
        return time.perf_counter() - started > self.effort.num_rounds * self.effort.round_s

    def _place(self, name: str) -> "tuple[_Submit[T], Resource, int]":
        """Return where the tasks of a stage run, the resource that they share with others, and how many run at once."""
        if name == PUBLISH_IMAGES:
            return self.workers.submit_disk, "disk", self.workers.num_disk_threads
        if name == WRITE_LATENTS:
            return self.workers.submit_disk, "disk", 1  # one shard at a time
        if name not in {MODEL_ENCODE, MODEL_DECODE}:
            return self.workers.submit, "cores", self.workers.num_threads
        resource: Resource = "cores" if self.is_on_cpu else "accelerator"
        return self.workers.submit_model, resource, self.workers.num_model_threads


_Submit = Callable[..., "Future[_Done[T]]"]


@dataclass(frozen=True)
class _Done(Generic[T]):
    """The result of a task, and the seconds that it took of its thread (or of a CUDA device), and of a core."""

    value: T
    thread_s: float
    cpu_s: float


def _timed(task: Task[T]) -> "_Done[T]":
    started, cpu_started = time.perf_counter(), time.thread_time()
    with collecting() as device_time:
        value = task()
    thread_s, cpu_s = time.perf_counter() - started, time.thread_time() - cpu_started
    device_s = device_time.seconds()
    return _Done(value, thread_s if device_s is None else device_s, cpu_s)
