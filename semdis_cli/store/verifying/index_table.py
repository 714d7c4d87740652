"""An index by shards, read once in one stream and kept small: 21 bytes a row, for millions of them."""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.events import Event, Problem
from semdis_cli.files.json_text import parse_json
from semdis_cli.files.set_names import INDEX_FILE, INDEX_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.records import FileDigest, ImageRecord
from semdis_cli.store.columns import LABEL, is_label
from semdis_cli.store.index import IndexRow
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.set_index import IndexPiece, RowCounts, is_piece_name
from semdis_cli.store.shard_header import ShardHeader, open_regular

_MAX_LINE_BYTES = 1 << 20


@dataclass
class ShardRows:
    """The rows of one shard that an index names: for each its number, a digest of its facts, and where its line is.

    `find`: the whole row at such a place.
    """

    find: Callable[[int], IndexRow]
    numbers: "array[int]" = field(default_factory=lambda: array("I"))
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    served: bytearray = field(default_factory=bytearray)  # 1 for `ok`, 0 for `removed`

    def itself(self) -> "ShardRows":
        """Return these rows; as a function that gives them, it can be sent to another process."""
        return self

    def add(self, row: IndexRow, offset: int) -> None:
        """Add a row that has a place."""
        assert row.row is not None and row.record is not None, "only rows with a place are added"  # noqa: PT018
        self.numbers.append(row.row)
        self.digests.append(_digest(row.record))
        self.offsets.append(offset)
        self.served.append(row.is_ok)

    def extend(self, others: "ShardRows", start: int) -> None:
        """Add rows of a file of the index that begins at byte `start`."""
        self.numbers.extend(others.numbers)
        self.digests.extend(others.digests)
        self.offsets.extend(array("Q", (np.asarray(others.offsets) + np.uint64(start)).tobytes()))
        self.served += others.served

    def served_offsets(self) -> NDArray[np.uint64]:
        """Return where the lines of the rows that are to be used begin, rising."""
        offsets: NDArray[np.uint64] = np.array(self.offsets, dtype=np.uint64)[np.array(self.served, dtype=bool)]
        return offsets

    def served_rows(self) -> list[int]:
        """Numbers of the rows that are to be used, rising."""
        return sorted(number for number, served in zip(self.numbers, self.served, strict=True) if served)


