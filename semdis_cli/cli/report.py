"""Events -> what a person reads on stderr, and what a program reads on stdout."""

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from semdis_cli.atomic import explain_write_error
from semdis_cli.errors import ExitCode, SemdisError, UsageError
from semdis_cli.events import BatchDone, Event, Failure, ImageMeasured, RunFinished, RunStarted, ShardFailed

_SECONDS_BETWEEN_LINES = 10.0
_MAX_FAILURES_SHOWN = 20


@dataclass(frozen=True)
class Position:
    """Where a run stands, ready to be shown: `1,200/5,000 images`, `12.3 images/s, ...` and the seconds to go."""

    finished: int
    total: int
    unit: str
    rates: str
    left_s: float

    @property
    def counts(self) -> str:
        """`1,200/5,000 images`, or `1,200 images` where nobody knows how many there will be."""
        return f"{self.finished:,}/{self.total:,} {self.unit}" if self.total else f"{self.finished:,} {self.unit}"


@dataclass
class Tally:
    """Images done by this run, of all that it has to do."""

    total: int = 0
    done: int = 0
    failed: int = 0
    megapixels: float = 0.0

    def position(self, elapsed_s: float) -> Position:
        """Where the run stands after `elapsed_s`: `12.3 images/s, 4.56 megapixels/s, 2 failed`."""
        elapsed_s, finished = max(elapsed_s, 1e-9), self.done + self.failed
        images_per_s, megapixels_per_s = self.done / elapsed_s, self.megapixels / elapsed_s
        rates = f"{images_per_s:.1f} images/s, {megapixels_per_s:.2f} megapixels/s, {self.failed:,} failed"
        left_s = elapsed_s / max(finished, 1) * (self.total - finished)
        return Position(finished, self.total, "images", rates, left_s)


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

    def show(self, position: Position) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            total=position.total or None,
            completed=position.finished,
            counts=position.counts,
            rates=position.rates,
        )


class Lines:
    """Progress where stderr is a file or a pipe: a plain line every so often."""

    def __init__(self, show_progress: bool) -> None:
        self._show_progress = show_progress
        self._last = time.perf_counter()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        """A line on stderr."""
        say(line)

    def result(self, line: str) -> None:
        """A line on stdout."""
        put(line)

    def show(self, position: Position) -> None:
        """A progress line, if the last one is long enough ago."""
        now = time.perf_counter()
        if not self._show_progress or now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = f", {_duration(position.left_s)} left" if position.total else ""
        say(f"semdis: {position.counts}, {position.rates}{left}")


def open_display(*, quiet: bool) -> Bar | Lines:
    """A bar on a terminal, lines elsewhere, no progress at all when `quiet`; a context manager."""
    return Bar() if sys.stderr.isatty() and not quiet else Lines(show_progress=not quiet)


class OutputClosedError(SemdisError):
    """Nobody reads our stdout any more, as in `semdis roundtrip photos | head -1`."""

    exit_code = ExitCode.OUTPUT_CLOSED


def say(line: str) -> None:
    """One line on stderr."""
    typer.echo(line, err=True)


def put(line: str) -> None:
    """One line of results on stdout. Raises `OutputClosedError` if nobody reads it."""
    try:
        typer.echo(line)
    except BrokenPipeError as error:
        raise OutputClosedError("the reader of the output has gone") from error


def put_bytes(data: bytes) -> None:
    """Data on stdout, at once. Raises `OutputClosedError` if nobody reads it, and what a full disk raises."""
    left = memoryview(data)
    try:
        while left:  # not through a buffer: what it could not write, it would try again on exiting
            left = left[os.write(sys.stdout.fileno(), left) :]
    except BrokenPipeError as error:
        raise OutputClosedError("the reader of the output has gone") from error
    except OSError as error:
        raise explain_write_error(Path("stdout"), error) from error


def check_stdout_takes_data() -> None:
    """Raise `UsageError` if stdout is closed, or a terminal, which data would only confuse."""
    if sys.stdout is None:
        raise UsageError("stdout is closed; give -o a folder")
    if sys.stdout.isatty():
        raise UsageError("data is not written to a terminal; send stdout to a file or a pipe, or give -o a folder")


def count(number: int, noun: str) -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def one_line(text: str) -> str:
    """`text` on one line, with nothing in it that steers a terminal: parts of it come from files."""
    return printable(" ".join(text.split()))


