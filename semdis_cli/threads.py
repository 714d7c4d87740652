"""Threads that take tasks, and whoever waits for them: hears of a signal soon, and of a thread that died.

Every executor of the package is one of these: what a signal handler raises inside of an executor would leave a lock of
it taken, and the process would never end. So signals are noted as long as there are such threads.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self, TypeVar

from semdis_cli.stops import LOOK_S, look, noted, wait_for

T = TypeVar("T")
R = TypeVar("R")


class WorkerDiedError(RuntimeError):
    """A thread of a run ended while there was work for it."""


def _nothing() -> None:
    """Prepare nothing."""


def unless_stopped(function: Callable[[T], R], item: T) -> R:
    """Call `function` with `item`. Raises `StoppedError` instead if a signal has asked for a stop."""
    look()
    return function(item)


class WatchedThreads(ThreadPoolExecutor):
    """An executor of `num_threads` threads; each calls `begin` first.

    Use as a context manager in the main thread: signals are noted in its block, and leaving it drops what has not begun
    and waits for what has.
    """

    def __init__(self, num_threads: int, name: str, begin: Callable[[], object] = _nothing) -> None:
        super().__init__(num_threads, name, self._begin)
        self._prepare = begin
        self._begun: list[threading.Thread] = []
        self._leaving = ExitStack()

    def __enter__(self) -> Self:
        self._leaving.enter_context(noted())
        self._leaving.callback(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.close()

    def _begin(self) -> None:
        self._prepare()
        self._begun.append(threading.current_thread())

    def _end(self) -> None:
        """Drop what has not begun, and wait for all threads.

        Each that ends wakes the next one, but for one that died: so all are woken until none is left.
        """
        self.shutdown(wait=False, cancel_futures=True)
        while any(thread.is_alive() for thread in self._begun):
            for thread in self._begun:
                thread.join(LOOK_S)
            self.shutdown(wait=False)
        self.shutdown()  # and for one that has only just been started

    def check(self) -> None:
        """Raise `WorkerDiedError` if a thread has died before the executor was shut down: a task may have gone too."""
        for thread in self._begun:
            if not thread.is_alive():
                raise WorkerDiedError(f"the thread {thread.name} died")

    def result(self, future: "Future[T]") -> T:
        """Wait for the result of a task. Raises what it raised, `WorkerDiedError`, or `StoppedError` on a signal."""
        return wait_for(future, self.check)

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Have `function` called for each of `items`, all of which are handed over at once; yield its results in order.

        None is begun once a signal has asked for a stop. Raises what `result` raises.
        """
        pending = deque(self.submit(unless_stopped, function, item) for item in items)
        while pending:
            yield self.result(pending.popleft())  # and hold on to none of them
