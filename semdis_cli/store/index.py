"""`index.jsonl`: one row per input, failures included, sorted by key."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.json_text import ESCAPED, escape_text, is_strange, key_fields, parse_json, to_line
from semdis_cli.files.links import why_unreadable
from semdis_cli.files.url import Location
from semdis_cli.records import FileDigest, Geometry, ImageRecord, content_of
from semdis_cli.stops import look
from semdis_cli.store.checks import MALFORMED, check_count, check_record_key, check_shard_name, check_text
from semdis_cli.store.record import geometry_text, parse_digest, parse_mask, parse_record, row_fields

_Raw = TypeVar("_Raw")
_Parsed = TypeVar("_Parsed")
_STATUSES = frozenset({"ok", "failed", "removed", "left_out"})
_MAX_ROW = 1 << 32  # no shard has as many
_MAX_SIDE = 1 << 31  # as of a `Geometry`
_quoted = json.encoder.encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class IndexRow:
    """The outcome of one input.

    With a `record` it has latents: `shard` (file name) and `row` say where. Otherwise there is the `error`, or why it
    was `left_out`. `is_removed`: it has latents, but was no longer among the inputs of the last run, or set aside: by
    the filter `set_aside_by`.
    """

    key: str
    error: str | None = None
    record: ImageRecord | None = None
    shard: str | None = None
    row: int | None = None
    is_removed: bool = False
    left_out: LeftOut | None = None
    set_aside_by: str | None = None

    @classmethod
    def of_image(cls, record: ImageRecord, shard: str, row: int) -> Self:
        """The row of an image whose latents are row `row` of `shard`."""
        return cls(key=record.key, record=record, shard=shard, row=row)

    @classmethod
    def of_failure(cls, failure: Failure) -> Self:
        """The row of an input that could not be used."""
        return cls(key=failure.key, error=escape_text(failure.reason))

    @classmethod
    def of_left_out(cls, left_out: LeftOut) -> Self:
        """The row of an input that a filter left out."""
        return cls(key=left_out.key, left_out=left_out)

    @property
    def is_ok(self) -> bool:
        """True if the input has latents that are to be used."""
        return self.record is not None and not self.is_removed

    @property
    def left_out_by(self) -> str | None:
        """The filter that left the input out, latents or not; None: none did."""
        return self.left_out.reason if self.left_out is not None else self.set_aside_by

    @property
    def source(self) -> FileDigest | None:
        """The file that the latents were made from; None without latents."""
        return self.record.source if self.record is not None else None

    @property
    def content(self) -> str | None:
        """Identity of all that the latents were made from, as `content_of` gives it; None without latents."""
        return None if self.record is None else content_of(self.record.source.sha256, self.record.mask_sha256)

    @property
    def status(self) -> str:
        """`ok`, `failed`, `removed` or `left_out`, as written."""
        if self.error is not None:
            return "failed"
        if self.left_out is not None:
            return "left_out"
        return "removed" if self.is_removed else "ok"

    def to_json(self) -> dict[str, Any]:
        """The row as written, absent facts left out."""
        if self.left_out is not None:
            return {**key_fields(self.key), "status": self.status, **_why_left_out(self.left_out)}
        if self.record is None:
            return {**key_fields(self.key), "status": self.status, "error": self.error}
        reason = {} if self.set_aside_by is None else {"reason": self.set_aside_by}
        return {**row_fields(self.record), "status": self.status, "shard": self.shard, "row": self.row, **reason}

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
        if status == "left_out":
            return cls.of_left_out(_parse_left_out(key, fields))
        if "error" in fields:
            raise ValueError("status and error disagree")
        record = parse_record(key, Geometry.from_json(fields["geometry"]), fields)
        is_removed = status == "removed"
        return cls(
            key,
            record=record,
            shard=check_shard_name(shard),
            row=row,
            is_removed=is_removed,
            set_aside_by=_parse_set_aside(fields) if is_removed else None,
        )


def _parse_head(fields: Any) -> tuple[str, str, str | None, int | None]:
    """Return what every reader of a row needs: key, status, and shard and row, None of an input without latents.

    Raises one of `MALFORMED`. The rest of a row is for its reader to check; the name of the shard too.
    """
    status = fields["status"]
    if status not in _STATUSES:
        raise ValueError(f"status {status!r:.40}")
    key = check_record_key(fields)
    if status in {"failed", "left_out"}:
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


def image_line(record: ImageRecord, shard: str, row: int) -> bytes:
    """Return the line of an image whose latents are row `row` of `shard`: that of `IndexRow.of_image`."""
    key, source = record.key, record.source
    if record.columns or record.notes or record.mask_sha256 is not None or is_strange(key):
        return IndexRow.of_image(record, shard, row).to_line().data
    return (
        f'{{"geometry":{geometry_text(record.geometry)},"key":{_quoted(key)},"num_bytes":{source.num_bytes},'
        f'"row":{row},"sha256":"{source.sha256}","shard":"{shard}","status":"ok"}}\n'
    ).encode()


class IndexLine(NamedTuple):
    """One line of an index, `data`, with its `fields`, of which `key`, `status`, `shard` and `row` are checked.

    Neither shard nor row: there are no latents. Quick to read, for those who know by its sha256 that the index is ours.
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
    def content(self) -> str | None:
        """As `IndexRow.content`. Raises `StoreError` if that is not said."""
        source = self.source
        return None if source is None else content_of(source.sha256, parse_row(parse_mask, self.fields))

    @property
    def error(self) -> str | None:
        """The reason of a failure; None of all else. Raises `StoreError` if that is not said."""
        return parse_row(_parse_error, self.fields) if self.status == "failed" else None

    @property
    def left_out(self) -> LeftOut | None:
        """The filter that left it out, without its file; None of all else. Raises `StoreError` if that is not said."""
        return parse_row(partial(_parse_left_out, self.key), self.fields) if self.status == "left_out" else None

    @property
    def reason(self) -> str | None:
        """The filter that left it out, or set it aside; None of all else. Raises `StoreError` if that is not said."""
        if self.status == "removed":
            return parse_row(_parse_set_aside, self.fields)
        return self.left_out.reason if self.left_out is not None else None

    @property
    def size(self) -> tuple[int, int] | None:
        """Size (H, W) in px of the picture; None where nobody looked. Raises `StoreError` for what is none."""
        if self.status == "left_out":
            return self.left_out.size if self.left_out is not None else None
        return None if self.shard is None else parse_row(_parse_source_size, self.fields)


