"""`semdis attach`: captions, labels, tensors and other columns -> the images of a finished set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli.display import Display, open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import MAX_SHOWN, follow, more, one_line, printable
from semdis_cli.cli.setup import refuse_others, refuse_pipes
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.errors import ExitCode
from semdis_cli.events import ColumnsAttached, ColumnTrouble, Event, Planning
from semdis_cli.option import Option, OptionError
from semdis_cli.wording import count

Latents = Annotated[Path, Option("Folder that `semdis encode` wrote.", is_argument=True)]
Tables = Annotated[
    tuple[Path, ...],
    Option("Tables: JSONL, CSV, TSV, JSON or Parquet.", metavar="TABLE...", show_default=False, is_argument=True),
]


@command()
def attach(
    context: typer.Context,
    *,
    latents: Latents = Path("latents"),
    tables: Tables = (),
    settings: AttachSettings,
    reporting: Reporting,
) -> None:
    """Give the images of a finished set captions, labels, tensors and other columns; no latent is touched.

    A row of a table is about the image whose key it names, with or without its suffix; so is a tensor (--tensors) with
    the name of its file. What is there already is replaced, what nothing speaks of stays. Rows and tensors without
    image, images without them and values that cannot be kept are listed, and cost nothing else (exit code 3).

    Example: `semdis attach latents/ captions.jsonl`
    """
    from semdis_cli.pipeline.attach import attach as run

    if not (tables or settings.removed or settings.tensors):
        raise OptionError("TABLE", "name a table, --tensors, or columns to --remove")
    if tables and settings.tensors:
        raise OptionError("--tensors", "goes without tables: attach these by another run")
    refuse_pipes(latents, *tables, *settings.tensors)
    refuse_others(latents)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    events = run(latents, tables, settings, display.plan)
    code = follow(events, reporting, summarise=_summary, display=display, make_view=_AttachView)
    raise typer.Exit(code)


class _AttachView:
    """Shows what is attached, and what cannot be."""

    def __init__(self, display: Display, reporting: Reporting) -> None:  # noqa: ARG002 (as `MakeView` has it)
        self.display = display
        self.code = ExitCode.OK
        self.report: dict[str, Any] = {}
        self._num_troubles = 0

    def take(self, event: Event) -> None:
        """Count one event and show what it has to show."""
        match event:
            case Planning():
                self.display.plan(event)
            case ColumnTrouble():
                self._note(event)
            case ColumnsAttached():
                self.report = event.report | {"troubles": self._num_troubles}

    def left_out(self) -> Iterator[str]:
        """Give the line for troubles that were not shown."""
        return more(self._num_troubles, "more trouble with columns", "more troubles with columns")

    def closing(self, summary: str) -> Iterator[str]:
        """Give the lines that sum the run up."""
        if new := self.report["new_classes"]:
            names = ", ".join(map(repr, new["first"]))
            yield one_line(f"semdis: {count(new['number'], 'new class', 'new classes')} from {new['from']} on: {names}")
        if number := self.report["rows"].get("not_downloaded"):
            yield f"semdis: {count(number, 'row is', 'rows are')} of downloads that failed"
        yield f"semdis: {one_line(summary)}"

    def _note(self, event: ColumnTrouble) -> None:
        self.code = ExitCode.SOME_FAILED
        self._num_troubles += 1
        if self._num_troubles <= MAX_SHOWN:
            self.display.say(f"column: {one_line(f'{printable(event.key)}: {event.reason}')}")


def _summary(report: dict[str, Any]) -> str:
    """Sum up what images have now, and how many of them have other columns than before."""
    images, columns = report["images"], report["columns"]
    columns = columns | report.get("tensors", {})
    has = ", ".join(f"{name} ({number:,})" for name, number in columns.items()) or "no columns"
    return f"{report['latents']}: {has}; {count(images['changed'], 'image')} changed, {report['elapsed_s']:.1f} s"
