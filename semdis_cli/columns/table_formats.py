"""Rows of tables as they lie in files: of JSON lines, of CSV, and where each begins."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

from semdis_cli.columns.values import read_object
from semdis_cli.records import MAX_BESIDE_BYTES

MAX_ROW_BYTES = MAX_BESIDE_BYTES


class FoundRow(NamedTuple):
    """One row of a table: its number from 1 on, the stretch of the file that holds it, and its fields.

    `fields`: why there are none, for a row that cannot be read.
    """

    number: int
    start: int
    num_bytes: int
    fields: dict[str, Any] | ValueError


class TableFormat(Protocol):
    """Format of a table in a file."""

    def rows(self, file: BinaryIO) -> Iterator[FoundRow]:
        """Yield the rows of a file that was just opened. Raises `ValueError` if it is no such table."""

    def parse(self, data: bytes) -> dict[str, Any]:
        """Return the fields of one row, from its stretch of the file. Raises `ValueError`."""


class JsonLines:
    """A JSON object a line. Blank lines are no rows, but are counted."""

    def rows(self, file: BinaryIO) -> Iterator[FoundRow]:
        """Yield the rows."""
        start = number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            num_bytes = len(line) + (_skip_line(file) if len(line) > MAX_ROW_BYTES else 0)
            if not line.isspace():
                yield FoundRow(number, start, min(num_bytes, MAX_ROW_BYTES + 1), self._parsed(line))
            start += num_bytes

    def parse(self, data: bytes) -> dict[str, Any]:
        """Return the fields of one row. Raises `ValueError`."""
        return read_object(data)

    def _parsed(self, line: bytes) -> dict[str, Any] | ValueError:
        try:
            return self.parse(line)
        except ValueError as error:
            return error


def _skip_line(file: BinaryIO) -> int:
    """Read on to the end of a line that is too long, and count its bytes."""
    num_bytes = 0
    while line := file.readline(MAX_ROW_BYTES):
        num_bytes += len(line)
        if line.endswith(b"\n"):
            break
    return num_bytes


@dataclass(frozen=True)
class DelimitedText:
    """CSV and the like, the first row of which names the columns. All values are texts; an empty one is none."""

    delimiter: str
    names: Sequence[str] = ()  # as the first row of a file that was opened has them

    def opened(self, file: BinaryIO) -> "DelimitedText":
        """Return the format with the names of a file. Raises `ValueError` if it has none, or one twice."""
        lines = _Lines(file)
        try:
            names = next(self._reader(lines), [])
        except csv.Error as error:
            raise ValueError(f"its first row cannot be read ({error})") from error
        if not names or len(set(names)) < len(names) or not all(names):
            raise ValueError("its first row does not name the columns, each once")
        return DelimitedText(self.delimiter, names)

    def rows(self, file: BinaryIO) -> Iterator[FoundRow]:
        """Yield the rows. Raises `ValueError` if the first one cannot be the names of columns."""
        lines = _Lines(file)
        reader, number = self._reader(lines), 0
        while True:
            lines.begin()
            try:
                fields = self._next(reader, is_header=number == 0)
            except StopIteration:
                return
            if fields:
                yield FoundRow(number, lines.start, lines.position - lines.start, fields)
            number += 1

    def _next(self, reader: Iterator[list[str]], *, is_header: bool) -> dict[str, Any] | ValueError:
        """Read one row; nothing of a blank one, and of that with the names. Raises `StopIteration` at the end."""
        try:
            cells = next(reader)
            return {} if is_header else self._fields(cells)
        except csv.Error as error:
            return ValueError(f"is no row ({error})")
        except ValueError as error:
            return error

    def parse(self, data: bytes) -> dict[str, Any]:
        """Return the fields of one row. Raises `ValueError`."""
        return self._fields(next(self._reader(io.StringIO(data.decode(), newline="")), []))

    def _reader(self, lines: Any) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self.delimiter, strict=True)

    def _fields(self, cells: Sequence[str]) -> dict[str, Any]:
        if cells and len(cells) != len(self.names):
            raise ValueError(f"has {len(cells)} cells, but there are {len(self.names)} columns")
        return {name: cell for name, cell in zip(self.names, cells, strict=False) if cell}


class _Lines:
    """Lines of a file as texts, of which it is known where each row begins, and how far it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.start = self.position = 0

    def begin(self) -> None:
        """Note that a row begins here."""
        self.start = self.position

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        is_first = self.position == 0
        self.position += len(line)
        if self.position - self.start > MAX_ROW_BYTES:
            raise ValueError(f"is larger than {MAX_ROW_BYTES >> 10:,} KiB; is a quotation mark missing?")
        try:
            return line.decode("utf-8-sig" if is_first else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError("is not UTF-8") from error