def _parse_error(fields: Mapping[str, Any]) -> str:
    return check_text(fields["error"])


def _parse_set_aside(fields: Mapping[str, Any]) -> str | None:
    return check_text(fields["reason"]) if "reason" in fields else None


def _parse_source_size(fields: Mapping[str, Any]) -> tuple[int, int]:
    height, width = _size(fields["geometry"]["source"])
    return height, width


def _why_left_out(left_out: LeftOut) -> dict[str, Any]:
    """Return the fields of a row that say why: the size of the picture, or what its file holds."""
    if left_out.sha256 is not None:
        return {"reason": left_out.reason, **FileDigest(left_out.num_bytes, left_out.sha256).to_json()}
    return {"reason": left_out.reason, "size": list(left_out.size or ())}


def _parse_left_out(key: str, fields: Mapping[str, Any]) -> LeftOut:
    """Parse what `_why_left_out` gave; sizes and times of the file are not in it. Raises one of `MALFORMED`."""
    reason, by = check_text(fields["reason"]), fields.keys() - {ESCAPED, "key", "status", "reason"}
    if by == {"size"}:
        height, width = _size(fields["size"])
        return LeftOut(key, reason, 0, size=(height, width))
    if by != {"num_bytes", "sha256"}:
        raise ValueError(f"a row that was left out has other fields: {sorted(fields)}")
    digest = parse_digest(fields)
    return LeftOut(key, reason, digest.num_bytes, sha256=digest.sha256)


def parse_line(data: bytes) -> IndexLine:
    """Parse a line of an index; for `parse_row`. Raises one of `MALFORMED`."""
    return line_of(parse_json(data), data)


def line_of(fields: Any, data: bytes) -> IndexLine:
    """Return the line `data`, of which these are the fields; for `parse_row`. Raises one of `MALFORMED`."""
    return IndexLine(*_parse_head(fields), fields, data)


_NUMBER, _SIDE = "(0|[1-9][0-9]{0,8})", "([1-9][0-9]{0,8})"
# A line of ours as nearly all are: of an image that is served, with nothing but its facts, its key in plain ASCII.
_PLAIN_LINE = re.compile(
    rf'\{{"geometry":\{{"bucket":\[{_SIDE},{_SIDE}\],"crop":\[{_NUMBER},{_NUMBER}\],"image":\[{_SIDE},{_SIDE}\],'
    rf'"resized":\[{_SIDE},{_SIDE}\],"source":\[{_SIDE},{_SIDE}\]\}},"key":"([ !#-\[\]-~]+)",'
    rf'(?:"mask_sha256":"[0-9a-f]{{64}}",)?"num_bytes":{_NUMBER},"row":{_NUMBER},"sha256":"[0-9a-f]{{64}}",'
    r'"shard":"([0-9a-z.-]+)","status":"ok"\}\n?'.encode()
)


class Place(NamedTuple):
    """The part of a row by which latents are served: where they are; `geometry`, `columns` as written, not checked.

    `geometry`: (H, W) of source and of what it was resized to, the corner (top, left) of the crop, (H, W) of the image.
    """

    key: str
    shard: str
    row: int
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]
    columns: Any


def parse_place(line: bytes) -> Place | None:
    """Return the place of a row, None if it is not to be used; for `parse_row`. Raises one of `MALFORMED`.

    The rest of a row is not looked at, to be quick: there may be millions.
    """
    if (plain := _PLAIN_LINE.fullmatch(line)) is not None:  # in a third of the time
        _, _, top, left, *sizes, key, _, row, shard = plain.groups()
        height, width, resized_height, resized_width, source_height, source_width = map(int, sizes)
        source, resized = (source_height, source_width), (resized_height, resized_width)
        geometry = source, resized, (int(top), int(left)), (height, width)
        return Place(key.decode("ascii"), shard.decode("ascii"), int(row), geometry, {})
    return _parse_place(line)


def _parse_place(line: bytes) -> Place | None:
    """Do as `parse_place`, whatever the line looks like."""
    fields = parse_json(line)
    key, status, shard, row = _parse_head(fields)
    if status != "ok" or shard is None or row is None:
        return None
    said = fields["geometry"]
    geometry = _size(said["source"]), _size(said["resized"]), _size(said["crop"], 0), _size(said["image"])
    return Place(key, shard, row, geometry, fields.get("columns", {}))


def _size(value: Any, least: int = 1) -> list[int]:
    """Return `value` if it is a list of two sides, `least` px and more. Raises one of `MALFORMED`."""
    height, width = value
    if type(value) is not list or type(height) is not int or type(width) is not int:
        raise ValueError(f"{str(value)[:40]} is no size")
    if not (least <= height < _MAX_SIDE and least <= width < _MAX_SIDE):
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
