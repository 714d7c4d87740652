"""Other columns for the images of a finished set: its lists are replaced, and no shard is touched."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Self

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import PendingFile, check_free_space, explaining, keep_file, make_folder, publish
from semdis_cli.files.json_text import to_line
from semdis_cli.files.lock import FolderLock
from semdis_cli.files.set_names import (
    CHECKSUM_FILE,
    COLUMN_FOLDER,
    INDEX_FILE,
    ITEMS_FILE,
    JOURNAL_FOLDER,
    MANIFEST_FILE,
)
from semdis_cli.records import FileDigest
from semdis_cli.store.columns import SetColumns
from semdis_cli.store.index import IndexLine
from semdis_cli.store.item_table import ItemColumns
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest, checksum_lines
from semdis_cli.store.set_index import IndexPiece, digest_pieces, new_name
from semdis_cli.store.tensors.listed import TensorColumns, tensors_to_json
from semdis_cli.store.writing.finished import Base, check_latents_folder
from semdis_cli.store.writing.index_writer import publish_piece
from semdis_cli.store.writing.journal import Journal
from semdis_cli.store.writing.seen import copy_seen
from semdis_cli.store.writing.state import find_state, move_lists, sweep_shards
from semdis_cli.store.writing.tensors import move_tensors, sweep_tensors

# A line of the index to be, the shard of its latents, None unless these are to be used, and the names of its columns.
NewLine = tuple[bytes, str | None, tuple[str, ...]]


class SetEditor:
    """A finished set whose lists are replaced. Use as a context manager: entering locks its folder, and finds `base`.

    Killed at any point, the set is what it was before or what it was to become; where files of both lie in its folder,
    the next run into it, this or `encode`, goes on from what it was before. Raises on entering: `StoreError` if there
    is no finished set, or a damaged one, `UsageError` if another run is at work or was stopped, or for a folder that
    holds other files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._journal = Journal(root)

    def __enter__(self) -> Self:
        if not (self.root / JOURNAL_FOLDER).is_dir():  # an unfinished attempt is seen under the lock
            LatentSet.read(self.root)
        check_latents_folder(self.root)
        with ExitStack() as on_failure:
            self._lock = on_failure.enter_context(FolderLock(self.root))
            with explaining(self.root):
                self._journal.keep_shares_out()
                self.base = self._find_base()
            self._held = on_failure.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._held.close()

    def _find_base(self) -> Base:
        state = find_state(self.root, self.root, self._journal)
        if state.entries or state.base.manifest is None:
            LatentSet.read(self.root)  # says more, if there is no manifest
            what = "a run that adds to it was stopped; run the same semdis encode again to finish it, then this"
            raise UsageError(what, place=self.root)
        sweep_tensors(self.root, state.base.manifest)
        return state.base

    @property
    def latents(self) -> LatentSet:
        """The set as it was before."""
        assert self.base.latents is not None, "a set without a manifest is refused"
        return self.base.latents

    def all_lines(self) -> Iterator[IndexLine]:
        """Give all rows of the index as it was before, sorted by key."""
        return self.base.lines()

    def index_lines(self) -> Iterator[bytes]:
        """Give the lines of the index as it was before."""
        for path in self.latents.index_paths:
            with path.open("rb") as file:
                yield from file

    def replace(
        self,
        lines: Iterable[Sequence[NewLine]],
        classes: tuple[str, ...],
        more_bytes: int,
        write_tensors: Callable[[Path], TensorColumns] | None = None,
    ) -> Manifest:
        """Write all lists anew, of which `lines` are the index, and put them into their places; the manifest last.

        `lines`: some at a time. `classes`: the names of the labels. `more_bytes`: by how many the index grows at most,
        and what `write_tensors` writes. That writes files of columns of tensors to a folder, and returns the columns
        that the set is to have. Raises `NoSpaceError` and `UsageError` where the disk does not take it, `UsageError`
        for a column of tensors that has the name of another one, and what `write_tensors` raises.
        """
        before = self.latents.manifest
        check_free_space(self.root, 3 * before.index.num_bytes + more_bytes)  # the index, times, and both as they were
        with ExitStack() as on_failure:
            written = self._new_folder()
            on_failure.callback(self._forget, written)
            edited = _EditedIndex(self.base, written, lines)
            index, pieces = edited.write()
            columns = SetColumns(edited.num_images(), classes)
            tensors = before.tensors if write_tensors is None else write_tensors(written / COLUMN_FOLDER)
            if both := sorted(columns.num_images.keys() & tensors.keys()):
                what = f"would have two columns {both[0]}, one of tensors: --remove {both[0]} takes away the one it has"
                raise UsageError(what, place=self.root)
            manifest = replace(before, index=index, columns=columns, tensors=tensors, pieces=pieces)
            if manifest == before and self.base.folder == self.root:
                return before
            if manifest != before:
                manifest = replace(manifest, plan_sha256=_plan_sha256(self.latents, manifest))
            self._copy_times(written, manifest)
            self._write_table(written, edited.items, manifest)
            publish(written / CHECKSUM_FILE, checksum_lines(manifest))
            publish(written / MANIFEST_FILE, [manifest.to_bytes()])
            on_failure.pop_all()
        self._take_over(written, manifest)
        return manifest

    def _forget(self, written: Path) -> None:
        """Remove lists that are of no use, and the journal if it is there for nothing else."""
        disk.remove_folder(written)
        if self.base.folder == self.root:
            self._journal.remove()

    def _take_over(self, written: Path, manifest: Manifest) -> None:
        """Move the lists into their places, so that those of before are never lost."""
        self._lock.check()
        if manifest != self.latents.manifest:  # else they go back to where a killed run took them from
            base = self.base.linked_in(self._new_folder()) if self.base.folder == self.root else self.base
            begun = {"provenance": manifest.provenance.to_json(), "plan_sha256": manifest.plan_sha256}
            self._journal.begin({**begun, "base": base.folder.name})
        sweep_shards(self.root, self.base.shard_names)  # of a plan that was given up
        move_tensors(written / COLUMN_FOLDER, self.root)
        move_lists(written, self.root, manifest)
        sweep_tensors(self.root, manifest)
        self._journal.remove()

    def _copy_times(self, folder: Path, manifest: Manifest) -> None:
        """Write the times of the source files, which are those of before, for the index to be."""
        pieces = self.base.index.pieces, manifest.index_files.pieces
        for before, piece in zip(*pieces, strict=True):
            paths = self.base.folder / before.seen_name, folder / piece.seen_name
            if before.file == piece.file and paths[0].exists():
                keep_file(*paths)
            else:
                copy_seen(paths[0], before.file.sha256, paths[1], piece.file.sha256)

    def _write_table(self, folder: Path, items: ItemColumns, manifest: Manifest) -> None:
        """Write the table of the items; none of a set with a damaged shard, which whoever reads the set then finds."""
        try:
            before = self.base.table()
            table = items.finish(manifest, () if before is None else before.headers)
        except (StoreError, KeyError):
            return
        publish(folder / ITEMS_FILE, table.to_chunks(hashlib.sha256(manifest.to_bytes()).hexdigest()))

    def _new_folder(self) -> Path:
        folder = self._journal.new_base_folder()
        make_folder(folder)
        return folder


