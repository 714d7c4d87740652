"""Threads of a run, and the order in which what they give is handed on.

On a CPU all work of a run is done by as many threads as there are cores: a model call is one task of theirs, with the
reading and writing of its images. Threads that have nothing else to do help with these. Beside an accelerator, model
calls have threads of their own.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from itertools import islice
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch

from semdis_cli.memory import available_memory, room_for_images
from semdis_cli.stops import look, wait_for
from semdis_cli.threads import WatchedThreads, unless_stopped

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
_DISK_THREADS = 4  # they wait for the disk, not for a core
_LEAST_MEMORY = 256 << 20  # bytes; with less, one call at a time is tried
_ROUNDING = 1e-9


class Timed(NamedTuple, Generic[T]):
    """A result, and the seconds that it took."""

    value: T
    seconds: float


def timed(function: Callable[..., T], *args: Any) -> Timed[T]:
    """Call `function`, and time it."""
    started = time.perf_counter()
    value = function(*args)
    return Timed(value, time.perf_counter() - started)


def compute_alone() -> None:
    """Let torch compute with this thread alone."""
    torch.set_num_threads(1)


class Workers:
    """All threads of a run: `num_threads` for CPU work, a few that wait for the disk, and where needed for the model.

    Use as a context manager: leaving it drops what has not begun, and waits for what has. `num_model_threads`: threads
    for model calls alone, each a call at a time, beside the others; None: a call takes one of those. `shares_cores`:
    whether the model computes on the same cores. Torch computes with one thread in each, unless a task asks for more.
    `num_processes`: that share the memory of the machine, each with threads of its own.
    """

    def __init__(
        self,
        num_threads: int,
        num_model_threads: int | None = None,
        *,
        shares_cores: bool = True,
        num_processes: int = 1,
    ) -> None:
        self.num_threads = num_threads
        self.num_processes = num_processes
        self.num_model_threads = num_threads if num_model_threads is None else num_model_threads
        self.num_disk_threads = _DISK_THREADS
        self._shares_cores = shares_cores
        self._has_model_threads = num_model_threads is not None
        self._is_left = False
        self._work = self._model = WatchedThreads(num_threads, "semdis-work", compute_alone)
        self._disk = WatchedThreads(_DISK_THREADS, "semdis-disk", compute_alone)
        if num_model_threads is not None:
            self._model = WatchedThreads(num_model_threads, "semdis-model", compute_alone)
        self._leaving = ExitStack()
        self._memory = max(available_memory() // num_processes, _LEAST_MEMORY)
        self.room = room_for_images().shared_by(num_processes)

    def __enter__(self) -> Self:
        self._leaving.callback(torch.set_num_threads, torch.get_num_threads())  # what a thread sets, new ones get
        for executor in self._executors:
            self._leaving.enter_context(executor)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_left = True
        for executor in self._executors:  # nothing new begins in one while another is waited for
            executor.shutdown(wait=False, cancel_futures=True)
        self._leaving.close()

    @property
    def _executors(self) -> set[WatchedThreads]:
        return {self._model, self._work, self._disk}

    def elapsed_s(self, cpu_s: float, model_s: float) -> float:
        """Seconds that so many seconds of CPU work and of model calls take at least, all threads together."""
        both = cpu_s / self.num_threads, model_s / self.num_model_threads
        return sum(both) if self._shares_cores else max(both)

    def share_of_room(self, num_images: int, held_bytes: int, running_bytes: int) -> float:
        """Return the share of the room for calls under way that a model call takes: by memory, and by number.

        It holds `held_bytes` from its reading to the end of its turn, `running_bytes` only while the model runs. A
        quarter of the memory that was available is for the ones, half of it for the others: as long as all threads
        that run the model can have theirs, these do not count. No more images are under way than keep all threads busy.
        """
        num_calls = 3 * self.num_model_threads + -(-4 * self.num_threads // num_images)
        shares = [1 / num_calls, self.share_of_bytes(held_bytes)]
        if self.num_model_threads * running_bytes > self._memory / 2:
            shares.append(running_bytes / (self._memory / 2))
        return max(shares)

    def share_of_bytes(self, held_bytes: int) -> float:
        """Return the share of that room that so many bytes take, which a call holds."""
        return held_bytes / (self._memory / 4)

    def submit(self, function: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `function(*args)`, which computes, called soon."""
        return self._work.submit(function, *args)

    def submit_disk(self, function: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `function(*args)`, which mostly waits for the disk, called beside the others."""
        return self._disk.submit(function, *args)

    def submit_model(self, function: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `function(*args)`, a model call, called soon."""
        return self._model.submit(function, *args)

    def submit_call(self, read: Callable[[T], R], items: Sequence[T], compute: Callable[[list[R]], S]) -> "Future[S]":
        """Have `compute`, a model call, called with what `read` gives for each of `items`."""
        reading = [self.submit(unless_stopped, read, item) for item in items] if self._has_model_threads else None

        def call() -> S:
            # Of what was read `compute` may let go: nobody else holds it
            results = self._spread(read, items) if reading is None else [self.result(reading.pop(0)) for _ in items]
            self._go_on()
            return compute(results)

        return self.submit_model(call)

    def after_call(self, function: Callable[[T], R], items: Sequence[T]) -> "list[Future[R]]":
        """Have `function`, which computes, called for each of `items`, which a model call has given.

        Called in the thread of that call, which does it at once unless it is for the model alone.
        """
        if self._has_model_threads:
            return [self.submit(function, item) for item in items]
        return [done_already(result) for result in self._spread(function, items)]

    def _spread(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call `function` for each of `items` in this thread, and in others that have nothing else to do."""

        def work(box: list[T]) -> R:
            self._go_on()
            return function(box.pop())

        boxes = [[item] for item in items]  # a helper that comes too late holds on to nothing
        helpers = [self.submit(work, box) for box in boxes]
        own = {number: work(boxes[number]) for number, helper in enumerate(helpers) if helper.cancel()}
        return [own[number] if number in own else self.result(helper) for number, helper in enumerate(helpers)]

    def _go_on(self) -> None:
        """Raise `StoppedError` or `CancelledError` where nobody wants the rest of a task any more."""
        look()
        if self._is_left:
            raise CancelledError

    def result(self, future: "Future[T]") -> T:
        """Wait for the result of a task. Raises what it raised, `WorkerDiedError`, or `StoppedError` on a signal."""
        return wait_for(future, self._check)

    def _check(self) -> None:
        for executor in self._executors:
            executor.check()


def done_already(result: T) -> "Future[T]":
    """A future for what is known without any work."""
    future: Future[T] = Future()
    future.set_result(result)
    return future


def in_order(
    items: Iterable[T],
    start: "Callable[[T], Future[R]]",
    share_of_room: Callable[[T], float],
    wait: "Callable[[Future[R]], R]" = wait_for,
) -> Iterator[R]:
    """`start` every item as early as there is room for it, and yield the results in the order of the items.

    There is room while the shares of what was started, and not yielded yet, add up to at most 1; one item may always be
    under way. `wait`: gives the result of a task. Raises what a task raised, when its turn comes.
    """
    pending: deque[tuple[float, Future[R]]] = deque()
    remaining = iter(items)
    while True:
        while pending and pending[0][1].done():  # before more is asked for: that may take its time
            yield pending.popleft()[1].result()
        try:
            item = next(remaining)
        except StopIteration:
            break
        share = share_of_room(item)
        while pending and sum(other for other, _ in pending) + share > 1 + _ROUNDING:
            yield wait(pending.popleft()[1])
        pending.append((share, start(item)))
    while pending:
        yield wait(pending.popleft()[1])


def read_ahead(
    started: "Iterator[Future[T]]", wait: "Callable[[Future[T]], T]" = wait_for, num_ahead: int = 1
) -> Iterator[T]:
    """Yield the results of `started`; the next `num_ahead` have been started when one is handed out.

    `wait`: see `in_order`.
    """
    ahead = deque(islice(started, num_ahead))
    while ahead:
        ahead.extend(islice(started, 1))
        now = ahead.popleft()
        yield wait(now)
        del now
