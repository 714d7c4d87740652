"""A folder of latents before a run: may it be written, and what does it hold; a finished set may grow.

`Base` is what a run starts from.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import keep_file, make_folder
from semdis_cli.files.claim import check_outside_sets, list_folder
from semdis_cli.files.links import describe_absent, describe_pointer
from semdis_cli.files.set_names import (
    CHECKSUM_FILE,
    COLUMN_FOLDER,
    INDEX_FILE,
    INDEX_FOLDER,
    JOURNAL_FOLDER,
    LIST_FOLDERS,
    MANIFEST_FILE,
    SET_FILES,
    SET_FOLDERS,
    SHARD_FOLDER,
)
from semdis_cli.files.url import Location, Url
from semdis_cli.provenance import Provenance
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.index import IndexLine, parse_line, parse_row
from semdis_cli.store.item_table import ItemTable, read_items
from semdis_cli.store.items import find_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest, verify_hint
from semdis_cli.store.set_index import SetIndex, is_piece_name
from semdis_cli.store.tensors.listed import column_of
from semdis_cli.store.versions import choose_record
from semdis_cli.store.writing.journal import Journal, is_base_name, is_journal_name
from semdis_cli.store.writing.journal_file import records_of
from semdis_cli.store.writing.seen import SeenFile, read_seen


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

    @property
    def index(self) -> SetIndex:
        """The files of the index."""
        return SetIndex(()) if self.manifest is None else self.manifest.index_files

    def lines(self) -> Iterator[IndexLine]:
        """The lines of the index, sorted by key. Raises `StoreError` for one that is no row."""
        return chain.from_iterable(map(self.lines_of, range(len(self.index.pieces))))

    def lines_of(self, number: int) -> Iterator[IndexLine]:
        """The lines of one piece of the index. Raises `StoreError` for one that is no row."""
        path = self.folder / self.index.pieces[number].name
        try:
            with path.open("rb") as file:
                yield from map(partial(parse_row, parse_line), file)
        except StoreError as error:
            raise StoreError(f"{error.reason}; damaged or edited", place=path) from error

    def lines_at(self, offsets: Iterable[int]) -> Iterator[IndexLine]:
        """The lines of the index that begin at these bytes, counted over all pieces; `offsets` rise.

        Raises `StoreError` for one that is no row.
        """
        for number, some in groupby(offsets, self.index.number_at):
            yield from self._lines_at(number, (offset - self.index.starts[number] for offset in some))

    def _lines_at(self, number: int, offsets: Iterable[int]) -> Iterator[IndexLine]:
        path = self.folder / self.index.pieces[number].name
        try:
            with path.open("rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    yield parse_row(parse_line, file.readline())
        except StoreError as error:
            raise StoreError(f"{error.reason}; damaged or edited", place=path) from error

    def seen_of(self, number: int) -> Iterator[SeenFile]:
        """Give the sizes and times of source files that are on record for a piece of the index, sorted by key."""
        piece = self.index.pieces[number]
        return read_seen(self.folder / piece.seen_name, piece.file.sha256)

    def table(self) -> ItemTable | None:
        """The table of the items, found anew for a set without one; None of an empty set.

        Raises `StoreError` if the set is damaged.
        """
        if self.latents is None:
            return None
        found = read_items(self.folder, self.latents.manifest, self.latents.sha256)
        return found or find_items(self.latents).table

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

    def linked_in(self, folder: Path) -> "Base":
        """The same in another folder, which is made: its files under further names, or copies where the disk has none.

        They are replaced in their places, never written to. The manifest comes last.
        """
        make_folder(folder)
        for name in self._names():
            keep_file(self.folder / name, folder / name)
        return Base(self.root, folder, self.latents and replace(self.latents, folder=folder))

    def _names(self) -> list[str]:
        """Return the lists that a run starts from, as far as they are there."""
        names = self.manifest.list_names if self.manifest is not None else ()
        return [name for name in names if name != CHECKSUM_FILE and (self.folder / name).exists()]

    def remove(self) -> None:
        """Delete the folder and all in it."""
        disk.remove_folder(self.folder)


NO_BASE = Base(Path(), Path())


def finished_base(root: Path, provenance: Provenance, *, mix_versions: bool = False) -> Base:
    """The finished set in `root`, not locked, or an empty one. Raises `UsageError` as `LatentSetWriter` does."""
    if not (root / MANIFEST_FILE).exists():
        return NO_BASE
    base = Base.read(root, root)
    if base.manifest is not None:
        choose_record(root, base.manifest.records, provenance, mix_versions=mix_versions)
    return base


def recorded_settings(root: Path) -> Provenance | None:
    """The settings of the set in `root`, finished or begun; None if there is none that can be read."""
    try:
        if (root / MANIFEST_FILE).is_file():
            return Manifest.read(root).provenance
        begun = Journal(root).read_plan()
        return None if begun is None else records_of(begun)[0]
    except (StoreError, OSError):  # whoever is about to write there says so
        return None


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


def check_latents_folder(root: Path) -> None:
    """Refuse a folder that holds something else than latents of ours, before any work. Raises `UsageError`.

    Ours is a folder with a manifest or a journal, and in it only what has our names, and what `lies_beside`. Files may
    be links: they are replaced, never written through. Folders may not. One that a run has made, which then could not
    begin, is none of others.
    """
    check_outside_sets(root)
    if root.exists() and not root.is_dir():
        raise UsageError("cannot be written (not a folder)", place=root)
    for name in sorted(SET_FOLDERS):
        if (root / name).is_symlink():
            raise UsageError(
                "a link, through which would be written; give -o a copy of the set (cp -rL)", place=root / name
            )
    found = list_folder(root)  # first: a run that begins or ends there meanwhile makes a set of what is listed
    is_ours = (root / JOURNAL_FOLDER).is_dir() or (root / MANIFEST_FILE).is_file()  # the first goes once the second is
    strangers = [path for path in found if not (is_ours and _is_own(path)) and not _is_left_empty(path)]
    if not strangers:
        shards, columns = list_folder(root / SHARD_FOLDER), list_folder(root / COLUMN_FOLDER)
        strangers += [path for path in shards if not (is_shard_name(path.name) and path.is_file())]
        strangers += [path for path in columns if not (column_of(path.name) and path.is_file())]
        for path in (path for name in sorted(LIST_FOLDERS) for path in list_folder(root / name)):
            strangers += [] if is_piece_name(f"{INDEX_FOLDER}/{path.name}") and path.is_file() else [path]
        strangers += [path for path in list_folder(root / JOURNAL_FOLDER) if not _is_of_journal(path)]
    strangers = [path for path in strangers if path.is_symlink() or path.exists()]  # that run removes files, too
    if strangers:
        raise UsageError(_describe_strangers(root, strangers, is_ours=is_ours))


def _describe_strangers(root: Path, strangers: Sequence[Path], *, is_ours: bool) -> str:
    """Say why a folder that holds `strangers` is none to write latents to."""
    for path in sorted(strangers):
        if absent := describe_absent(path):
            return f"{path}: {absent}"
    has_index = (root / INDEX_FILE).is_file() or (root / INDEX_FOLDER).is_dir()
    if not is_ours and (root / SHARD_FOLDER).is_dir() and has_index:
        return (
            f"{root}: parts of a set without its {MANIFEST_FILE}, as of a download that was cut short: semdis verify "
            f"{root} says what is there; complete it, or give another -o"
        )
    return f"{root}: holds other files ({min(strangers).name}, ...); give -o an empty or new folder"


def _is_own(path: Path) -> bool:
    if path.name in SET_FOLDERS:
        return path.is_dir()
    return path.name in SET_FILES and path.is_file()


def _is_left_empty(path: Path) -> bool:
    return path.name in SET_FOLDERS and path.is_dir() and not list_folder(path)


def _is_of_journal(path: Path) -> bool:
    if is_base_name(path.name):
        return path.is_dir() and not path.is_symlink()
    return is_journal_name(path.name) and path.is_file() and not path.is_symlink()  # it is added to in place
