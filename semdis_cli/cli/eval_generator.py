"""`semdis eval --generator`: sets of latents -> how fast a small generator learns each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from semdis_cli.cli.display import Display, Position, open_display
from semdis_cli.cli.options import Reporting
from semdis_cli.cli.report import follow, one_line
from semdis_cli.cli.setup import refuse_absent_device, refuse_others
from semdis_cli.cli.tables import Section, show
from semdis_cli.errors import ExitCode
from semdis_cli.evaluation.generator.settings import GeneratorRunSettings
from semdis_cli.events import Event, GeneratorMeasured, Planning, RunFinished, RunStarted, TrainingProgress
from semdis_cli.files.url import Location
from semdis_cli.wording import count

_COLUMNS = ("set", "#start", "#end", "#95 %", "#half way", "#GFLOPs")
_MAX_TITLE = 20  # all columns fit into 80


def run_generator(
    context: typer.Context,
    sets: Sequence[Location],
    settings: GeneratorRunSettings,
    output: Path,
    reporting: Reporting,
) -> ExitCode:
    """Train a generator on each of `sets` and show the curves; return the exit code. Raises as `compare`."""
    refuse_absent_device(settings.device)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    display.plan(Planning("opening the sets"))

    from semdis_cli.evaluation.generator.compare import compare, prepare_generator

    for place in sets:
        refuse_others(place)
    job = prepare_generator(settings, output)
    events = compare([Path(str(place)) for place in sets], job)
    if not reporting.quiet:
        size, dtype = job.settings.size, job.settings.dtype
        display.say(f"semdis: training DiT-{size} in {dtype} on {job.device}, {count(len(sets), 'set')}")
    return follow(events, reporting, summarise=_summary, display=display, make_view=_GeneratorView)


class _GeneratorView:
    """Shows the curves while they grow, and what has come of them."""

    def __init__(self, display: Display, reporting: Reporting) -> None:
        self.display = display
        self.code = ExitCode.OK
        self.report: dict[str, Any] = {}
        self._reporting = reporting
        self._measured = ""

    def take(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Planning():
                self.display.plan(event)
            case RunStarted() if not self._reporting.quiet:
                for line in event.note.splitlines():
                    self.display.say(f"semdis: {one_line(line)}")
            case GeneratorMeasured():
                self._measured = f"{one_line(event.title)} {event.relative_loss:.4f}, "
            case TrainingProgress():
                rates = f"loss {event.loss:.4f}, {self._measured}{event.images_per_s:.1f} images/s"
                self.display.show(Position(event.step, event.num_steps, "steps", rates, event.left_s))
            case RunFinished():
                self.report = event.report

    def left_out(self) -> Iterator[str]:
        """Show the figures, when quiet too; nothing is left out."""
        if not self._reporting.as_json:
            show(Section(_title(self.report), _COLUMNS, [_row(one) for one in self.report["sets"]]))
        yield from ()

    def closing(self, summary: str) -> Iterator[str]:
        """Give the lines that sum the run up."""
        for line in _compared(self.report):
            yield f"semdis: {line}"
        yield f"semdis: {summary}"


def _title(report: dict[str, Any]) -> str:
    return f"Held-out loss, relative, in {count(report['settings']['num_steps'], 'step')}"


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    first, last = (one["points"][number]["relative_loss"] for number in (0, -1))
    half_way = one["steps_to_share_of_own_drop"]["0.5"]
    title = one["title"] if len(one["title"]) <= _MAX_TITLE else f"…{one['title'][1 - _MAX_TITLE :]}"
    return (
        title,
        f"{first['mean']:.4f}",
        f"{last['mean']:.4f}",
        "" if last["low"] is None else f"{last['low']:.4f}..{last['high']:.4f}",
        "" if half_way is None else f"{half_way['mean']:,.0f}",
        f"{one['gflops_per_image']:.2f}",
    )


def _compared(report: dict[str, Any]) -> Iterator[str]:
    """Say which of two sets ends lower, each pair once."""
    for found in report["differences"]:
        lost = found["relative_loss"]
        if lost["mean"] >= 0:
            continue
        by = f"by {-lost['mean']:.4f}"
        if lost["low"] is not None:
            sure = "" if lost["high"] < 0 else ", which may be chance"
            by += f" (95 %: {-lost['high']:.4f}..{-lost['low']:.4f}{sure})"
        steps = found["steps_to_its_last_loss"]
        after = "" if steps is None else f", and reaches its last loss after {count(round(steps['mean']), 'step')}"
        if lost["mean"] > -abs(found["relative_loss_at_first"]["mean"]):
            after = "; they differ as much before the first step, so this says nothing"
        yield one_line(f"{found['set']} ends below {found['against']} {by}{after}")


def _summary(report: dict[str, Any]) -> str:
    images = report["images"]
    return (
        f"{count(len(report['sets']), 'set')}, {count(report['settings']['num_seeds'], 'seed')}, "
        f"{images['seen']:,} images seen each ({images['epochs']:.1f} epochs); curves.svg and report.json in "
        f"{report['output']}; {report['elapsed_s']:.0f} s. A loss curve is no FID"
    )
