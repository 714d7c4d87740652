"""Figures of all images of a run: the tables that people read, and what they come to."""

import csv
import io
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import heappush, heappushpop
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from semdis_cli.files.atomic import PendingFile
from semdis_cli.files.json_text import escape_name, escape_text, key_fields, to_line
from semdis_cli.metrics.paired import MIN_PAIRS, PairedDifference, paired_difference
from semdis_cli.metrics.registry import METRICS, PSNR_DB
from semdis_cli.metrics.summary import Summary, summarise
from semdis_cli.pipeline.measuring.figures import FigureRow
from semdis_cli.settings.page import FigureFormat
from semdis_cli.store.exchange.parquet_writer import Field, ParquetWriter

FIGURES_STEM = "figures"
_DIGITS = 6
_NUM_WORST = 10

Values = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredFigures:
    """Sums of the figures of all images of a run.

    `values`: of each contender by metric, in key order, NaN where there is none. `worst`: the images of least PSNR by
    the first contender, worst first.
    """

    num_ok: int
    num_failed: int
    values: tuple[Mapping[str, Values], ...]
    worst: tuple[FigureRow, ...]

    def summaries(self, contender: int = 0) -> dict[str, Summary]:
        """Sum up every metric of a contender that an image has."""
        known = {name: values[~np.isnan(values)] for name, values in self.values[contender].items()}
        return {name: summarise(values) for name, values in known.items() if len(values)}

    def differences(self, contender: int) -> dict[str, PairedDifference]:
        """Compare a contender with the first one, image by image, where both have a metric."""
        found = {}
        for name, values in self.values[contender].items():
            baseline = self.values[0].get(name)
            if baseline is None:
                continue
            both = ~(np.isnan(values) | np.isnan(baseline))
            if both.sum() >= MIN_PAIRS:
                found[name] = paired_difference(
                    values[both], baseline[both], is_better_high=METRICS[name].is_better_high
                )
        return found


class _Sums:
    """Collects the figures of rows."""

    def __init__(self, num_contenders: int) -> None:
        self._num_ok = self._num_failed = 0
        self._columns: tuple[dict[str, array[float]], ...] = tuple({} for _ in range(num_contenders))
        self._worst: list[tuple[float, int, FigureRow]] = []  # a heap of those of least PSNR, the best of them first

    def add(self, row: FigureRow) -> None:
        """Take a row."""
        if row.error is not None:
            self._num_failed += 1
            return
        for columns, figures in zip(self._columns, row.figures, strict=True):
            for name, value in figures.items():
                column = columns.setdefault(name, array("d"))
                column.extend([np.nan] * (self._num_ok - len(column)))
                column.append(value)
        self._num_ok += 1
        rank = (-row.figures[0][PSNR_DB], -self._num_ok, row)  # of equals the first ones
        if len(self._worst) < _NUM_WORST:
            heappush(self._worst, rank)
        else:
            heappushpop(self._worst, rank)

    def finish(self) -> MeasuredFigures:
        """Return what the rows came to, metrics in their usual order."""
        for columns in self._columns:
            for column in columns.values():
                column.extend([np.nan] * (self._num_ok - len(column)))
        values = tuple(
            {name: np.frombuffer(columns[name], np.float64) for name in METRICS if name in columns}
            for columns in self._columns
        )
        worst = tuple(row for _, _, row in sorted(self._worst, reverse=True))
        return MeasuredFigures(self._num_ok, self._num_failed, values, worst)


class _Table(Protocol):
    """A table of figures that is being written."""

    def add(self, row: FigureRow) -> None:
        """Write a row."""

    def end(self) -> None:
        """Write what is left."""

    def abandon(self) -> None:
        """Write nothing any more."""


def figures_json(row: FigureRow, titles: Sequence[str]) -> dict[str, Any]:
    """Return the figures of an image as plain values, of several contenders by their titles; or its error."""
    if row.error is not None:
        return {"error": escape_text(row.error)}
    rounded = [{name: round(value, _DIGITS) for name, value in one.items()} for one in row.figures]
    return rounded[0] if len(rounded) == 1 else {"contenders": dict(zip(titles, rounded, strict=True))}


