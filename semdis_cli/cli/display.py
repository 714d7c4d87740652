"""Progress on stderr while a command works: a bar on a terminal, lines elsewhere."""

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from semdis_cli.cli.streams import put, say
from semdis_cli.events import Planning
from semdis_cli.wording import count

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BEFORE_FIRST_LINE = 3.0  # of the planning: most runs have begun by then


@dataclass(frozen=True)
class Position:
    """The position of a run, ready to be shown: `1,200/5,000 images`, `12.3 images/s, ...` and the seconds to go."""

    finished: int
    total: int
    unit: str
    rates: str
    left_s: float

    @property
    def counts(self) -> str:
        """`1,200/5,000 images`, or `1,200 images` where nobody knows how many there will be."""
        unit = self.unit.removesuffix("s")
        return f"{self.finished:,}/{count(self.total, unit)}" if self.total else count(self.finished, unit)


class Display(Protocol):
    """Either of both; a context manager, which may be left twice."""

    def __enter__(self) -> "Display":
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Take back what moves."""

    def say(self, line: str) -> None:
        """A line on stderr."""

    def result(self, line: str) -> None:
        """A line on stdout."""

    def plan(self, event: Planning) -> None:
        """Show what is being done while the run gets ready."""

    def show(self, position: Position) -> None:
        """Show how far the run is."""


class Bar:
    """Progress on a terminal: a bar that redraws itself."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[counts]}"),
            BarColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # Rich would send results to stderr, past the pipe that waits for them
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None, counts="", rates="")
        self._is_planning = False

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._progress.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def result(self, line: str) -> None:
        """A line on stdout; above the bar if that is the same terminal."""
        if sys.stdout.isatty():
            self.say(line)
        else:
            put(line)

    def plan(self, event: Planning) -> None:
        """Say what is being done while the run gets ready."""
        self._is_planning = True
        self._progress.update(
            self._task, total=event.total or None, completed=event.done, counts=planning_text(event), rates=""
        )

    def show(self, position: Position) -> None:
        """Move the bar."""
        if self._is_planning:  # what went before says nothing of how long this takes
            self._is_planning = False
            self._progress.reset(self._task)
        self._progress.update(
            self._task,
            total=position.total or None,
            completed=position.finished,
            counts=position.counts,
            rates=position.rates,
        )


class Lines:
    """Progress where stderr is a file or a pipe: a plain line every so often.

    Of the planning, a thread tells: one step of it may take as long as it likes.
    """

    def __init__(self, show_progress: bool) -> None:
        self._show_progress = show_progress
        self._last = time.perf_counter()
        self._planning: Planning | None = None
        self._has_ended = threading.Event()

    def __enter__(self) -> "Lines":
        if self._show_progress:
            threading.Thread(target=self._tell_of_planning, name="semdis-planning", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()

    def say(self, line: str) -> None:
        """A line on stderr."""
        say(line)

    def result(self, line: str) -> None:
        """A line on stdout."""
        put(line)

    def plan(self, event: Planning) -> None:
        """Take note of what is being done while the run gets ready."""
        self._planning = event

    def show(self, position: Position) -> None:
        """A progress line, if the last one is long enough ago."""
        self._planning = None
        now = time.perf_counter()
        if not self._show_progress or now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = f", {_duration(position.left_s)} left" if position.total else ""
        say(f"semdis: {position.counts}, {position.rates}{left}")

    def _tell_of_planning(self) -> None:
        pause_s = _SECONDS_BEFORE_FIRST_LINE
        while not self._has_ended.wait(pause_s):
            planning, pause_s = self._planning, 1.0
            if planning is not None:
                self._last, pause_s = time.perf_counter(), _SECONDS_BETWEEN_LINES
                say(f"semdis: {planning_text(planning)}")


def planning_text(event: Planning) -> str:
    """`listing photos: 120,000 files so far`, `reading headers: 3,000 of 12,000`, `loading the model`."""
    if event.total:
        return f"{event.stage}: {event.done:,} of {event.total:,}"
    return f"{event.stage}: {count(event.done, 'file')} so far" if event.done else event.stage


def open_display(*, quiet: bool) -> Display:
    """A bar on a terminal, lines elsewhere, no progress at all when `quiet`; a context manager."""
    return Bar() if not quiet and _can_redraw() else Lines(show_progress=not quiet)


def _can_redraw() -> bool:
    """Tell whether stderr is a terminal that can take back a line; TERM=dumb or none at all says that it cannot."""
    console = Console(stderr=True)
    named = os.environ.get("TERM")
    return bool(named) and sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
