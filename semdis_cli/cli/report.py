"""Events -> what a person reads on stderr, and what a program reads on stdout."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from semdis_cli.cli.display import Display, Position, open_display
from semdis_cli.cli.garbage import collect
from semdis_cli.cli.streams import put, say
from semdis_cli.errors import ExitCode
from semdis_cli.events import (
    BatchDone,
    ColumnTrouble,
    Event,
    Failure,
    ImageMeasured,
    LeftOut,
    Planning,
    ProcessDied,
    RunFinished,
    RunStarted,
    ShardFailed,
    WorkerLeftOut,
)
from semdis_cli.files.json_text import strict_json
from semdis_cli.stops import look, noted, settle
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.cli.options import Reporting  # and Typer with it: signals are not heard yet

MAX_SHOWN = 20  # of failures, and of problems of one kind


@dataclass
class Tally:
    """Images done by this run, of all that it has to do."""

    total: int = 0
    done: int = 0
    failed: int = 0
    troubles: int = 0  # with columns
    megapixels: float = 0.0

    def position(self, elapsed_s: float) -> Position:
        """Describe where the run stands after `elapsed_s`: `12.3 images/s, 4.56 megapixels/s, 2 failed`."""
        elapsed_s, finished = max(elapsed_s, 1e-9), self.done + self.failed
        images_per_s, megapixels_per_s = self.done / elapsed_s, self.megapixels / elapsed_s
        rates = f"{images_per_s:.1f} images/s, {megapixels_per_s:.2f} megapixels/s, {self.failed:,} failed"
        left_s = elapsed_s / max(finished, 1) * (self.total - finished)
        return Position(finished, self.total, "images", rates, left_s)


def describe_renamed(report: dict[str, Any]) -> str:
    """Return what to add to the closing line about files that could not have the names of their images."""
    number = len(report.get("renamed", ()))
    return (
        f" ({number:,} under other names, listed in report.json: the disk takes theirs for another's)" if number else ""
    )


def describe_left_out(numbers: Mapping[str, int]) -> str:
    """Return how many inputs each filter left out, by its option."""
    return ", ".join(f"{number:,} by {_flag(name)}" for name, number in numbers.items())


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def one_line(text: str) -> str:
    """`text` on one line, with nothing in it that steers a terminal: parts of it come from files."""
    return printable(" ".join(text.split()))


class View(Protocol):
    """Shows one kind of run while it goes; `code` and `report` are what it has come to."""

    display: Display
    code: ExitCode
    report: dict[str, Any]

    def take(self, event: Event) -> None:
        """Count one event and show what it has to show."""

    def left_out(self) -> Iterator[str]:
        """Give the lines that say what was not shown; they are told even when quiet."""

    def closing(self, summary: str) -> Iterator[str]:
        """Give the lines that sum the run up."""


class MakeView(Protocol):
    """Makes the view of a run that shows itself on `display`."""

    def __call__(self, display: Display, reporting: "Reporting") -> View:
        """Make it."""


def follow(
    events: Iterable[Event],
    reporting: "Reporting",
    *,
    summarise: Callable[[dict[str, Any]], str],
    stdout_is_data: bool = False,
    display: Display | None = None,
    make_view: MakeView | None = None,
) -> ExitCode:
    """Show a run as it goes and sum it up; returns its exit code.

    `summarise`: closing report -> what was done, one line. Results and the JSON report go to stdout, all else to
    stderr. `stdout_is_data`: stdout carries images or latents, so the JSON report goes to stderr too. `display`: one
    that is open already, and is closed at the end. `make_view`: None for a run over images. Raises `StoppedError` if a
    signal asks for it, once the run is closed; one that comes after the closing lines changes nothing.
    """
    collect()
    view = (make_view or ImageView)(display or open_display(quiet=reporting.quiet), reporting)
    with noted(), view.display, ExitStack() as at_the_end:
        if isinstance(events, Generator):  # nothing may leave a run half open
            at_the_end.callback(events.close)
        for event in events:
            view.take(event)
            look()
    look()
    for line in chain(view.left_out(), () if reporting.quiet else view.closing(summarise(view.report))):
        say(line)
    if reporting.as_json:
        (say if stdout_is_data else put)(strict_json(view.report))
    settle()
    return view.code


def more(number: int, what: str, several: str = "") -> Iterator[str]:
    """Give the line for those of `number` that were too many to show; none if all were shown."""
    if number > MAX_SHOWN:
        yield f"... and {count(number - MAX_SHOWN, what, several)}"


class ImageView:
    """Shows a run over images. Failures are shown even when `quiet`, the first twenty in full."""

    def __init__(self, display: Display, reporting: "Reporting") -> None:
        self.display = display
        self.tally = Tally()
        self.code = ExitCode.OK
        self.report: dict[str, Any] = {}
        self._num_left_out = 0
        self._started = time.perf_counter()
        self._reporting = reporting

    def take(self, event: Event) -> None:
        """Count one event and show what it has to show."""
        if isinstance(event, Planning):
            self.display.plan(event)
            return
        self._take(event)
        self.display.show(self.tally.position(time.perf_counter() - self._started))

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case BatchDone():
                self.tally.done += event.num_images
                self.tally.megapixels += event.megapixels
            case Failure() | ShardFailed() | ColumnTrouble():
                self._take_bad(event)
            case LeftOut():
                self._leave_out(event)
            case ProcessDied() | WorkerLeftOut() if not self._reporting.quiet:
                self.display.say(f"semdis: {describe_loss(event)}")
            case ImageMeasured() if not self._reporting.as_json:
                self.display.result(f"{printable(event.key)}\t{event.psnr_db:.2f}")
            case RunFinished():
                self._finish(event)

    def left_out(self) -> Iterator[str]:
        """Give the lines for failures and troubles that were not shown."""
        yield from more(self.tally.failed, "more failure")
        yield from more(self.tally.troubles, "more trouble with columns", "more troubles with columns")

    def closing(self, summary: str) -> Iterator[str]:
        """Give the lines on what was done, what failed, where the time went."""
        return _closing_lines(self.report, summary)

    def _start(self, event: RunStarted) -> None:
        self.tally.total = event.num_images - event.num_done
        if event.note and not self._reporting.quiet:
            self.display.say(f"semdis: {one_line(event.note)}")
        if event.num_done and not self._reporting.quiet:
            self.display.say(f"semdis: {event.num_done:,} of {count(event.num_images, 'image')} done before, going on")

    def _leave_out(self, event: LeftOut) -> None:
        self._num_left_out += 1
        if self._num_left_out <= MAX_SHOWN and not self._reporting.quiet:
            self.display.say(f"left out: {one_line(event.key)} ({_flag(event.reason)})")

    def _fail(self, num_images: int, line: str, code: ExitCode) -> None:
        self.tally.failed += num_images
        self.code = max(self.code, code)
        if self.tally.failed <= MAX_SHOWN or code == ExitCode.BAD_DATA:
            self.display.say(f"failed: {one_line(line)}")

    def _take_bad(self, event: Failure | ShardFailed | ColumnTrouble) -> None:
        match event:
            case Failure():
                self._fail(1, f"{printable(event.key)}: {event.reason}", ExitCode.SOME_FAILED)
            case ShardFailed():
                self._fail(event.num_images, f"{event.reason} ({count(event.num_images, 'image')})", ExitCode.BAD_DATA)
            case ColumnTrouble():
                self._note_trouble(event)

    def _note_trouble(self, event: ColumnTrouble) -> None:
        self.tally.troubles += 1
        self.code = max(self.code, ExitCode.SOME_FAILED)
        if self.tally.troubles <= MAX_SHOWN:
            self.display.say(f"column: {one_line(f'{printable(event.key)}: {event.reason}')}")

    def _finish(self, event: RunFinished) -> None:
        self.report = event.report
        if event.num_failed:
            self.code = max(self.code, ExitCode.SOME_FAILED)
        if event.report.get("psnr_db") and not self._reporting.as_json:
            self.display.result(f"mean\t{event.report['psnr_db']['mean']:.2f}")


def describe_loss(event: ProcessDied | WorkerLeftOut) -> str:
    """Return the line that says what became of a process, or of a node."""
    if isinstance(event, WorkerLeftOut):
        return f"left out: {one_line(event.reason)}"
    where = f"process {event.pid} on {event.device} died ({event.how})"
    if not event.shards:
        return f"{where}; another one takes its place"
    first, *others = event.shards
    at = f"{first} and {count(len(others), 'other shard')}" if others else first
    return f"{where} at {at}: once more, by another one"


def _closing_lines(report: dict[str, Any], summary: str) -> Iterator[str]:
    images, elapsed_s = report["images"], report["elapsed_s"]
    yield (
        f"semdis: {summary}; {images['failed']:,} failed; {elapsed_s:.1f} s, {report['images_per_s']:.1f} images/s, "
        f"{report['megapixels_per_s']:.2f} megapixels/s"
    )
    if left_out := report.get("left_out"):
        yield f"semdis: left out: {describe_left_out(left_out)}"
    for size, num_images in report.get("halved", {}).items():
        yield f"semdis: memory ran out at {size} px: calls were halved, to {count(num_images, 'image')}"
    if far_off := report.get("far_off"):
        yield (
            "semdis: warning: whitened latents are far off: the median channel has "
            f"|mean| {far_off['abs_mean']:.2f} and standard deviation {far_off['std']:.2f}, not about 0 and 1; "
            "weights and code may not fit, or all images are alike"
        )
    if images["this_run"] and report["stages"]:
        all_s = report["threads"] * elapsed_s
        shares = {name.removesuffix("_s"): seconds / all_s for name, seconds in report["stages"].items()}
        beside = shares.pop("publish")
        told = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005]
        told += [f"and publishing shards beside it {beside:.0%}"] if beside >= 0.005 else []
        yield "semdis: time: " + ", ".join(told)


def printable(key: str) -> str:
    """`key`, with control characters escaped so that a file name cannot steer the terminal."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in key)
