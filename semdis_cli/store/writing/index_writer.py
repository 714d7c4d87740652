"""An index on its way to the disk, by rising keys: pieces that are written, each with the times of its files, and kept.

An index of no more than a million rows is one file. What is counted in its rows is counted on the way.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PendingFile, keep_file, make_folder
from semdis_cli.files.growing import GrowingArray
from semdis_cli.files.set_names import INDEX_FILE
from semdis_cli.records import FileDigest
from semdis_cli.store.index import read_places
from semdis_cli.store.item_table import ItemColumns, ItemTable
from semdis_cli.store.set_index import (
    IndexPiece,
    RowCounts,
    SetIndex,
    digest_pieces,
    is_piece_name,
    new_name,
    seen_name,
)
from semdis_cli.store.tensors.file import place_of
from semdis_cli.store.writing.entry_text import NewLine
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.merge import last_of_each, merge_rows
from semdis_cli.store.writing.seen import SeenFile, write_seen

PIECE_ROWS = 1_000_000  # that a piece has at most, and an index of one file
_LINES_AT_ONCE = 256

# Gives what is known of the files of rows that were there before: of keys from the first on, and below the second.
KnownTimes = Callable[[str, str | None], Iterable[SeenFile]]


@dataclass
class _OpenPiece:
    """A piece that is being written: its file, and what is counted. `new_seen`: times of files that are new in it."""

    file: PendingFile
    first_key: str
    new_seen: GrowingArray
    lines: list[bytes] = field(default_factory=list)
    num_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # by status
    columns: Counter[str] = field(default_factory=Counter)

    def flush(self) -> None:
        """Hand the lines to the disk; many at a time are quicker."""
        self.file.write(b"".join(self.lines))
        self.lines.clear()

    def of_name(self, name: str, file: FileDigest) -> IndexPiece:
        """Return what a manifest says of the piece."""
        return IndexPiece(name, file, RowCounts(**self.counts), dict(self.columns), self.first_key)


class WrittenIndex(NamedTuple):
    """An index that is written: its digest, and its pieces, none if it is one file, as in `Manifest`.

    `columns`: of the images that are to be used, how many have each. `items`: where these are. `served`: their places,
    if they may have tensors.
    """

    file: FileDigest
    pieces: tuple[IndexPiece, ...]
    rows: RowCounts
    columns: dict[str, int]
    items: ItemColumns
    served: "array[int]"


class IndexWriter:
    """Writes the index of a set into `folder`, and the times of its files. Used as a context manager.

    `base`: the set before, of which pieces can be kept, and `table` its items; without that, those of pieces that are
    kept are left out. `known`: gives the times of files of before, once the rows of these are written.
    """

    def __init__(self, folder: Path, base: Base, table: ItemTable | None, known: KnownTimes) -> None:
        self._folder, self._base, self._table, self._known = folder, base, table, known
        self._items, self._served = ItemColumns(), array("q")
        self._has_tensors = base.manifest is not None and bool(base.manifest.tensors)
        self._pieces: list[IndexPiece] = []
        self._open: _OpenPiece | None = None
        self._start = 0  # of the next line, over all pieces
        self._last_key = ""

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._open.file.discard()

    def has_room_for(self, piece: IndexPiece) -> bool:
        """Tell whether a piece is being written that can take all rows of another one, too."""
        return self._open is not None and self._open.num_rows + sum(piece.rows) <= PIECE_ROWS

    def write(self, lines: Iterable[NewLine]) -> None:
        """Write rows, in as many pieces as it takes. Raises `StoreError` where their keys do not rise."""
        for line in lines:
            if line.key < self._last_key:
                raise StoreError(f"the journal has rows in no order: {line.key!r:.80}")
            self._last_key = line.key
            piece = self._open
            if piece is None or piece.num_rows >= PIECE_ROWS:
                piece = self._begin(line.key)
            self._add(piece, line)

    def _add(self, piece: _OpenPiece, line: NewLine) -> None:
        _, status, shard, row, columns, data, seen = line
        piece.num_rows += 1
        piece.counts[status] += 1
        if status == "ok" and shard is not None:
            self._items.add(self._start, shard)
            if columns:
                piece.columns.update(columns)
            if self._has_tensors and row is not None:
                self._served.append(place_of(shard, row))
        self._start += len(data)
        if seen is not None:
            piece.new_seen.add_bytes(seen.to_line())
        piece.lines.append(data)
        if len(piece.lines) >= _LINES_AT_ONCE:
            piece.flush()

    def keep(self, number: int, *, has_same_times: bool) -> None:
        """Keep a piece of before as it is, and the times of its files too, unless these are others."""
        index = self._base.index
        piece, (first_key, end) = index.pieces[number], index.range_of(number)
        self._end(first_key)
        keep_file(self._base.folder / piece.name, self._folder / piece.name)
        if not has_same_times:
            write_seen(self._folder / piece.seen_name, piece.file.sha256, self._lines_of(first_key, end, iter(())))
        elif (self._base.folder / piece.seen_name).exists():
            keep_file(self._base.folder / piece.seen_name, self._folder / piece.seen_name)
        if self._table is not None and self._base.manifest is not None:
            first, stop = self._table.between(index.starts[number], index.starts[number + 1])
            if stop - first != piece.rows.ok:
                what = "has another number of images than the manifest says; damaged or edited"
                raise StoreError(what, place=self._base.folder / piece.name)
            shift = self._start - index.starts[number]
            self._items.take(self._table, first, stop, shift, self._base.manifest.shards)
        if self._has_tensors:
            places = read_places(self._base.folder / piece.name)
            self._served.extend(place_of(place.shard, place.row) for _, place in places)
        self._start += piece.file.num_bytes
        self._pieces.append(piece)

    def finish(self) -> WrittenIndex:
        """End the last piece, and return what was written."""
        if not self._pieces and self._open is None:
            self._begin("")
        self._end(None)
        self._pieces[0] = first = _first(self._pieces[0])
        is_one_file = first.name == INDEX_FILE
        file, pieces = (first.file, ()) if is_one_file else (digest_pieces(self._pieces), tuple(self._pieces))
        index = SetIndex(self._pieces)
        return WrittenIndex(file, pieces, index.rows, index.columns, self._items, self._served)

    def _begin(self, first_key: str) -> _OpenPiece:
        """Begin a piece with the row of a key; the one before ends there."""
        self._end(first_key)
        pending = PendingFile(self._folder / INDEX_FILE)
        self._open = _OpenPiece(pending, first_key, GrowingArray("B", self._folder))
        return self._open

    def _end(self, next_key: str | None) -> None:
        """Publish the piece that is being written, which ends before a key; the times of its files too."""
        if (piece := self._open) is None:
            return
        piece.flush()
        is_alone = next_key is None and not self._pieces and not self._base.index.is_split
        name = INDEX_FILE if is_alone else new_name([*self._base.index.pieces, *self._pieces])
        file, name = publish_piece(piece.file, self._folder, name, self._base)
        self._open = None
        lines = self._lines_of(piece.first_key if self._pieces else "", next_key, piece.new_seen.lines())
        write_seen(self._folder / seen_name(name), file.sha256, lines)
        self._pieces.append(piece.of_name(name, file))

    def _lines_of(self, first_key: str, end: str | None, new: Iterator[bytes]) -> Iterator[bytes]:
        """Give the times of all files of a range of keys that have latents, sorted by key; `new` are of new rows."""
        known = iter(self._known(first_key, end))
        if (first := next(known, None)) is None:
            return new
        merged = merge_rows([("", chain([first], known)), ("", map(SeenFile.parse, new))])
        return (seen.to_line() for seen in last_of_each(merged))


def publish_piece(pending: PendingFile, folder: Path, name: str, base: Base) -> tuple[FileDigest, str]:
    """Publish a piece in `folder`; returns what it is, and its name: that of a piece of before that is just the same.

    That one is kept then. Raises as `publish`.
    """
    file, before = pending.digest, base.index.pieces if is_piece_name(name) == base.index.is_split else ()
    if (same := next((piece.name for piece in before if piece.file == file), None)) is not None:
        pending.discard()
        keep_file(base.folder / same, folder / same)
        return file, same
    make_folder((folder / name).parent)
    return pending.publish(folder / name), name


def _first(piece: IndexPiece) -> IndexPiece:
    """Return a piece as the first one, which has no first key: the rows of all smaller keys would be in it."""
    return replace(piece, first_key="")
