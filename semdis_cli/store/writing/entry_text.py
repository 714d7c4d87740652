"""A shard in the journal as text, in which each image has the line that the index is going to have.

A run that has noted a shard itself copies these lines, and neither parses nor renders them again.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecoder
from typing import Any, NamedTuple

from semdis_cli.files.json_text import parse_json
from semdis_cli.records import FileDigest
from semdis_cli.store.index import IndexLine, IndexRow, line_of
from semdis_cli.store.shard_header import canonical_json
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.seen import SeenFile

_DECODER = JSONDecoder()
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
