"""The set that a run starts from: a finished one that is to grow, or nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import make_folder, publish
from semdis_cli.files.links import describe_absent, describe_pointer
from semdis_cli.files.url import Location, Url
from semdis_cli.store.checks import check_count, check_record_key, check_text, parse_json
from semdis_cli.store.index import STATUSES, parse_row
from semdis_cli.store.item_table import ITEMS_FILE, read_items
from semdis_cli.store.items import find_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import INDEX_FILE, MANIFEST_FILE, SHARD_FOLDER, Manifest, verify_hint
from semdis_cli.store.writing.seen import SEEN_FILE, SeenFile, read_seen

_COPIED_AT_ONCE = 1 << 20


class IndexLine(NamedTuple):
    """One line of an index, and of what it says the part by which runs are compared; None where it does not say.

    `seen`: the file that a new line is about.
    """

    key: str
    status: str
    num_bytes: int | None
    sha256: str | None
    place: tuple[str, int] | None
    error: str | None
    data: bytes
    seen: SeenFile | None = None


@dataclass(frozen=True)
class Base:
    """The content of a set before a run: the finished set `latents`, or nothing.

    `root`: where its shards are; `folder`: that with manifest, index and times of sources.
    """

    root: Location
    folder: Path
    latents: LatentSet | None = None

    @classmethod
    def read(cls, root: Location, folder: Path) -> "Base":
        """The set with the lists in `folder`. Raises `StoreError` if they are damaged."""
        return cls(root, folder, LatentSet.read(root, folder).check_index(is_locked=True))

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
        with (self.folder / INDEX_FILE).open("rb") as file:
            for data in file:
                yield parse_line(data, self.folder / INDEX_FILE)

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
        size = shard_sizes(self.root)
        for shard in self.manifest.shards if self.manifest else ():
            path = self.root / SHARD_FOLDER / shard.name
            if size(shard.name) != shard.file.num_bytes:
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
        return Base(self.root, folder, self.latents and replace(self.latents, folder=folder))

    def remove(self) -> None:
        """Delete the folder and all in it."""
        disk.remove_folder(self.folder)


NO_BASE = Base(Path(), Path())


def size_of(path: Location) -> int | None:
    """Bytes of the file at `path`, None if there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def shard_sizes(root: Location) -> Callable[[str], int | None]:
    """Return what gives the size of a shard of the set in `root` by its name: None if there is none.

    A store is asked once for all. Raises `UsageError` where it does not answer.
    """
    if not isinstance(root, Url):
        return lambda name: size_of(root / SHARD_FOLDER / name)
    try:
        return {file.path.rpartition("/")[2]: file.num_bytes for file in (root / SHARD_FOLDER).files()}.get
    except OSError as error:
        raise UsageError(f"cannot be listed ({error.strerror})", place=root) from error


def parse_line(data: bytes, path: Location) -> IndexLine:
    """Parse what matters of a line of ours. Its facts are not checked: the sha256 of the index has been."""
    try:
        return parse_row(_parse_line, data)
    except StoreError as error:
        raise StoreError(f"{error.reason}; damaged or edited", place=path) from error


def _parse_line(data: bytes) -> IndexLine:
    fields = parse_json(data)
    place = None if "shard" not in fields else (check_text(fields["shard"]), check_count(fields["row"]))
    if (status := fields["status"]) not in STATUSES:
        raise ValueError(f"status {status!r:.40}")
    return IndexLine(
        key=check_record_key(fields),
        status=status,
        num_bytes=fields.get("num_bytes"),
        sha256=fields.get("sha256"),
        place=place,
        error=fields.get("error"),
        data=data,
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_COPIED_AT_ONCE):
            yield chunk
