"""`semdis train`: photographs -> a model of one's own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli.display import Display, Position, open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import MAX_SHOWN, follow, more, one_line, printable
from semdis_cli.cli.setup import find_inputs, refuse_absent_device, refuse_pipes
from semdis_cli.errors import ExitCode, UsageError
from semdis_cli.events import (
    CompilingFailed,
    Event,
    Failure,
    ModelReady,
    Planning,
    RunFinished,
    TrainingMeasured,
    TrainingProgress,
)
from semdis_cli.option import OUTPUT, Option
from semdis_cli.records import SourceImage
from semdis_cli.settings import SourceSettings
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.training.settings import TrainSettings
from semdis_cli.wording import count

Output = Annotated[Path, Option("Folder for the model.", OUTPUT, flags="--output -o")]


@command()
def train(
    context: typer.Context,
    *,
    output: Output = Path("model"),
    named: SourceSettings,
    rules: InputRules,
    settings: TrainSettings,
    reporting: Reporting,
) -> None:
    """Train a model on photographs: folders, files, or tars of packed crops. Run again to go on after a stop.

    The folder holds the model at any time, log.jsonl with the losses, and pictures/ to look at.

    Example: `semdis train photos/ -o mymodel/ --steps 2000`, then `semdis encode photos/ --model mymodel/`
    """
    refuse_pipes(*named.sources, output, *settings.held_out, settings.config)
    refuse_absent_device(settings.device)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    find = partial(_find, rules=rules, output=output, quiet=reporting.quiet, display=display)
    images, failures = find(named)
    measured, measured_failures = _find_held_out(settings.held_out, find)

    from semdis_cli.model.devices import unused_gpu
    from semdis_cli.training.train import prepare_train
    from semdis_cli.training.train import train as run

    job = prepare_train(settings, output)
    if not reporting.quiet:
        if settings.device == "auto" and (note := unused_gpu()) is not None:
            display.say(f"semdis: {note}")
        display.say(f"semdis: training in {job.settings.dtype} on {job.device}, {_aligned_with(settings.teacher)}")
    events = run(images, measured, (*failures, *measured_failures), job)
    code = follow(events, reporting, summarise=_summary, display=display, make_view=_TrainView)
    raise typer.Exit(code)


def _aligned_with(teacher: str | None) -> str:
    return f"aligned with {teacher}" if teacher else "without a teacher: the alignment term is off"


def _find(
    named: SourceSettings, *, rules: InputRules, output: Path, quiet: bool, display: Display
) -> tuple[Sequence[SourceImage], Sequence[Failure]]:
    """All images of the sources, in tars or not, and the inputs that are none."""
    from semdis_cli.sources.braces import expand_braces
    from semdis_cli.sources.containers import find_containers

    display.plan(Planning("listing photos"))
    packed, others = find_containers(expand_braces(named.sources), rules)
    quiet = quiet or bool(packed)  # in a folder of them they would be the files that are passed over
    named = replace(named, sources=tuple(others))
    found = find_inputs(named, rules, output=output, quiet=quiet, packed=packed, display=display)
    return found.images, found.failures


def _find_held_out(
    held_out: tuple[Path, ...], find: Callable[[SourceSettings], tuple[Sequence[SourceImage], Sequence[Failure]]]
) -> tuple[Sequence[SourceImage], Sequence[Failure]]:
    """Return the images to measure with, if any were asked for. Raises `UsageError` if there are none."""
    if not held_out:
        return [], []
    images, failures = find(SourceSettings(held_out))
    if not images:
        raise UsageError(f"--held-out {', '.join(map(str, held_out))}: no images found")
    return images, failures


def _summary(report: dict[str, Any]) -> str:
    rate = f", {report['images_per_s']:.1f} images/s" if report["images_per_s"] is not None else ", nothing left to do"
    return (
        f"{count(report['steps'], 'step')} -> {report['output']}; {report['elapsed_s']:.0f} s{rate}, at most "
        f"{report['peak_memory_mib']:,.0f} MiB of memory"
    )


class _TrainView:
    """Shows a run of steps."""

    def __init__(self, display: Display, reporting: Reporting) -> None:
        self.display = display
        self.code = ExitCode.OK
        self._num_failed = 0
        self.report: dict[str, Any] = {}
        self._psnr_db: float | None = None
        self._reporting = reporting

    def take(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Planning():
                self.display.plan(event)
            case Failure():
                self._fail(event)
            case ModelReady() | CompilingFailed() if not self._reporting.quiet:
                self.display.say(f"semdis: {_said(event)}")
            case TrainingProgress():
                held_out = f"held-out {self._psnr_db:.2f} dB, " if self._psnr_db is not None else ""
                rates = f"loss {event.loss:.5f}, {held_out}{event.images_per_s:.1f} images/s"
                self.display.show(Position(event.step, event.num_steps, "steps", rates, event.left_s))
            case TrainingMeasured():
                self._psnr_db = event.psnr_db
                if not self._reporting.as_json:
                    self.display.result(f"{event.step}\t{event.psnr_db:.2f}")
            case RunFinished():
                self.report = event.report

    def left_out(self) -> Iterator[str]:
        """Give the line for failures that were not shown."""
        return more(self._num_failed, "more failure")

    def closing(self, summary: str) -> Iterator[str]:
        """Give the line that sums the run up."""
        yield f"semdis: {summary}"

    def _fail(self, failure: Failure) -> None:
        self._num_failed += 1
        self.code = ExitCode.SOME_FAILED
        if self._num_failed <= MAX_SHOWN:
            self.display.say(f"failed: {one_line(f'{printable(failure.key)}: {failure.reason}')}")


def _said(event: ModelReady | CompilingFailed) -> str:
    if isinstance(event, CompilingFailed):
        return f"not compiled: {event.reason}"
    unread = f"; {event.num_unread:,} more do not fit in --memory" if event.num_unread else ""
    return (
        f"{event.num_parameters:,} parameters; {count(event.num_images, 'image')} to learn from "
        f"({event.image_bytes / 2**20:,.0f} MiB), {event.num_held_out:,} to measure with{unread}"
    )
