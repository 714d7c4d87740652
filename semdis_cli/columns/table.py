"""Tables of what belongs to images, joined by key: of a row there is in memory where it lies, not what it says.

A million rows take 20 MB. A row is read, and held against the key, when its image is.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdis_cli.columns.spooled import SpooledRows
from semdis_cli.columns.table_file import KEY_COLUMNS, are_plain, find_key_column, key_in, open_rows_of, spool_rows
from semdis_cli.columns.table_formats import FoundRow, TableFormat
from semdis_cli.errors import UsageError
from semdis_cli.events import ColumnTrouble
from semdis_cli.files.disk import open_at_once
from semdis_cli.stops import look, looking

_MAX_BAD_ROWS = 1000  # more: it is no table


@dataclass(frozen=True)
class TableFile:
    """One file of a table. The key of a row is `prefix` and what the row says."""

    path: Path
    prefix: str = ""


@dataclass(frozen=True)
class _Part:
    """A file of rows, as it was when these were found. `path`: where they are; `shown`: where users know them to be."""

    shown: Path
    path: Path
    prefix: str
    key_column: str
    format: TableFormat
    stamp: tuple[int, int]
    kept: object = None  # what holds the file open

    def row(self, start: int, num_bytes: int) -> dict[str, Any]:
        """Read the row in that stretch of the file. Raises `ValueError`."""
        try:
            descriptor = open_at_once(self.path)
            try:
                status = os.fstat(descriptor)
                data = os.pread(descriptor, num_bytes, start)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from error
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            raise ValueError("was changed while the run was going on; run again")
        return self.format.parse(data)

    def key_of(self, fields: Mapping[str, Any]) -> str:
        """Return the key that a row is about. Raises `ValueError` if it names none."""
        return self.prefix + key_in(fields, self.key_column)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of one or several files, found by the keys of images.

    `opened`: what `open_tables` was given. `columns`: their names, those of keys left out. `classes`: names of the
    numbers in a column, by its name, where the file says them. `bad_rows`: rows that cannot be read. `first_key`: that
    of the first row that can, None if there is none. Of two rows for one key the first one counts. In another process
    the files are opened anew.
    """

    opened: tuple[tuple["TableFile", ...], str, str | None]
    columns: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    bad_rows: tuple[ColumnTrouble, ...]
    first_key: str | None
    _parts: tuple[_Part, ...]
    _hashes: NDArray[np.int64]  # of the keys, rising; rows of one hash are in their order
    _starts: NDArray[np.uint64]
    _sizes: NDArray[np.uint32]
    _part_of: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self._hashes)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_tables, self.opened  # hashes of keys are others in every process

    @property
    def name(self) -> str:
        """Name by which it is known."""
        return self.opened[1]

    def find(self, key: str) -> dict[str, Any] | None:
        """Return the fields of the row for `key`, None if there is none. Raises `ValueError` if it cannot be read."""
        hashed = hash(key)
        at = int(np.searchsorted(self._hashes, hashed))
        while at < len(self) and self._hashes[at] == hashed:
            found, fields = self._row(at)
            if found == key:
                return fields
            at += 1
        return None

    def repeated(self) -> Iterator[ColumnTrouble]:
        """Yield the rows that count for nothing because another one for their key comes before."""
        again = np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1
        for at in map(int, again):
            key = self._row(at)[0]
            if key == self._row(at - 1)[0]:
                yield ColumnTrouble(key, f"has another row in {self._name(at)}, which is not used")

    def unused(self, keys: Iterable[str]) -> Iterator[ColumnTrouble]:
        """Yield the rows for none of `keys`."""
        known = np.fromiter(map(hash, keys), np.int64)
        for at in map(int, np.flatnonzero(~np.isin(self._hashes, known))):
            look()
            yield ColumnTrouble(self._row(at)[0], f"has a row in {self._name(at)}, but is no image of this run")

    def has_any(self, keys: Iterable[str]) -> bool:
        """Tell whether there is a row for one of `keys`."""
        return bool(np.isin(self._hashes, np.fromiter(map(hash, keys), np.int64)).any())

    def values(self, column: str) -> Iterator[Any]:
        """Yield all values of a column in the order of the rows, those of rows that are not used too."""
        for at in map(int, np.lexsort((self._starts, self._part_of))):
            look()
            with suppress(ValueError):  # whoever finds the row says what is wrong
                yield self._row(at)[1].get(column)

    def _name(self, at: int) -> str:
        return self._parts[int(self._part_of[at])].shown.name

    def _row(self, at: int) -> tuple[str, dict[str, Any]]:
        part = self._parts[int(self._part_of[at])]
        try:
            fields = part.row(int(self._starts[at]), int(self._sizes[at]))
            return part.key_of(fields), fields
        except ValueError as error:
            raise ValueError(f"{part.shown.name} {error}") from error


def open_table(path: Path, on: str | None = None) -> Table:
    """Open a table: JSON lines, CSV, TSV, JSON or Parquet, by its suffix.

    `on`: the column of keys; None: the first of `KEY_COLUMNS` that it has. Raises `UsageError` for what cannot be
    opened or is no such table, and `MissingExtraError` where Parquet cannot be read.
    """
    return open_tables([TableFile(path)], path.name, on)


def open_tables(files: Sequence[TableFile], name: str, on: str | None = None) -> Table:
    """Open several tables as one, which is called `name`; otherwise as `open_table`."""
    found = _Found()
    for file in files:
        found.add(file, on)
    return found.table((tuple(files), name, on))


