"""A shard in the journal as text, in which each image has the line that the index is going to have.

A run that has noted a shard itself copies these lines, and neither parses nor renders them again. Whoever takes up what
others have noted checks each of them: a pattern that holds nothing but what is allowed is quicker than a parser.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from json import JSONDecoder
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
    rf'(?:"notes":\[{_TEXT}(?:,{_TEXT})*\],)?"num_bytes":{_NUMBER},"row":(0|[1-9][0-9]{{0,8}}),"sha256":{_SHA256},'
    r'"shard":"([0-9]{8}-[0-9]{1,6}x[0-9]{1,6}\.safetensors)","status":"ok"\}'
)
_HEAD = re.compile(rb'\{"num_bytes":(?:null|[0-9]+),"rows":\[')
_FIRST_ROW = 1 << 20  # bytes; of one that is longer nothing is told
_MANY = 1 << 12  # geometries: most images of a set were of few sizes
# Nearly all rows: of an image that has latents, and no columns. A quote within a text would follow a backslash.
_PLAIN_ROW = re.compile(
    r'\{"geometry":\{[^}]*\},"key":"([^"\\]*)",(?:"mask_sha256":"[0-9a-f]*",)?(?:"notes":\[[^]\\]*\],)?'
    r'"num_bytes":[0-9]*,"row":([0-9]*),"sha256":"[0-9a-f]*","shard":"([^"\\]*)","status":"ok"\}'
)


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


class NewRows(NamedTuple):
    """Rows of a shard that go into an index: their lines and, of those with latents, `identity` (`row_identity`)."""

    lines: Sequence[NewLine]
    identity: bytes


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


def check_rows(content: bytes) -> tuple[dict[str, Any], NewRows]:
    """Return the fields of an entry, without rows, and these. Raises one of `MALFORMED`, or `StoreError`.

    They are what `IndexRow` and `SeenFile` make of them.
    """
    fields, seen, rows = _split(content)
    text, start, lines = rows.decode("ascii"), 0, []
    keys: list[str] = []
    geometries: list[bytes] = []
    for number, facts in enumerate(seen):
        if number and text[start - 1 : start] != ",":
            raise ValueError("rows that do not follow one another")
        plain = _CHECKED_ROW.match(text, start)
        if plain is not None and (geometry := _packed_geometry(plain[1])) is not None:
            _, key, row, shard = plain.groups()
            line = NewLine(key, "ok", shard, int(row), (), f"{plain[0]}\n".encode(), _seen(key, facts))
            end = plain.end()
        else:
            found, end = _DECODER.raw_decode(text, start)
            parsed = IndexRow.from_json(found)
            line = NewLine.of_row(parsed, _seen(parsed.key, facts))
            geometry = None if parsed.record is None else packed(parsed.record.geometry)
        lines.append(line)
        if geometry is not None:
            keys.append(line.key)
            geometries.append(geometry)
        start = end + 1
    if max(start - 1, 0) != len(text):
        raise ValueError("more rows than files")
    return fields, NewRows(lines, row_identity(keys, geometries))


def _split(content: bytes) -> tuple[dict[str, Any], list[Any], bytes]:
    """Return the fields of an entry, without rows and their files, and both of these."""
    head, _, rest = content.rpartition(b'],"seen":')
    if (start := _HEAD.match(head)) is None:
        raise ValueError("not as entries are written")
    fields = check_object(parse_json(start[0] + b'],"seen":' + rest))
    seen = fields["seen"]
    if fields["rows"] != [] or type(seen) is not list:
        raise ValueError("not as entries are written")
    return {**fields, "seen": []}, seen, head[start.end() :]


def _seen(key: str, facts: Any) -> SeenFile | None:
    return None if facts is None else SeenFile.from_facts(key, facts)


@lru_cache(_MANY)
def _packed_geometry(text: str) -> bytes | None:
    """Return a geometry as `ShardRecords` keeps it; None for text that is none, or not as it is written."""
    try:
        geometry = Geometry.from_json(parse_json(text.encode()))
    except MALFORMED:
        return None
    return packed(geometry) if geometry_text(geometry) == text else None


def split_entry(content: bytes) -> tuple[dict[str, Any], Iterator[NewLine]]:
    """Return the fields of what `render_entry` has made, without rows, and its lines; of nothing else."""
    head, _, rest = content.rpartition(b'],"seen":')  # only figures and the name follow
    start = head.index(b"[") + 1
    fields: Mapping[str, Any] = parse_json(head[:start] + b'],"seen":' + rest)
    return {**fields, "seen": []}, _lines(head[start:].decode("ascii"), fields["seen"])


def _lines(text: str, seen: Sequence[Sequence[Any] | None]) -> Iterator[NewLine]:
    start = 0
    for facts in seen:
        if (plain := _PLAIN_ROW.match(text, start)) is not None:
            key, row, shard = plain.groups()
            end, file = plain.end(), None if facts is None else SeenFile(key, *facts)
            yield NewLine(key, "ok", shard, int(row), (), f"{text[start:end]}\n".encode(), file)
        else:
            fields, end = _DECODER.raw_decode(text, start)
            line = line_of(fields, f"{text[start:end]}\n".encode())
            yield NewLine.of(line, None if facts is None else SeenFile(line.key, *facts))
        start = end + 1
