"""A shard in the journal as text, in which each image has the line that the index is going to have.

A run that has noted a shard itself copies these lines, and neither parses nor renders them again. Whoever takes up what
others have noted checks each of them: a pattern that holds nothing but what is allowed is quicker than a parser.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from json import JSONDecodeError, JSONDecoder
from typing import Any, NamedTuple

from semdis_cli.files.json_text import parse_json
from semdis_cli.records import FileDigest, Geometry
from semdis_cli.store.checks import MALFORMED, check_object, check_record_key
from semdis_cli.store.index import IndexLine, IndexRow, line_of
from semdis_cli.store.record import geometry_text
from semdis_cli.store.shard_header import canonical_json
from semdis_cli.store.shard_records import packed
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.seen import SeenFile

_DECODER = JSONDecoder()
_NUMBER, _TEXT, _SHA256 = "(?:0|[1-9][0-9]{0,15})", r'"[ !#-\[\]-~]*"', '"[0-9a-f]{64}"'
# To the byte a row as `IndexRow` renders it, of an image with latents; its geometry is checked beside it.
_CHECKED_ROW = re.compile(
    rf'\{{"geometry":(\{{[^{{}}]*\}}),"key":"([ !#-\[\]-~]+)",(?:"mask_sha256":{_SHA256},)?'
    rf'(?:"notes":\[{_TEXT}(?:,{_TEXT})*\],)?"num_bytes":{_NUMBER},"row":(?:0|[1-9][0-9]{{0,8}}),"sha256":{_SHA256},'
    r'"shard":"[0-9]{8}-[0-9]{1,6}x[0-9]{1,6}\.safetensors","status":"ok"\}'
)
_HEAD = re.compile(rb'\{"num_bytes":(?:null|[0-9]+),"rows":\[')
_FIRST_ROW = 1 << 20  # bytes; of one that is longer nothing is told
_MANY = 1 << 12  # geometries: most images of a set were of few sizes
# Nearly all rows: of an image that has latents, and no columns. A quote within a text would follow a backslash.
_PLAIN_ROW = re.compile(
    rb'\{"geometry":\{[^}]*\},"key":"([^"\\]*)",(?:"mask_sha256":"[0-9a-f]*",)?(?:"notes":\[[^]\\]*\],)?'
    rb'"num_bytes":[0-9]*,"row":([0-9]*),"sha256":"[0-9a-f]*","shard":"([^"\\]*)","status":"ok"\}[],]'
)
_SEEN_BYTES, _WINDOW_BYTES = 100, 1 << 14
_SEEN = re.compile(rb"(?:null|\[([0-9]+),(-?[0-9]+|null)(?:,(-?[0-9]+|null))?\])[],]")
_BETWEEN = b'],"seen":['  # rows and times
_ROW_BYTES = 1 << 12  # of nearly all rows
Read = Callable[[int, int], bytes]  # gives bytes from a place on, fewer only at the end


class NewLine(NamedTuple):
    """A line of an index that is being written: `data`, and what counts in it.

    `shard` and `row`: where its latents are, if it has any. `columns`: their names, sorted. `seen`: its file, where the
    line is new.
    """

    key: str
    status: str
    shard: str | None
    row: int | None
    columns: Sequence[str]
    data: bytes
    seen: SeenFile | None = None

    @classmethod
    def of(cls, line: IndexLine, seen: SeenFile | None = None) -> "NewLine":
        """Return what counts in a line of an index."""
        columns = tuple(sorted(line.fields.get("columns", ())))
        return cls(line.key, line.status, line.shard, line.row, columns, line.data, seen)

    @classmethod
    def of_row(cls, row: IndexRow, seen: SeenFile | None) -> "NewLine":
        """Return the line of a row."""
        return cls.of(row.to_line(), seen)


def render_entry(
    name: str, file: FileDigest | None, lines: Sequence[tuple[bytes, SeenFile | None]], sums: ChannelSums, version: int
) -> bytes:
    """Return what the journal notes of a shard: its file, the lines of its images for the index, and their files.

    It is the JSON that `JournalEntry.from_json` takes.
    """
    rows = b",".join(line.removesuffix(b"\n") for line, _ in lines)
    num_bytes, sha256 = (file.num_bytes, file.sha256) if file is not None else (None, None)
    rest: dict[str, Any] = {"sha256": sha256, "shard": name, "sums": sums.to_json()}
    rest |= {"seen": [seen and seen[1:] for _, seen in lines]} | ({"version": version} if version else {})
    head = f'{{"num_bytes":{canonical_json(num_bytes)},"rows":['.encode()
    return head + rows + b"]," + canonical_json(rest)[1:].encode()


def row_identity(keys: Sequence[str], geometries: Sequence[bytes]) -> bytes:
    """Return a digest of the keys and sizes of rows with latents, in their order; `geometries` as in `ShardRecords`."""
    digest = hashlib.sha256(canonical_json(keys).encode())
    digest.update(b"".join(geometries))
    return digest.digest()


def count_rows(content: bytes) -> tuple[dict[str, Any], str, int, int]:
    """Return the fields of an entry, without rows, its first key, and the number of its rows, and of failures.

    The rows are for `check_rows` to check. Raises one of `MALFORMED`, or `StoreError`, for what it cannot read.
    """
    fields, seen, rows = _split(content)
    if not seen:
        return fields, "", 0, 0
    first, _ = _DECODER.raw_decode(rows[:_FIRST_ROW].decode("ascii"))
    if b'"columns":{' in rows:  # which may have anything in them
        num_failed = sum(row["status"] == "failed" for row in parse_json(b"[" + rows + b"]"))
    else:
        num_failed = rows.count(b'"status":"failed"}')  # a quote within a text would follow a backslash
    return fields, check_record_key(first), len(seen), num_failed


def check_rows(content: bytes) -> tuple[dict[str, Any], int, bytes]:
    """Return the fields of an entry, without rows, their number, and `row_identity`.

    Raises one of `MALFORMED`, or `StoreError`, where `entry_lines` would not give what `IndexRow` and `SeenFile` make
    of them.
    """
    fields, seen, rows = _split(content)
    text, start = rows.decode("ascii"), 0
    keys: list[str] = []
    geometries: list[bytes] = []
    for number, facts in enumerate(seen):
        if number and text[start - 1 : start] != ",":
            raise ValueError("rows that do not follow one another")
        plain = _CHECKED_ROW.match(text, start)
        if plain is not None and (geometry := _packed_geometry(plain[1])) is not None:
            key, end = plain[2], plain.end()
        else:
            key, geometry, end = _check_row(text, start)
        if facts is not None:
            SeenFile.from_facts(key, facts)
        if geometry is not None:
            keys.append(key)
            geometries.append(geometry)
        start = end + 1
    if max(start - 1, 0) != len(text):
        raise ValueError("more rows than files")
    return fields, len(seen), row_identity(keys, geometries)


def _check_row(text: str, start: int) -> tuple[str, bytes | None, int]:
    """Return key and geometry of a row of any kind, and where it ends."""
    found, end = _DECODER.raw_decode(text, start)
    row = IndexRow.from_json(found)
    if row.to_line().data != f"{text[start:end]}\n".encode():
        raise ValueError("not as rows are written")
    return row.key, None if row.record is None else packed(row.record.geometry), end


def _split(content: bytes) -> tuple[dict[str, Any], list[Any], bytes]:
    """Return the fields of an entry, without rows and their files, and both of these."""
    head, _, rest = content.rpartition(_BETWEEN)
    if (start := _HEAD.match(head)) is None:
        raise ValueError("not as entries are written")
    frame = start[0] + _BETWEEN + rest
    fields = check_object(parse_json(frame))
    seen = fields["seen"]
    if type(seen) is not list or fields["rows"] != [] or canonical_json(fields).encode() != frame:
        raise ValueError("not as entries are written")
    return {**fields, "seen": []}, seen, head[start.end() :]


@lru_cache(_MANY)
def _packed_geometry(text: str) -> bytes | None:
    """Return a geometry as `ShardRecords` keeps it; None for text that is none, or not as it is written."""
    try:
        geometry = Geometry.from_json(parse_json(text.encode()))
    except MALFORMED:
        return None
    return packed(geometry) if geometry_text(geometry) == text else None


def split_entry(content: bytes) -> dict[str, Any]:
    """Return the fields of what `render_entry` has made, without rows; of nothing else."""
    head, _, rest = content.rpartition(_BETWEEN)  # only figures and the name follow
    fields: Mapping[str, Any] = parse_json(head[: head.index(b"[") + 1] + _BETWEEN + rest)
    return {**fields, "seen": [None] * len(fields["seen"])}


def entry_lines(read: Read, start: int, content: bytes, num_rows: int) -> Iterator[NewLine]:
    """Yield the lines of what `render_entry` has made, `content`, which `read` gives from `start` on.

    Memory holds some of them at a time: shards of many sizes have rows between each other's. Raises `ValueError` where
    something else is read.
    """
    rows = _Window(read, start + content.index(b"[") + 1)
    seen = _Window(read, start + content.rindex(_BETWEEN) + len(_BETWEEN))
    for _ in range(num_rows):
        facts = seen.match(_SEEN, _SEEN_BYTES)
        if facts is None:
            raise ValueError("no times of a file")
        yield _next_line(rows, facts.groups())


def _next_line(rows: "_Window", facts: Sequence[bytes | None]) -> NewLine:
    if (plain := rows.match(_PLAIN_ROW, _ROW_BYTES)) is not None:
        key, row, shard = (group.decode("ascii") for group in plain.groups())
        return NewLine(key, "ok", shard, int(row), (), plain[0][:-1] + b"\n", _seen(key, facts))
    fields, data = rows.decode()
    line = line_of(fields, data + b"\n")
    return NewLine.of(line, _seen(line.key, facts))


def _seen(key: str, facts: Sequence[bytes | None]) -> SeenFile | None:
    num_bytes, *times = facts
    if num_bytes is None:
        return None
    return SeenFile(key, int(num_bytes), *(None if time in {None, b"null"} else int(time) for time in times))


class _Window:
    """Text from a place on, of which some is held at a time."""

    def __init__(self, read: Read, place: int) -> None:
        self._read, self._place = read, place
        self._text, self._start = b"", 0

    def match(self, pattern: re.Pattern[bytes], num_bytes: int) -> re.Match[bytes] | None:
        """Match what comes next, of so many bytes at most; what matches is left behind."""
        self._hold(num_bytes)
        found = pattern.match(self._text, self._start)
        if found is not None:
            self._start = found.end()
        return found

    def decode(self) -> tuple[Any, bytes]:
        """Return the value of JSON that comes next, and its text; that and what separates it is left behind."""
        num_bytes = _ROW_BYTES
        while True:
            is_all = not self._hold(num_bytes)
            piece = self._text[self._start : self._start + num_bytes].decode("ascii")
            try:
                fields, end = _DECODER.raw_decode(piece)
            except JSONDecodeError:  # it is longer
                if is_all:
                    raise
                num_bytes *= 4
                continue
            self._start += end + 1
            return fields, piece[:end].encode()

    def _hold(self, num_bytes: int) -> bool:
        """Hold that many bytes; False if there are no more."""
        left = len(self._text) - self._start
        if left < num_bytes:
            more = self._read(self._place, max(_WINDOW_BYTES, num_bytes))
            self._text, self._start = self._text[self._start :] + more, 0
            self._place += len(more)
        return len(self._text) - self._start >= num_bytes
