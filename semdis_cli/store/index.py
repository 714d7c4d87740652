"""`index.jsonl`: one row per input, failures included, sorted by key."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.json_text import ESCAPED, escape_text, key_fields, parse_json, to_line
from semdis_cli.files.links import why_unreadable
from semdis_cli.files.url import Location
from semdis_cli.records import FileDigest, Geometry, ImageRecord
from semdis_cli.stops import look
from semdis_cli.store.checks import MALFORMED, check_count, check_record_key, check_shard_name, check_text
from semdis_cli.store.record import parse_digest, parse_record, row_fields

_Raw = TypeVar("_Raw")
_Parsed = TypeVar("_Parsed")
_STATUSES = frozenset({"ok", "failed", "removed"})
_MAX_ROW = 1 << 32  # no shard has as many
_MAX_SIDE = 1 << 31  # as of a `Geometry`


@dataclass(frozen=True, slots=True)
class IndexRow:
    """The outcome of one input.

    Without an `error` it has latents: `shard` (file name) and `row` say where, and `record` from what. Otherwise there
    is nothing but the reason. `is_removed`: it has latents, but was no longer among the inputs of the last run.
    """

    key: str
    error: str | None = None
    record: ImageRecord | None = None
    shard: str | None = None
    row: int | None = None
    is_removed: bool = False

    @classmethod
    def of_image(cls, record: ImageRecord, shard: str, row: int) -> Self:
        """The row of an image whose latents are row `row` of `shard`."""
        return cls(key=record.key, record=record, shard=shard, row=row)

    @classmethod
    def of_failure(cls, failure: Failure) -> Self:
        """The row of an input that could not be used."""
        return cls(key=failure.key, error=escape_text(failure.reason))

    @property
    def is_ok(self) -> bool:
        """True if the input has latents that are to be used."""
        return self.error is None and not self.is_removed

    @property
    def source(self) -> FileDigest | None:
        """The file that the latents were made from; None without latents."""
        return self.record.source if self.record is not None else None

    @property
    def status(self) -> str:
        """`ok`, `failed` or `removed`, as written."""
        if self.error is not None:
            return "failed"
        return "removed" if self.is_removed else "ok"

    def to_json(self) -> dict[str, Any]:
        """The row as written, absent facts left out."""
        if self.record is None:
            return {**key_fields(self.key), "status": self.status, "error": self.error}
        return {**row_fields(self.record), "status": self.status, "shard": self.shard, "row": self.row}

    def to_line(self) -> "IndexLine":
        """The row as a line of an index."""
        fields = self.to_json()
        return IndexLine(self.key, self.status, self.shard, self.row, fields, to_line(fields))

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Parse one row of an untrusted file. Raises `StoreError` for anything that is no such row."""
        return parse_row(cls._parse, fields)

    @classmethod
    def _parse(cls, fields: Any) -> Self:
        key, status, shard, row = _parse_head(fields)
        if status == "failed":
            if set(fields) - {ESCAPED} != {"key", "status", "error"}:
                raise ValueError(f"a failed row has other fields: {sorted(fields)}")
            return cls(key, _parse_error(fields))
        if "error" in fields:
            raise ValueError("status and error disagree")
        record = parse_record(key, Geometry.from_json(fields["geometry"]), fields)
        return cls(key, None, record, check_shard_name(shard), row, is_removed=status == "removed")


def _parse_head(fields: Any) -> tuple[str, str, str | None, int | None]:
    """Return what every reader of a row needs: key, status, and shard and row, None of an input that failed.

    Raises one of `MALFORMED`. The rest of a row is for its reader to check; the name of the shard too.
    """
    status = fields["status"]
    if status not in _STATUSES:
        raise ValueError(f"status {status!r:.40}")
    key = check_record_key(fields)
    if status == "failed":
        return key, status, None, None
    row = check_count(fields["row"])
    if row >= _MAX_ROW:
        raise ValueError(f"row {str(row)[:40]} is beyond all shards")
    return key, status, check_text(fields["shard"]), row


def parse_row(parse: Callable[[_Raw], _Parsed], raw: _Raw) -> _Parsed:
    """Return what `parse` makes of an untrusted row. Raises `StoreError` with the reason where it cannot be parsed."""
    try:
        return parse(raw)
    except MALFORMED as error:
        raise StoreError(f"not an index row ({error})") from error


def read_rows(path: Location) -> Iterator[IndexRow]:
    """The rows of an `index.jsonl`, one at a time. Raises `StoreError` naming file and line."""
    for _, number, line in _read_lines(path):
        yield _parse_row(line, path, number)


