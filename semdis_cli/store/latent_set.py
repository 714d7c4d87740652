"""A finished set, opened: one reading of its manifest and its index, for everything that reads sets."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Self

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import Lines, digest_file, digest_lines
from semdis_cli.files.json_text import parse_json
from semdis_cli.files.links import why_unreadable
from semdis_cli.files.set_names import SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.store.checks import MALFORMED, check_record_key
from semdis_cli.store.index import IndexRow, Place, read_places, read_rows
from semdis_cli.store.manifest import Manifest, ShardEntry, read_manifest


@dataclass(frozen=True)
class LatentSet:
    """A finished set: its manifest, and the index that was written with that.

    `root` holds the shards, `folder` the lists: of a set that is being added to, those of before lie elsewhere.
    `sha256`: of the manifest's file, the identity of the set.
    """

    root: Location
    folder: Location
    manifest: Manifest
    sha256: str

    @classmethod
    def read(cls, root: Location, folder: Location | None = None) -> Self:
        """Read the manifest alone. Raises `StoreError` if it is missing or damaged."""
        data = read_manifest(folder or root)
        return cls(root, folder or root, Manifest.parse(folder or root, data), hashlib.sha256(data).hexdigest())

    def check_index(self, *, is_locked: bool = False) -> Self:
        """Return the set. Raises `StoreError` unless its index is the one that the manifest was written with.

        `is_locked`: no other run can be the reason.
        """
        index = self.manifest.index_files
        for number, (piece, path) in enumerate(zip(index.pieces, self.index_paths, strict=True)):
            if index.is_split:
                found, lines = digest_lines(path)
                if found == piece.file:
                    _check_lines(path, lines, sum(piece.rows), *index.range_of(number))
            else:
                found = digest_file(path)
            if found == piece.file:
                continue
            what = "does not match the sha256 in the manifest"
            if is_locked:
                raise StoreError(f"{what}; damaged or edited", place=path)
            reasons = "damaged or edited, or a run that added to the set was stopped; in that case run it again"
            raise StoreError(f"{what}: {reasons}", place=path)
        return self

    @property
    def index_paths(self) -> tuple[Location, ...]:
        """The files of the index, in the order of their keys."""
        return tuple(self.folder / piece.name for piece in self.manifest.index_files.pieces)

    @property
    def index(self) -> Location:
        """The index, for messages about all of it: its file, or the first of its pieces."""
        return self.index_paths[0]

    def line_at(self, offset: int) -> bytes:
        """Return the line of the index that begins at a byte, as `places` counts them. Raises `StoreError`."""
        number = self.manifest.index_files.number_at(offset)
        path = self.folder / self.manifest.index_files.pieces[number].name
        try:
            with path.open("rb") as file:
                file.seek(offset - self.manifest.index_files.starts[number])
                return file.readline()
        except OSError as error:
            raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error

    def shard(self, entry: ShardEntry) -> Location:
        """The file of a shard of the manifest."""
        return self.root / SHARD_FOLDER / entry.name

    def rows(self) -> Iterator[IndexRow]:
        """Give all rows of the index, sorted by key. Raises `StoreError` naming the line of one that is none."""
        return chain.from_iterable(map(read_rows, self.index_paths))

    def places(self) -> Iterator[tuple[int, Place]]:
        """Give the places of the latents to be used, sorted by key, each with the byte at which its line begins.

        The bytes of all files count on. Raises `StoreError` for a line that is no row, and a place in no shard of the
        manifest.
        """
        names = {shard.name for shard in self.manifest.shards}
        for start, path in zip(self.manifest.index_files.starts, self.index_paths, strict=False):
            for offset, place in read_places(path):
                if place.shard not in names:
                    what = f"{place.key!r:.80} is in {place.shard!r:.60}, which is not in the manifest"
                    raise StoreError(what, place=path)
                yield start + offset, place


def _check_lines(path: Location, lines: Lines, num_rows: int, first_key: str, end: str | None) -> None:
    """Raise `StoreError` unless a piece has as many rows, and keys of the range, as the manifest says."""
    try:
        first, last = (check_record_key(parse_json(line)) for line in (lines.first, lines.last))
    except MALFORMED as error:
        raise StoreError(f"begins or ends with no row ({error}); damaged or edited", place=path) from error
    if lines.number != num_rows or first_key not in {"", first} or (end is not None and last >= end):
        raise StoreError("has other rows than the manifest says; damaged or edited", place=path)


def open_set(root: Location) -> LatentSet:
    """Open the finished set in `root`.

    Raises `StoreError` if it is unfinished, or its manifest and index are damaged or do not go together.
    """
    return LatentSet.read(root).check_index()