class _JsonLines:
    """A line an image: its figures, of several contenders by their titles."""

    def __init__(self, file: PendingFile, titles: Sequence[str]) -> None:
        self._file, self._titles = file, titles

    def add(self, row: FigureRow) -> None:
        """Write a row."""
        self._file.write(to_line({**key_fields(row.key), **figures_json(row, self._titles)}))

    def end(self) -> None:
        """Write nothing more."""

    def abandon(self) -> None:
        """Hold nothing that would have to be let go."""


class _Csv:
    """Columns: the key, every metric of every contender, the error."""

    def __init__(self, file: PendingFile, columns: Sequence["_Column"]) -> None:
        self._file, self._columns = file, columns
        self._write(["key", *(column.name for column in columns), "error"])

    def add(self, row: FigureRow) -> None:
        """Write a row."""
        values = [column.of(row) for column in self._columns]
        texts = ["" if value is None else str(round(value, _DIGITS)) for value in values]
        self._write([escape_name(row.key), *texts, escape_text(row.error or "")])

    def end(self) -> None:
        """Write nothing more."""

    def abandon(self) -> None:
        """Hold nothing that would have to be let go."""

    def _write(self, cells: Iterable[str]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(cells)
        self._file.write(text.getvalue().encode())


class _Parquet:
    """Columns as in a CSV, with nulls."""

    def __init__(self, file: PendingFile, columns: Sequence["_Column"]) -> None:
        self._columns = columns
        numbers = [Field(column.name, "float") for column in columns]
        self._writer = ParquetWriter(file, [Field("key", "text"), *numbers, Field("error", "text")], {})

    def add(self, row: FigureRow) -> None:
        """Write a row."""
        numbers = {column.name: column.of(row) for column in self._columns}
        error = None if row.error is None else escape_text(row.error)
        self._writer.add({"key": escape_name(row.key), **numbers, "error": error}, 100)

    def end(self) -> None:
        """Write the rest, and the end of the file."""
        self._writer.end()

    def abandon(self) -> None:
        """Have pyarrow write nothing where it lets go of the file."""
        self._writer.abandon()


@dataclass(frozen=True)
class _Column:
    """A metric of a contender as a column of a table."""

    name: str
    contender: int
    metric: str

    def of(self, row: FigureRow) -> float | None:
        """Return the value in a row; None where there is none."""
        return None if row.error is not None else row.figures[self.contender].get(self.metric)


def _columns(titles: Sequence[str], metrics: Sequence[str]) -> list[_Column]:
    prefixes = [""] if len(titles) == 1 else [f"{title}: " for title in titles]
    return [
        _Column(f"{prefix}{metric}", number, metric) for number, prefix in enumerate(prefixes) for metric in metrics
    ]


def write_figures(
    output: Path,
    formats: Sequence[FigureFormat],
    titles: Sequence[str],
    metrics: Sequence[str],
    rows: Iterator[FigureRow],
) -> MeasuredFigures:
    """Publish a table of all `rows` in each of `formats`, and return what they come to; no row is held.

    Tables of an earlier run in other formats are removed: they may say something else. `titles`: of the contenders.
    `metrics`: the columns of each where the table has columns. Raises as `publish`.
    """
    sums, columns = _Sums(len(titles)), _columns(titles, metrics)
    with ExitStack() as on_failure:
        tables: list[_Table] = []
        files: list[PendingFile] = []
        for one in formats:
            files.append(PendingFile(output / f"{FIGURES_STEM}.{one}"))
            on_failure.callback(files[-1].discard)
            tables.append(_JsonLines(files[-1], titles) if one == "jsonl" else _TABLES[one](files[-1], columns))
            on_failure.callback(tables[-1].abandon)
        for row in rows:
            sums.add(row)
            for table in tables:
                table.add(row)
        for table, file in zip(tables, files, strict=True):
            table.end()
            file.publish()
        on_failure.pop_all()
    for other in set(get_args(FigureFormat)) - set(formats):
        (output / f"{FIGURES_STEM}.{other}").unlink(missing_ok=True)
    return sums.finish()


_TABLES: dict[str, Callable[[PendingFile, Sequence[_Column]], _Table]] = {"csv": _Csv, "parquet": _Parquet}
