"""Tables as results: of Rich on a terminal, aligned text elsewhere."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from semdis_cli.cli.report import one_line
from semdis_cli.cli.streams import put

_MAX_ROWS = 20


@dataclass(frozen=True)
class Section:
    """A title over a table. `columns`: their headings, those of numbers begin with '#'."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def first_rows(rows: Sequence[tuple[str, ...]], what: str) -> list[tuple[str, ...]]:
    """Return the first rows, and a last one that says how many more there are."""
    shown = list(rows[:_MAX_ROWS])
    if len(rows) > _MAX_ROWS:
        shown.append((f"... and {len(rows) - _MAX_ROWS:,} more {what}", *("" for _ in rows[0][1:])))
    return shown


def show(section: Section) -> None:
    """Print a table: one of Rich on a terminal, aligned text elsewhere."""
    rows = [tuple(map(one_line, row)) for row in section.rows]
    if sys.stdout.isatty():
        _show_table(one_line(section.title), section.columns, rows)
    else:
        _show_text(one_line(section.title), section.columns, rows)


def _show_table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=Text(title), title_justify="left", show_header=any(columns), title_style="bold")
    for heading in columns:
        table.add_column(
            heading.removeprefix("#"), justify="right" if heading.startswith("#") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _show_text(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    lines = [tuple(heading.removeprefix("#") for heading in columns)] if any(columns) else []
    lines += rows
    widths = [max((len(line[number]) for line in lines), default=0) for number in range(len(columns))]
    put(title)
    for line in lines:
        cells = [
            cell.rjust(width) if heading.startswith("#") else cell.ljust(width)
            for cell, width, heading in zip(line, widths, columns, strict=True)
        ]
        put(f"  {'  '.join(cells)}".rstrip())
