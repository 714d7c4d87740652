"""Stops that a signal asks for: the handler notes them, and a run acts on them where it looks.

What a signal handler raises may come up between any two steps of Python: a lock would stay locked, a thread be
forgotten. So while a run is `noted`, its handler raises nothing; the run looks between events and while it waits, and
is closed in order. Outside of a run, and where all that happens is waiting for a pipe, the handler raises at once.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from semdis_cli.errors import ExitCode

T = TypeVar("T")
LOOK_S = 0.05  # between two looks of whoever waits: nobody feels it, and it costs nothing


class StoppedError(BaseException):
    """The program was asked to stop by a signal. What is published stays.

    No `Exception`: outside of a run it may come up anywhere, also where others catch all of these and go on.
    """

    def __init__(self, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name}; run the same command again: "
            "encode, decode, roundtrip, eval, export, import and train go on where they were"
        )
        self.exit_code = ExitCode.INTERRUPTED if signal_number == signal.SIGINT else ExitCode.TERMINATED


@dataclass
class _Process:
    """State of this process: signals are the process's, not a run's."""

    signal_number: int | None = None  # of the signal that asked it to stop
    is_noted: bool = False  # whether somebody looks


_process = _Process()


def listen() -> None:
    """Hear SIGINT and SIGTERM from now on; a second one of them ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)


def _handle(number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _process.signal_number = number
    if not _process.is_noted:
        raise StoppedError(number)


def settle() -> None:
    """Let no signal change how this process ends: its result is there, and said. For the main thread.

    Ignored from now on, not handled: when Python ends, it takes back the handlers of its own, and a signal that came
    then would end the process by itself. Nothing is left to wait for by now. One that was noted and nobody looked for
    any more is forgotten; after it, a second one ends the process as ever.
    """
    _process.is_noted = True  # nothing is raised between the two
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_IGN)


def ask(number: int) -> None:
    """Ask this process to stop, in any thread, as the signal `number` would: whoever looks hears of it."""
    _process.signal_number = number


def look() -> None:
    """Raise `StoppedError` if a signal has asked the program to stop; may be called in any thread."""
    if _process.signal_number is not None:
        raise StoppedError(_process.signal_number)


def looking(items: Iterable[T]) -> Iterator[T]:
    """Hand on `items`, and look before each: for what takes long of very many. Raises `StoppedError`."""
    for item in items:
        look()
        yield item


@contextmanager
def noted() -> Iterator[None]:
    """Let signals be noted alone in this block, which looks for them itself, often. For the main thread."""
    with _noting(is_noted=True):
        yield


@contextmanager
def at_once() -> Iterator[None]:
    """Let a signal end this block wherever it is: it only waits, for a pipe. For the main thread."""
    with _noting(is_noted=False):
        look()  # what was noted before
        yield


@contextmanager
def _noting(*, is_noted: bool) -> Iterator[None]:
    before, _process.is_noted = _process.is_noted, is_noted
    try:
        yield
    finally:
        _process.is_noted = before


def received(items: Iterator[T]) -> Iterator[T]:
    """Hand on `items`, which come from a pipe: a stop ends the waiting for the next one."""
    while True:
        with at_once():
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


def _nothing() -> None:
    """Find nothing wrong."""


def wait_for(future: "Future[T]", check: Callable[[], None] = _nothing) -> T:
    """Return the result of `future`. Raises its error and, while waiting, `StoppedError` or what `check` raises."""
    while not future.done():
        look()
        check()
        try:
            return future.result(LOOK_S)
        except TimeoutError:
            pass  # or the task's own, which `result` raises again
    return future.result()
