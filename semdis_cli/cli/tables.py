"""Tables as results: of Rich on a terminal, aligned text elsewhere."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semdis_cli.cli.report import one_line
from semdis_cli.cli.streams import put

_MAX_ROWS = 20
_LEAST_WIDTH = 12  # of a column of texts, which may take several lines: one of numbers never does
_EDGE = 3  # characters between two columns of Rich's tables


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
    """Print a table: one of Rich on a terminal that is wide enough for its numbers, aligned text elsewhere."""
    rows = [tuple(map(one_line, row)) for row in section.rows]
    if sys.stdout.isatty() and _least_width(section.columns, rows) <= Console().width:
        _show_table(one_line(section.title), section.columns, rows)
    else:
        _show_text(one_line(section.title), section.columns, rows)


def _least_width(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> int:
    """Return how many characters a table of Rich needs to cut no number."""
    needed = 1 + _EDGE * len(columns)
    for at, heading in enumerate(columns):
        width = max(cell_len(cell) for cell in (heading.removeprefix("#"), *(row[at] for row in rows)))
        needed += width if heading.startswith("#") else min(width, _LEAST_WIDTH)
    return needed


def _show_table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=Text(title), title_justify="left", show_header=any(columns), title_style="bold")
    for heading in columns:
        is_number = heading.startswith("#")
        table.add_column(
            heading.removeprefix("#"), justify="right" if is_number else "left", overflow="fold", no_wrap=is_number
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _show_text(title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    lines = [tuple(heading.removeprefix("#") for heading in columns)] if any(columns) else []
    lines += rows
    widths = [max((cell_len(line[number]) for line in lines), default=0) for number in range(len(columns))]
    put(title)
    for line in lines:
        cells = [
            _blank(width, cell) + cell if heading.startswith("#") else cell + _blank(width, cell)
            for cell, width, heading in zip(line, widths, columns, strict=True)
        ]
        put(f"  {'  '.join(cells)}".rstrip())


def _blank(width: int, cell: str) -> str:
    return " " * (width - cell_len(cell))