@dataclass
class IndexTable:
    """The rows of an index, counted, and those with latents by shard.

    `shards`: by file name. `num_ok`, `num_failed`, `num_removed`, `num_left_out`: rows of each status.
    `served_pixels`: of the model's input, over the rows that are to be used. `is_sorted`: every line could be read,
    keys rise, and no key comes twice. `columns`: of those rows how many have each. `num_classes`: as many as the labels
    of all rows need; infinitely many for one that is no number of a class. `pieces`: its files, as far as they could be
    read, and what is in each. `first_key`, `last_key`: of its rows.
    """

    shards: dict[str, ShardRows]
    num_ok: int = 0
    num_failed: int = 0
    num_removed: int = 0
    num_left_out: int = 0
    served_pixels: int = 0
    is_sorted: bool = True
    columns: Counter[str] = field(default_factory=Counter)
    num_classes: float = 0
    pieces: list[IndexPiece] = field(default_factory=list)
    first_key: str | None = None
    last_key: str | None = None

    @property
    def rows(self) -> RowCounts:
        """Number of rows of each status."""
        return RowCounts(self.num_ok, self.num_failed, self.num_removed, self.num_left_out)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each status; that of inputs that were left out if there are any."""
        counts = {"ok": self.num_ok, "failed": self.num_failed, "removed": self.num_removed}
        return counts | ({"left_out": self.num_left_out} if self.num_left_out else {})

    def rows_of(self, shard: str) -> ShardRows:
        """The rows in a shard, which may be none."""
        return self.shards[shard]

    def join(self, piece: "ReadPiece", start: int, *, is_first: bool) -> Iterator[Problem]:
        """Add the rows of the file that follows, which begins at byte `start`; yield what is wrong with its place."""
        other = piece.table
        if other.first_key is not None:
            reason = _misplacement(other.first_key, self.last_key)
            if reason is not None:
                self.is_sorted = False
                yield Problem(piece.name, "index", f"its first row: {reason}")
            self.first_key = other.first_key if self.first_key is None else self.first_key
            self.last_key = other.last_key
        if piece.file is not None:
            first_key = "" if is_first or other.first_key is None else other.first_key
            self.pieces.append(IndexPiece(piece.name, piece.file, other.rows, dict(other.columns), first_key))
        for shard, rows in other.shards.items():
            self.shards[shard].extend(rows, start)
        self.num_ok += other.num_ok
        self.num_failed += other.num_failed
        self.num_removed += other.num_removed
        self.num_left_out += other.num_left_out
        self.served_pixels += other.served_pixels
        self.is_sorted = self.is_sorted and other.is_sorted
        self.columns += other.columns
        self.num_classes = max(self.num_classes, other.num_classes)

    def add(self, row: IndexRow, offset: int) -> None:
        """Count one row."""
        self.first_key, self.last_key = row.key if self.first_key is None else self.first_key, row.key
        self.num_failed += row.status == "failed"
        self.num_removed += row.status == "removed"
        self.num_left_out += row.status == "left_out"
        self.num_ok += row.is_ok
        if row.shard is None or row.record is None:
            return
        self.shards[row.shard].add(row, offset)
        if row.is_ok:
            self.served_pixels += prod(row.record.geometry.bucket)
            self.columns.update(row.record.columns.keys())
        if LABEL in row.record.columns:
            label = row.record.columns[LABEL]
            self.num_classes = max(self.num_classes, label + 1 if is_label(label) else inf)


class PieceFile(NamedTuple):
    """A file of an index, to be read: its name within the set, and where it is."""

    name: str
    path: Location

    def read(self) -> Generator[Problem, None, "ReadPiece"]:
        """Read it; every line that is wrong is a problem, and the others still count."""
        table, file = IndexTable(defaultdict(partial(ShardRows, _find_nothing))), None
        try:
            with open_regular(self.path) as opened:
                file = yield from _read_lines(opened, self.name, table)
        except StoreError as error:
            table.is_sorted = False
            yield Problem(self.name, "index", error.beside(self.path))
        return ReadPiece(self.name, self.path, table, file)


class ReadPiece(NamedTuple):
    """A file of an index that was read: its rows, and its digest, None if it could not be read to its end.

    Places of lines are counted from its own beginning.
    """

    name: str
    path: Location
    table: IndexTable
    file: FileDigest | None


# Has files of an index read; gives what they are, in their order, before each its problems, and other events.
PieceReader = Callable[[Sequence[PieceFile]], Iterator[ReadPiece | Event]]


def read_here(pieces: Sequence[PieceFile]) -> Iterator[ReadPiece | Event]:
    """Read files of an index in this process; a `PieceReader`."""
    for piece in pieces:
        yield (yield from piece.read())


def read_index(
    root: Location, manifest: Manifest | None, read: PieceReader = read_here
) -> Generator[Event, None, IndexTable]:
    """Read the index of the set in `root`; every line that is wrong is a problem, and the others still count.

    Without a manifest nothing says in which order pieces of an index follow one another: their names do.
    """
    names = _names_in(root) if manifest is None else [piece.name for piece in manifest.index_files.pieces]
    files: list[_IndexFile] = []
    table = IndexTable(defaultdict(partial(ShardRows, partial(_read_row, files))))
    for found in read([PieceFile(name, root / name) for name in names]):
        if isinstance(found, ReadPiece):
            start = files[-1].stop if files else 0
            files.append(_IndexFile(found.path, start, start + (found.file.num_bytes if found.file else 0)))
            yield from table.join(found, start, is_first=found.name == names[0])
        else:
            yield found
    return table


def _names_in(root: Location) -> list[str]:
    """Return the files of an index that are in a folder."""
    if (root / INDEX_FOLDER).is_dir() and not (root / INDEX_FILE).exists():
        found = (f"{INDEX_FOLDER}/{path.name}" for path in (root / INDEX_FOLDER).iterdir())
        return sorted(filter(is_piece_name, found)) or [INDEX_FILE]
    return [INDEX_FILE]


class _IndexFile(NamedTuple):
    """A file of an index: of all its bytes, those from `start` up to `stop`."""

    path: Location
    start: int
    stop: int


def _read_lines(file: BinaryIO, name: str, table: IndexTable) -> Generator[Problem, None, FileDigest]:
    """Add the rows of a file to `table`; yields what is wrong with its lines, and returns its digest."""
    digest, offset = hashlib.sha256(), 0
    for number, line in enumerate(_lines(file), start=1):
        row = _parse(line)
        reason = row if isinstance(row, str) else _misplacement(row.key, table.last_key)
        if reason is not None:
            table.is_sorted = False
            yield Problem(name, "index", f"line {number:,}: {reason}")
        if isinstance(row, IndexRow):
            table.add(row, offset)
        digest.update(line)
        offset += len(line)
    return FileDigest(offset, digest.hexdigest())


def _find_nothing(_offset: int) -> IndexRow:
    raise AssertionError("rows are looked up in the whole index")


def compare_rows(header: ShardHeader, rows: ShardRows) -> Iterator[str]:
    """Give the differences between the index and a shard, in the rows that the index names."""
    used: set[int] = set()
    for number, digest, offset in zip(rows.numbers, rows.digests, rows.offsets, strict=True):
        if number in used:
            yield f"row {number} stands for two keys of the index"
        used.add(number)
        if number >= header.shape[0]:
            key = rows.find(offset).key
            yield f"the index puts {key!r:.80} into row {number}, but it has {header.shape[0]} rows"
        elif digest != _digest(header.records[number]):
            yield _difference(number, rows.find(offset), header.records[number])


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; one that never ends comes in pieces, which are no rows."""
    while line := file.readline(_MAX_LINE_BYTES):
        yield line