def _parse_row(line: bytes, path: Location, number: int) -> IndexRow:
    try:
        return IndexRow.from_json(parse_json(line))
    except (ValueError, StoreError) as error:
        raise StoreError(f"line {number}: {error}", place=path) from error


class IndexLine(NamedTuple):
    """One line of an index, `data`, with its `fields`, of which `key`, `status`, `shard` and `row` are checked.

    Neither shard nor row: the input failed. Quick to read, for those who know by its sha256 that the index is ours.
    """

    key: str
    status: str
    shard: str | None
    row: int | None
    fields: Mapping[str, Any]
    data: bytes

    @property
    def place(self) -> tuple[str, int] | None:
        """Shard and row of the latents."""
        return None if self.shard is None or self.row is None else (self.shard, self.row)

    @property
    def source(self) -> FileDigest | None:
        """The file that the latents were made from; None without latents. Raises `StoreError` if that is not said."""
        return None if self.shard is None else parse_row(parse_digest, self.fields)

    @property
    def error(self) -> str | None:
        """The reason of a failure; None with latents. Raises `StoreError` if that is not said."""
        return None if self.shard is not None else parse_row(_parse_error, self.fields)


def _parse_error(fields: Mapping[str, Any]) -> str:
    return check_text(fields["error"])


def parse_line(data: bytes) -> IndexLine:
    """Parse a line of an index; for `parse_row`. Raises one of `MALFORMED`."""
    fields = parse_json(data)
    return IndexLine(*_parse_head(fields), fields, data)


class Place(NamedTuple):
    """The part of a row by which latents are served: where they are; `columns` as written, not checked.

    `sizes`: (H, W) of source and image.
    """

    key: str
    shard: str
    row: int
    sizes: tuple[list[int], list[int]]
    columns: Any


def parse_place(line: bytes) -> Place | None:
    """Return the place of a row, None if it is not to be used; for `parse_row`. Raises one of `MALFORMED`.

    The rest of a row is not looked at, to be quick: there may be millions.
    """
    fields = parse_json(line)
    key, status, shard, row = _parse_head(fields)
    if status != "ok" or shard is None or row is None:
        return None
    geometry = fields["geometry"]
    return Place(key, shard, row, (_size(geometry["source"]), _size(geometry["image"])), fields.get("columns", {}))


def _size(value: Any) -> list[int]:
    """Return `value` if it is (H, W) as a list. Raises one of `MALFORMED`."""
    height, width = value
    if type(value) is not list or type(height) is not int or type(width) is not int:
        raise ValueError(f"{str(value)[:40]} is no size")
    if not (0 < height < _MAX_SIDE and 0 < width < _MAX_SIDE):
        raise ValueError(f"the size {str(value)[:40]} is out of range")
    return value


def read_places(path: Location) -> Iterator[tuple[int, Place]]:
    """Give the places in an `index.jsonl`, each with the byte at which its line begins.

    What they say is for the caller to hold against the shards. Raises `StoreError` naming file and line.
    """
    for offset, number, line in _read_lines(path):
        try:
            place = parse_row(parse_place, line)
        except StoreError as error:
            raise StoreError(f"line {number}: {error.reason}", place=path) from error
        if place is not None:
            yield offset, place


def _read_lines(path: Location) -> Iterator[tuple[int, int, bytes]]:
    """Give all lines, each with the byte at which it begins, and its number. Raises `StoreError`."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                look()
                yield offset, number, line
                offset += len(line)
    except OSError as error:
        raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error


class Keyed(Protocol):
    """Anything that is known by a key."""

    @property
    def key(self) -> str:
        """The key, by which rows are sorted."""


_Row = TypeVar("_Row", bound=Keyed)


def merge_rows(sorted_groups: Iterable[tuple[str, Iterable[_Row]]]) -> Iterator[_Row]:
    """Merge groups of rows, each sorted by key, into one sorted stream.

    `sorted_groups`: (first key of the group, its rows), sorted by first key. A group is opened only when its first key
    is next, so memory holds the groups that overlap, not all of them.
    """
    heap: list[tuple[str, int, _Row, Iterator[_Row]]] = []

    def advance(number: int, rows: Iterator[_Row]) -> None:
        row = next(rows, None)
        if row is not None:
            heapq.heappush(heap, (row.key, number, row, rows))

    def pop() -> _Row:
        look()
        _, number, row, rows = heapq.heappop(heap)
        advance(number, rows)
        return row

    for number, (first_key, group) in enumerate(sorted_groups):
        while heap and heap[0][0] < first_key:
            yield pop()
        advance(number, iter(group))
    while heap:
        yield pop()