@dataclass
class _Found:
    """Rows found so far."""

    parts: list[_Part] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)  # as a set that keeps its order
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bad_rows: list[ColumnTrouble] = field(default_factory=list)
    first_key: str | None = None
    hashes: "array[int]" = field(default_factory=lambda: array("q"))
    starts: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("I"))
    part_of: "array[int]" = field(default_factory=lambda: array("I"))

    def add(self, file: TableFile, on: str | None) -> None:
        """Find the rows of one file."""
        spooled = spool_rows(file.path)
        if spooled is not None:
            self._take_classes(file.path, spooled)
        path = file.path if spooled is None else spooled.path
        with open_rows_of(file.path, spooled) as (opened, form):
            status = os.fstat(opened.fileno())
            part = _Part(file.path, path, file.prefix, on or "", form, (status.st_size, status.st_mtime_ns), spooled)
            for row in looking(form.rows(opened)):
                part = self._add(part, row)

    def _take_classes(self, path: Path, spooled: SpooledRows) -> None:
        for name, classes in spooled.classes.items():
            if self.classes.setdefault(name, classes) != classes:
                raise UsageError(
                    f"names the classes of {name!r:.60} in another way than the tables before it", place=path
                )

    def _add(self, part: _Part, row: FoundRow) -> _Part:
        """Note one row; the first good one of a file says under which name the keys are."""
        try:
            if isinstance(row.fields, ValueError):
                raise row.fields
            if not self.parts or self.parts[-1] is not part:
                part = replace(part, key_column=find_key_column(part.shown, part.format, part.key_column, row.fields))
                self.parts.append(part)
            key = part.key_of(row.fields)
        except ValueError as error:
            self._note_bad(part, row, error)
            return part
        self.columns.update(dict.fromkeys(row.fields))
        self.first_key = self.first_key or key
        self.hashes.append(hash(key))
        self.starts.append(row.start)
        self.sizes.append(row.num_bytes)
        self.part_of.append(len(self.parts) - 1)
        return part

    def _note_bad(self, part: _Part, row: FoundRow, error: ValueError) -> None:
        self.bad_rows.append(ColumnTrouble(f"{part.shown.name}, row {row.number:,}", str(error)))
        if len(self.bad_rows) > _MAX_BAD_ROWS:
            what = f"is no table: row {row.number:,} {error}, and {_MAX_BAD_ROWS:,} before it are no better"
            raise UsageError(what, place=part.shown) from error

    def table(self, opened: tuple[tuple[TableFile, ...], str, str | None]) -> Table:
        """Return the table of all rows."""
        hashes = np.array(self.hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        keys = {part.key_column for part in self.parts}
        return Table(
            opened,
            tuple(column for column in self.columns if column not in keys),
            self.classes,
            tuple(self.bad_rows),
            self.first_key,
            tuple(self.parts),
            hashes[order],
            np.array(self.starts, np.uint64)[order],
            np.array(self.sizes, np.uint32)[order],
            np.array(self.part_of, np.uint32)[order],
        )


# One row of a table: its number from 1 on, the key that it is about, and its fields; of a row that cannot be read or
# names no image why there are none, and no key. A plain tuple: there may be millions.
KeyedRow = tuple[int, str, dict[str, Any] | ValueError]


@dataclass(frozen=True)
class OpenedTable:
    """A table that is read once, from its first row to its last.

    `key_column`: the name under which the keys are; None if there is no row that can be read.
    """

    file: TableFile
    key_column: str | None
    _spooled: SpooledRows | None

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the numbers in a column, by its name."""
        return {} if self._spooled is None else self._spooled.classes

    def batches(self) -> Iterator[list[KeyedRow]]:
        """Yield the rows, many at a time. Raises `UsageError` if the file cannot be read, or is no such table."""
        with open_rows_of(self.file.path, self._spooled) as (file, form):
            for numbers, fields in looking(form.batches(file)):
                yield self._keyed(numbers, fields)

    def _keyed(self, numbers: Sequence[int], fields: Sequence[dict[str, Any] | ValueError]) -> list[KeyedRow]:
        column = self.key_column or ""
        with suppress(AttributeError, TypeError):  # of rows that cannot be read, or have no text for a key
            keys: list[Any] = [row.get(column) for row in fields]  # type: ignore[union-attr]
            if all(keys) and are_plain(keys):
                return list(zip(numbers, keys, fields, strict=True))
        return [_keyed(number, row, column) for number, row in zip(numbers, fields, strict=True)]


def _keyed(number: int, fields: dict[str, Any] | ValueError, column: str) -> KeyedRow:
    """Return a row with its key."""
    if isinstance(fields, ValueError):
        return number, "", fields
    try:
        return number, key_in(fields, column), fields
    except ValueError as error:
        return number, "", error


def open_rows(path: Path, on: str | None = None) -> OpenedTable:
    """Open a table to be read once; arguments and errors as of `open_table`."""
    spooled = spool_rows(path)
    with open_rows_of(path, spooled) as (opened, form):
        readable = (row.fields for row in looking(form.rows(opened)) if not isinstance(row.fields, ValueError))
        first = next(readable, None)
        wanted = {on} if on else {*KEY_COLUMNS}
        named = (
            first if first is None or wanted & first.keys() else next((r for r in readable if wanted & r.keys()), first)
        )
    key_column = None if named is None else find_key_column(path, form, on, named)
    return OpenedTable(TableFile(path), key_column, spooled)