def follow(
    events: Iterable[Event],
    *,
    as_json: bool,
    quiet: bool,
    summarise: Callable[[dict[str, Any]], str],
    stdout_is_data: bool = False,
) -> ExitCode:
    """Show a run as it goes and sum it up; returns its exit code.

    `summarise`: closing report -> what was done, one line. Measurements and the JSON report go to stdout, all else to
    stderr. Failures are shown even when `quiet`, the first twenty in full. `stdout_is_data`: stdout carries images or
    latents, so the JSON report goes to stderr too.
    """
    run = _Run(as_json=as_json, quiet=quiet)
    with run.display, ExitStack() as at_the_end:
        if isinstance(events, Generator):  # a fault of ours must not leave a run half open
            at_the_end.callback(events.close)
        for event in events:
            run.take(event)
    if run.tally.failed > _MAX_FAILURES_SHOWN:
        say(f"... and {run.tally.failed - _MAX_FAILURES_SHOWN:,} more failures")
    if not quiet:
        _close(run.report, summarise(run.report))
    if as_json:
        (say if stdout_is_data else put)(json.dumps(run.report))
    return run.code


class _Run:
    """What has been seen of a run so far."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.display = open_display(quiet=quiet)
        self.tally = Tally()
        self._started = time.perf_counter()
        self.code = ExitCode.OK
        self.report: dict[str, Any] = {}
        self._as_json = as_json
        self._quiet = quiet

    def take(self, event: Event) -> None:
        """Count one event and show what it has to show."""
        match event:
            case RunStarted():
                self._start(event)
            case BatchDone():
                self.tally.done += event.num_images
                self.tally.megapixels += event.megapixels
            case Failure():
                self._fail(1, f"{printable(event.key)}: {event.reason}", ExitCode.SOME_FAILED)
            case ShardFailed():
                self._fail(event.num_images, f"{event.reason} ({count(event.num_images, 'image')})", ExitCode.BAD_DATA)
            case ImageMeasured() if not self._as_json:
                self.display.result(f"{printable(event.key)}\t{event.psnr_db:.2f}")
            case RunFinished():
                self._finish(event)
        self.display.show(self.tally.position(time.perf_counter() - self._started))

    def _start(self, event: RunStarted) -> None:
        self.tally.total = event.num_images - event.num_done
        if event.num_done and not self._quiet:
            self.display.say(f"semdis: {event.num_done:,} of {event.num_images:,} images done before, going on")

    def _fail(self, num_images: int, line: str, code: ExitCode) -> None:
        self.tally.failed += num_images
        self.code = max(self.code, code)
        if self.tally.failed <= _MAX_FAILURES_SHOWN or code == ExitCode.BAD_DATA:
            self.display.say(f"failed: {one_line(line)}")

    def _finish(self, event: RunFinished) -> None:
        self.report = event.report
        if event.num_failed:
            self.code = max(self.code, ExitCode.SOME_FAILED)
        if event.report.get("psnr_db") and not self._as_json:
            self.display.result(f"mean\t{event.report['psnr_db']['mean']:.2f}")


def _close(report: dict[str, Any], summary: str) -> None:
    """The closing lines: what was done, what failed, where the time went."""
    images, elapsed_s = report["images"], report["elapsed_s"]
    say(
        f"semdis: {summary}; {images['failed']:,} failed; {elapsed_s:.1f} s, {report['images_per_s']:.1f} images/s, "
        f"{report['megapixels_per_s']:.2f} megapixels/s"
    )
    for size, num_images in report.get("halved", {}).items():
        say(f"semdis: memory ran out at {size} px: calls were halved, to {count(num_images, 'image')}")
    if far_off := report.get("far_off"):
        say(
            "semdis: warning: whitened latents are far off: the median channel has |mean| "
            f"{far_off['abs_mean']:.2f} and standard deviation {far_off['std']:.2f}, not about 0 and 1; weights and "
            "code may not fit, or all images are alike"
        )
    if images["this_run"] and report["stages"]:
        all_s = report["threads"] * elapsed_s
        shares = {name.removesuffix("_s"): seconds / all_s for name, seconds in report["stages"].items()}
        beside = shares.pop("publish")
        told = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005]
        told += [f"and publishing shards beside it {beside:.0%}"] if beside >= 0.005 else []
        say("semdis: time: " + ", ".join(told))


def printable(key: str) -> str:
    """`key`, with control characters escaped so that a file name cannot steer the terminal."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in key)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
