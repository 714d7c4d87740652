"""A shard in the journal as text, in which each image has the line that the index is going to have.

A run that has noted a shard itself copies these lines, and neither parses nor renders them again.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from json import JSONDecodeError, JSONDecoder
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
