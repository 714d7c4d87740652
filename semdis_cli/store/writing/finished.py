"""The set that a run starts from: a finished one that is to grow, or nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from semdis_cli.errors import StoreError
from semdis_cli.files import disk
from semdis_cli.files.atomic import make_folder, publish
from semdis_cli.files.links import describe_absent, describe_pointer
from semdis_cli.store.index import IndexLine, parse_line, parse_row
from semdis_cli.store.item_table import ITEMS_FILE, read_items
from semdis_cli.store.items import find_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import INDEX_FILE, MANIFEST_FILE, SHARD_FOLDER, Manifest, verify_hint
from semdis_cli.store.writing.seen import SEEN_FILE, SeenFile, read_seen

_COPIED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Base:
    """The content of the folder `root` before a run: the finished set `latents`, or nothing."""

    root: Path
    latents: LatentSet | None = None

    @classmethod
    def read(cls, root: Path, folder: Path) -> "Base":
        """The set with the lists in `folder`. Raises `StoreError` if they are damaged."""
        return cls(root, LatentSet.read(root, folder).check_index(is_locked=True))

    @property
    def folder(self) -> Path:
        """The folder with manifest, index and times of sources."""
        return self.latents.folder if self.latents else self.root

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the set."""
        return self.latents.manifest if self.latents else None

    @property
    def sha256(self) -> str | None:
        """Identity of the set: the sha256 of its manifest."""
        return self.latents.sha256 if self.latents else None

    @property
    def next_number(self) -> int:
        """The number of the next shard."""
        return max((int(shard.name[:8]) + 1 for shard in self.manifest.shards), default=0) if self.manifest else 0

    @property
    def shard_names(self) -> frozenset[str]:
        """The file names of its shards."""
        return frozenset(shard.name for shard in self.manifest.shards) if self.manifest else frozenset()

    def lines(self) -> Iterator[IndexLine]:
        """The lines of the index, sorted by key. Raises `StoreError` for one that is no row."""
        if self.manifest is None:
            return
        try:
            with (self.folder / INDEX_FILE).open("rb") as file:
                yield from map(partial(parse_row, parse_line), file)
        except StoreError as error:
            raise StoreError(f"{error.reason}; damaged or edited", place=self.folder / INDEX_FILE) from error

    def seen(self) -> Iterator[SeenFile]:
        """Give the sizes and times of source files that are on record, sorted by key."""
        if self.manifest is not None:
            yield from read_seen(self.folder, self.manifest.index.sha256)

    def headers(self) -> dict[str, bytes]:
        """The sha256 of each shard's header, by its file name, of the time when it was held against the index.

        That is in the set's table; a set without one is looked at now. Raises `StoreError` if it is damaged.
        """
        if self.latents is None:
            return {}
        manifest = self.latents.manifest
        table = read_items(self.folder, manifest, self.latents.sha256) or find_items(self.latents).table
        return dict(zip((shard.name for shard in manifest.shards), table.headers, strict=True))

    def check_shards(self) -> None:
        """Refuse a set whose shards are not all there; what is in them is for reading to check."""
        for shard in self.manifest.shards if self.manifest else ():
            path = self.root / SHARD_FOLDER / shard.name
            if size_of(path) != shard.file.num_bytes:
                what = (
                    describe_absent(path) or describe_pointer(path) or f"missing, or not of the size in {MANIFEST_FILE}"
                )
                raise StoreError(
                    f"{what}; restore it, or delete {self.root} and encode the set again{verify_hint(self.root)}",
                    place=path,
                )

    def copy_to(self, folder: Path) -> "Base":
        """The same in another folder, which is made; the manifest comes last."""
        make_folder(folder)
        for name in (INDEX_FILE, ITEMS_FILE, SEEN_FILE, MANIFEST_FILE):
            if (self.folder / name).exists():
                publish(folder / name, _chunks(self.folder / name))
        return Base(self.root, self.latents and replace(self.latents, folder=folder))

    def remove(self) -> None:
        """Delete the folder and all in it."""
        disk.remove_folder(self.folder)


NO_BASE = Base(Path())


def size_of(path: Path) -> int | None:
    """Bytes of the file at `path`, None if there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_COPIED_AT_ONCE):
            yield chunk