def _parse(line: bytes) -> IndexRow | str:
    """The row, or why it is none."""
    try:
        row = IndexRow.from_json(parse_json(line))
    except (ValueError, StoreError) as error:
        return f"{error!s:.300}"
    return row if line.endswith(b"\n") else "cut off"


def _misplacement(key: str, last_key: str | None) -> str | None:
    """Return what is wrong with the order of a key after `last_key`; None: nothing."""
    if last_key is None or key > last_key:
        return None
    return f"{key!r:.80} comes twice" if key == last_key else f"{key!r:.80} is not in the order of keys"


def _read_row(files: Sequence[_IndexFile], offset: int) -> IndexRow:
    place = next((one for one in files if offset < one.stop), files[-1])  # one that was not read to its end
    with open_regular(place.path) as file:
        file.seek(offset - place.start)
        return IndexRow.from_json(parse_json(file.readline(_MAX_LINE_BYTES)))


def _difference(number: int, row: IndexRow, found: ImageRecord) -> str:
    """Say how a row of the index and row `number` of the shard, to which it points, differ."""
    if row.key != found.key:
        return f"row {number} holds {found.key!r:.80}, but the index says {row.key!r:.80}"
    said = _facts(row.record) if row.record is not None else {}
    names = [name for name, fact in _facts(found).items() if said.get(name) != fact]
    return f"row {number} ({found.key!r:.80}): the index says another {' and '.join(names)}"


def _facts(record: ImageRecord) -> dict[str, object]:
    """Return the facts of an image that index and shard both hold, by the names of a row."""
    return {
        "num_bytes": record.source.num_bytes,
        "sha256": record.source.sha256,
        "geometry": record.geometry.pairs,
        "notes": record.notes,
    }


def _digest(record: ImageRecord) -> int:
    """64 bits of what index and shard both say of an image."""
    source = record.source
    facts = (record.key, source.num_bytes, source.sha256, record.geometry.pairs, record.notes)
    return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest())
