"""A finished set, opened: one reading of its manifest and its index, for everything that reads sets."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file
from semdis_cli.files.set_names import INDEX_FILE, SHARD_FOLDER
from semdis_cli.files.url import Location
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
        if digest_file(self.index) == self.manifest.index:
            return self
        what = "does not match the sha256 in the manifest"
        if is_locked:
            raise StoreError(f"{what}; damaged or edited", place=self.index)
        reasons = "damaged or edited, or a run that added to the set was stopped; in that case run it again"
        raise StoreError(f"{what}: {reasons}", place=self.index)

    @property
    def index(self) -> Location:
        """The file of the index."""
        return self.folder / INDEX_FILE

    def shard(self, entry: ShardEntry) -> Location:
        """The file of a shard of the manifest."""
        return self.root / SHARD_FOLDER / entry.name

    def rows(self) -> Iterator[IndexRow]:
        """Give all rows of the index, sorted by key. Raises `StoreError` naming the line of one that is none."""
        return read_rows(self.index)

    def places(self) -> Iterator[tuple[int, Place]]:
        """Give the places of the latents to be used, sorted by key, each with the byte at which its line begins.

        Raises `StoreError` for a line that is no row, and a place in no shard of the manifest.
        """
        names = {shard.name for shard in self.manifest.shards}
        for offset, place in read_places(self.index):
            if place.shard not in names:
                what = f"{place.key!r:.80} is in {place.shard!r:.60}, which is not in the manifest"
                raise StoreError(what, place=self.index)
            yield offset, place


def open_set(root: Location) -> LatentSet:
    """Open the finished set in `root`.

    Raises `StoreError` if it is unfinished, or its manifest and index are damaged or do not go together.
    """
    return LatentSet.read(root).check_index()