@dataclass
class _EditedIndex:
    """The index of a set with other `lines`, written to `folder` in pieces of as many rows as those of `base`.

    What is counted on the way are the items, and the images by the names of their columns.
    """

    base: Base
    folder: Path
    lines: Iterable[Sequence[NewLine]]
    items: ItemColumns = field(default_factory=ItemColumns)
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _start: int = 0  # of the next line
    _ahead: Sequence[NewLine] = ()

    def __post_init__(self) -> None:
        self._lines = iter(self.lines)

    def write(self) -> tuple[FileDigest, tuple[IndexPiece, ...]]:
        """Write all pieces; returns what the manifest says of them. A piece that is as it was keeps its name."""
        pieces: list[IndexPiece] = []
        index = self.base.index
        for before in index.pieces:
            name = new_name([*index.pieces, *pieces]) if index.is_split else INDEX_FILE
            counts = self.counts.copy()
            file, name = self._write_piece(name, sum(before.rows) if index.is_split else None)
            pieces.append(replace(before, name=name, file=file, columns=_num_images(self.counts - counts)))
        if not index.is_split:
            return pieces[0].file, ()
        return digest_pieces(pieces), tuple(pieces)

    def _write_piece(self, name: str, num_rows: int | None) -> tuple[FileDigest, str]:
        """Write a piece of so many rows; None: of all."""
        pending = PendingFile(self.folder / INDEX_FILE)
        try:
            for chunk in self._chunks(num_rows):
                pending.write(chunk)
            return publish_piece(pending, self.folder, name, self.base)
        finally:
            pending.discard()

    def num_images(self) -> dict[str, int]:
        """Of the images that are to be used, how many have each column."""
        return _num_images(self.counts)

    def _chunks(self, num_rows: int | None) -> Iterator[bytes]:
        """Give the bytes of the next rows; None: of all. Raises `StoreError` if there are fewer."""
        if num_rows is None:
            yield from map(self._take, self._lines)
            return
        while num_rows > 0:
            if not (lines := self._ahead or next(self._lines, ())):
                raise StoreError("has fewer rows than the manifest says; damaged or edited", place=self.base.folder)
            lines, self._ahead = lines[:num_rows], lines[num_rows:]
            num_rows -= len(lines)
            yield self._take(lines)

    def _take(self, lines: Sequence[NewLine]) -> bytes:
        """Count some lines, and return their bytes."""
        shards = [shard for _, shard, _ in lines]
        all_names = [names for _, shard, names in lines if shard is not None]
        starts = accumulate([len(line) for line, _, _ in lines], initial=self._start)
        self.items.extend(starts, shards)
        self.counts.update(all_names)
        data = b"".join([line for line, _, _ in lines])
        self._start += len(data)
        return data


def _num_images(counts: Counter[tuple[str, ...]]) -> dict[str, int]:
    """Return how many images have each column, of images by the names of all their columns."""
    names = sorted(set(chain.from_iterable(counts)))
    return {name: sum(number for some, number in counts.items() if name in some) for name in names}


def _plan_sha256(before: LatentSet, after: Manifest) -> str:
    """Hex digest of what was done last: which set was before, and what became of its lists."""
    lists = {"base": before.sha256, "index": after.index.sha256, "columns": after.columns.to_json()}
    if after.tensors:
        lists["tensors"] = tensors_to_json(after.tensors)
    return hashlib.sha256(to_line(lists)).hexdigest()
