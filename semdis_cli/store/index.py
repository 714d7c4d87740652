"""`index.jsonl`: one row per input, failures included, sorted by key."""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.json_text import ESCAPED, escape_text, key_fields
from semdis_cli.files.links import why_unreadable
from semdis_cli.records import Geometry, LoadedImage
from semdis_cli.store.checks import (
    MALFORMED,
    check_count,
    check_record_key,
    check_sha256,
    check_shard_name,
    check_text,
    check_texts,
    parse_json,
)

_MAX_ROW = 1 << 32  # no shard has as many


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What became of one input.

    `error` None: it has latents, and `shard` (file name) and `row` say where. Otherwise the reason, and no place.
    `num_bytes`, `sha256` of the source file are None where it could not be read. `is_removed`: it has latents, but was
    no longer among the inputs of the last run.
    """

    key: str
    error: str | None = None
    num_bytes: int | None = None
    sha256: str | None = None
    geometry: Geometry | None = None
    shard: str | None = None
    row: int | None = None
    notes: tuple[str, ...] = ()
    is_removed: bool = False

    @classmethod
    def of_image(cls, image: LoadedImage, shard: str, row: int) -> Self:
        """The row of an image whose latents are row `row` of `shard`."""
        return cls(
            key=image.key,
            num_bytes=image.num_bytes,
            sha256=image.sha256,
            geometry=image.geometry,
            shard=shard,
            row=row,
            notes=tuple(map(escape_text, image.notes)),
        )

    @classmethod
    def of_failure(cls, failure: Failure) -> Self:
        """The row of an input that could not be used."""
        return cls(key=failure.key, error=escape_text(failure.reason))

    @property
    def is_ok(self) -> bool:
        """Whether the input has latents that are to be used."""
        return self.error is None and not self.is_removed

    @property
    def status(self) -> str:
        """`ok`, `failed` or `removed`, as written."""
        if self.error is not None:
            return "failed"
        return "removed" if self.is_removed else "ok"

    def to_json(self) -> dict[str, Any]:
        """The row as written, absent facts left out."""
        fields: dict[str, Any] = {**key_fields(self.key), "status": self.status}
        optional = {
            "error": self.error,
            "num_bytes": self.num_bytes,
            "sha256": self.sha256,
            "geometry": self.geometry and self.geometry.to_json(),
            "shard": self.shard,
            "row": self.row,
            "notes": list(self.notes) or None,
        }
        return fields | {name: value for name, value in optional.items() if value is not None}

    @classmethod
    def from_json(cls, fields: Any) -> Self:
        """Parse one row of an untrusted file. Raises `StoreError` for anything that is no such row."""
        try:
            return cls._failed(fields) if fields["status"] == "failed" else cls._ok(fields)
        except MALFORMED as error:
            raise StoreError(f"not an index row ({error})") from error

    @classmethod
    def _failed(cls, fields: dict[str, Any]) -> Self:
        if set(fields) - {ESCAPED} != {"key", "status", "error"}:
            raise ValueError(f"a failed row has other fields: {sorted(fields)}")
        return cls(key=check_record_key(fields), error=check_text(fields["error"]))

    @classmethod
    def _ok(cls, fields: dict[str, Any]) -> Self:
        if fields["status"] not in {"ok", "removed"} or "error" in fields:
            raise ValueError("status and error disagree")
        return cls(
            key=check_record_key(fields),
            num_bytes=check_count(fields["num_bytes"]),
            sha256=check_sha256(fields["sha256"]),
            geometry=Geometry.from_json(fields["geometry"]),
            shard=check_shard_name(fields["shard"]),
            row=check_count(fields["row"]),
            notes=check_texts(fields.get("notes", [])),
            is_removed=fields["status"] == "removed",
        )


def to_line(fields: dict[str, Any]) -> bytes:
    """One JSON line: sorted keys, ASCII, no spaces. Names in `fields` are escaped by whoever puts them there."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def read_rows(path: Path) -> Iterator[IndexRow]:
    """The rows of an `index.jsonl`, one at a time. Raises `StoreError` naming file and line."""
    for _, number, line in _read_lines(path):
        yield _parse_row(line, f"{path}: line {number}")


def _parse_row(line: bytes, place: str) -> IndexRow:
    try:
        return IndexRow.from_json(parse_json(line))
    except (ValueError, StoreError) as error:
        raise StoreError(f"{place}: {error}") from error


class Place(NamedTuple):
    """The part of a row by which latents are served: where they are; `geometry` as it is written, not checked."""

    key: str
    shard: str
    row: int
    geometry: Any


def parse_place(line: bytes) -> Place | None:
    """Return the place of a row, None if it is not to be used. Raises one of `MALFORMED`.

    The rest of a row is not looked at, to be quick: there may be millions.
    """
    fields = parse_json(line)
    if fields["status"] != "ok":
        return None
    key, shard, row = check_record_key(fields), check_text(fields["shard"]), check_count(fields["row"])
    if row >= _MAX_ROW:
        raise ValueError(f"row {str(row)[:40]} is beyond all shards")
    return Place(key, shard, row, fields["geometry"])


def read_places(path: Path) -> Iterator[tuple[int, Place]]:
    """Give the places in an `index.jsonl`, each with the byte at which its line begins.

    What they say is for the caller to hold against the shards. Raises `StoreError` naming file and line.
    """
    for offset, number, line in _read_lines(path):
        try:
            place = parse_place(line)
        except MALFORMED as error:
            raise StoreError(f"{path}: line {number}: not an index row ({error})") from error
        if place is not None:
            yield offset, place


def _read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Give all lines, each with the byte at which it begins, and its number. Raises `StoreError`."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield offset, number, line
                offset += len(line)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({why_unreadable(path, error)})") from error


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
        _, number, row, rows = heapq.heappop(heap)
        advance(number, rows)
        return row

    for number, (first_key, group) in enumerate(sorted_groups):
        while heap and heap[0][0] < first_key:
            yield pop()
        advance(number, iter(group))
    while heap:
        yield pop()
