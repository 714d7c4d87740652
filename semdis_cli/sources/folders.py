"""Folders searched all the way down: which files in them are images, and where a search must not go."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from pathlib import Path

from semdis_cli.defaults import (
    DECODE_MARKER,
    EVAL_MARKER,
    GENERATOR_MARKER,
    PAGE_MARKER,
    PICTURES_MARKER,
    ROUNDTRIP_MARKER,
    TRAIN_MARKER,
)
from semdis_cli.files.disk import FolderIdentity, folder_identity, list_names
from semdis_cli.kinds.formats import SIGNATURE_BYTES, has_image_suffix, is_image_file
from semdis_cli.sources.containers import is_container_name, search_containers
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.input_rules import (
    InputRules,
    PassedOver,
    file_kind,
    folder_kind,
    is_plain_image,
    is_plain_name,
)
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds, Search

OWN_OUTPUT = frozenset(
    {DECODE_MARKER, EVAL_MARKER, GENERATOR_MARKER, PAGE_MARKER, PICTURES_MARKER, ROUNDTRIP_MARKER, TRAIN_MARKER}
)
TABLES = frozenset(  # of what lies below their folder
    {"metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.json", "dataset.json"}
)
_FILES_BETWEEN_NEWS = 100
_FIGURES = attrgetter("st_size", "st_mtime_ns", "st_ctime_ns")
_MAX_DEPTH = 2048  # a path may have 4096 bytes
_MAX_REPEATS = 12  # folders of one identity and name, one in the other: no disk has those, a circle has
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")  # how it writes blanks


@dataclass(frozen=True)
class Folder:
    """Source of the images in a folder and in all folders below it, which are files of their own."""

    path: Path
    naming: NamedPath

    @classmethod
    def at(cls, path: Path) -> "Folder | None":
        """Return the source at `path`; None if that is no folder, or cannot be looked at."""
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError:
            return None
        return cls(path, NamedPath.of_folder(path)) if is_folder else None

    def images(self, prefix: str, search: Search) -> Finds:
        """List the images in it, without reading them; their keys are `prefix` and their paths in it.

        Links are followed. One that leads to a folder above it is counted as a circle, and so is a folder that is
        mounted within itself. That two folders have one inode number proves nothing: on some disks all of them do.
        """
        root = _Folder(str(self.path), "", os.path.realpath(self.path), folder_identity(self.path))
        exclude = None if search.exclude is None else _Excluded.of(search.exclude)
        walk = _Walk(prefix, search.rules, exclude, search.tell)
        walk.run(root)
        if walk.found.images or not search.has_containers:
            walk.found.passed_over.add(PassedOver.CONTAINER, len(walk.containers))
        else:
            search_containers(self.path, walk.containers, walk.found, prefix, search)
        return walk.found


@dataclass(frozen=True, slots=True)
class _Folder:
    """Folder to search.

    `inside`: its path in the source, empty or with a slash at its end. `real`: its path without links. `is_linked`: a
    link leads to it, or to a folder that it lies in. `is_included`: all in it is. `is_odd`: only content makes images.
    """

    path: str
    inside: str
    real: str
    identity: FolderIdentity | None
    parent: "_Folder | None" = None
    depth: int = 0
    is_linked: bool = False
    is_included: bool = False
    is_odd: bool = False

    @property
    def above(self) -> Iterator["_Folder"]:
        """Yield the folders that it was reached through, from the nearest on."""
        folder = self.parent
        while folder is not None:
            yield folder
            folder = folder.parent

    def repeats(self) -> list["_Folder"]:
        """List those of them that have its identity."""
        return [] if self.identity is None else [each for each in self.above if each.identity == self.identity]


@dataclass(frozen=True, slots=True)
class _Excluded:
    """Folder not to enter, under whatever path it is met."""

    real: str
    identity: FolderIdentity | None
    names: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> "_Excluded":
        return cls(os.path.realpath(path), folder_identity(path), _names_in(path))

    def is_it(self, folder: _Folder) -> bool:
        """Tell whether `folder` is the one: by its path, or by its contents if that is another one (a bind mount)."""
        if folder.real == self.real:
            return True
        if self.identity is None or folder.identity != self.identity or not self.names:
            return False
        return _names_in(Path(folder.path)) == self.names


# Entries of a folder in the order of the keys, each with its name, which has a slash at the end if it is a folder.
_Entries = Iterator[tuple[str, os.DirEntry[str]]]


@dataclass(slots=True)
class _Walk:
    """Search of a folder that is under way."""

    prefix: str
    rules: InputRules
    exclude: _Excluded | None
    tell: Callable[[int], None]
    found: Finds = field(default_factory=Finds)
    opened: list[tuple[_Folder, _Entries, Sequence[str]]] = field(default_factory=list)  # names, if all are plain
    has_patterns: bool = False  # as of the rules
    root: int = 0  # that of the images, in the list of them
    containers: list[Path] = field(default_factory=list)  # files that hold many images
    keys: list[str] = field(default_factory=list)  # of images that are not in the list yet
    figures: list[int] = field(default_factory=list)  # size, mtime, ctime of each
    mounts: frozenset[bytes] | None = None

    def run(self, root: _Folder) -> None:
        """Search `root` and all that it leads to, in the order of the keys: what comes sorted need not be sorted."""
        self.has_patterns = self.rules.has_patterns
        self.root = self.found.images.root(ON_DISK, os.path.join(root.path, ""), len(self.prefix))  # noqa: PTH118
        self._enter(root)
        while self.opened:
            inner = self._add_files(*self.opened[-1])
            self._note_images()
            if inner is None:
                self.opened.pop()
            else:
                self._enter(inner)

    def _add_files(self, folder: _Folder, entries: _Entries, plain: Sequence[str]) -> _Folder | None:
        """Note files up to the first folder that is to be searched, which is returned; None at the end."""
        try:
            opened = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            self._fail_to_search(folder, error)
            return None
        try:
            self._add_plain(folder, plain, opened)
            return self._add_from(folder, entries, opened)
        finally:
            os.close(opened)

    def _add_plain(self, folder: _Folder, names: Sequence[str], opened: int) -> None:
        """Note files that are surely images, of a folder that is `opened`: as most are, so it is done quickly."""
        start = self.prefix + folder.inside
        for first in range(0, len(names), _FILES_BETWEEN_NEWS):
            if first:
                self.tell(self.found.num_seen)
            some = names[first : first + _FILES_BETWEEN_NEWS]
            try:
                statuses = [os.stat(name, dir_fd=opened) for name in some]
            except OSError:  # of one of them
                some, statuses = self._look_at_each(folder, some, opened)
            self.keys += [start + name for name in some]
            self.figures += chain.from_iterable(map(_FIGURES, statuses))
            self._note_images()

    def _look_at_each(
        self, folder: _Folder, names: Sequence[str], opened: int
    ) -> tuple[list[str], list[os.stat_result]]:
        """Return those files that can be looked at, and what that says; the others are failures."""
        found: dict[str, os.stat_result] = {}
        for name in names:
            try:
                found[name] = os.stat(name, dir_fd=opened)
            except OSError as error:
                self._fail(folder, name, error)
        return list(found), list(found.values())

    def _add_from(self, folder: _Folder, entries: _Entries, opened: int) -> _Folder | None:
        """Note files of a folder that is `opened`, up to the first folder; most pass a quick test."""
        is_odd = folder.is_odd or self.has_patterns
        for name, entry in entries:
            if len(self.keys) >= _FILES_BETWEEN_NEWS:
                self._note_images()
                self.tell(self.found.num_seen)
            inner = None
            try:
                if name[-1] == "/":
                    inner = self._find_folder(entry, folder)
                elif (not is_odd and is_plain_image(name) and entry.is_file()) or self._is_image(entry, name, folder):
                    self.figures += _FIGURES(os.stat(name, dir_fd=opened))
                    self.keys.append(self.prefix + folder.inside + name)
            except OSError as error:
                self._fail(folder, entry.name, error)
            if inner is not None:
                return inner
        return None

    def _fail(self, folder: _Folder, name: str, error: OSError) -> None:
        key = self.prefix + folder.inside + name
        self.found.fail(key, f"{folder.path}/{name}", f"cannot be read ({error.strerror})")

    def _fail_to_search(self, folder: _Folder, error: OSError) -> None:
        key = (self.prefix + folder.inside).removesuffix("/") or "."
        self.found.fail(key, folder.path, f"cannot be searched ({error.strerror})")

    def _note_images(self) -> None:
        """Add to the finds what is noted of images: many at once is quicker."""
        if self.keys:
            self.found.images.extend(self.root, self.keys, self.figures)
            self.keys.clear()
            self.figures.clear()

    def _enter(self, folder: _Folder) -> None:
        """Open a folder, whose entries come before those that are left in the folders above."""
        if self.exclude is not None and self.exclude.is_it(folder):
            return
        self.tell(self.found.num_seen)
        try:
            plain = None if folder.is_odd or self.has_patterns else _plain_names(folder.path)
            entries = list(os.scandir(folder.path)) if plain is None else []
        except OSError as error:
            self._fail_to_search(folder, error)
            return
        if plain is not None:
            self.opened.append((folder, iter(()), plain))
            return
        names = [entry.name for entry in entries]
        if not OWN_OUTPUT.isdisjoint(names):
            self.found.passed_over.add(PassedOver.OUTPUT, len(entries))
            return
        by_name = dict(zip(names, entries, strict=True))
        for entry in filter(_is_folder, entries):
            by_name[f"{entry.name}/"] = by_name.pop(entry.name)
        names = sorted(by_name)
        self.opened.append((folder, zip(names, map(by_name.__getitem__, names), strict=True), ()))

    def _is_image(self, entry: os.DirEntry[str], name: str, folder: _Folder) -> bool:
        """Tell whether a file is an image that is wanted; one that is not is counted."""
        has_suffix = has_image_suffix(name)
        is_odd = folder.is_odd
        if not (has_suffix and is_plain_name(name)):
            kind = file_kind(name)
            if kind is not None and not self.rules.all_files:
                self.found.passed_over.add(kind)
                return False
            is_odd = is_odd or kind is not None
        if is_container_name(name) and name not in TABLES and entry.is_file():
            return self._note_container(entry, folder)
        if self.rules.has_patterns and self._is_left_out(folder, name):
            self.found.passed_over.add(PassedOver.EXCLUDED)
            return False
        if _is_image(entry, has_suffix=has_suffix and not is_odd):
            return True
        if name in TABLES:
            self.found.tables.append(folder.inside + name)
        self.found.passed_over.add(PassedOver.NO_IMAGE)
        return False

    def _note_container(self, entry: os.DirEntry[str], folder: _Folder) -> bool:
        """Note a file that holds many images, which is none itself; --include is about what is in it."""
        if self.rules.excludes(folder.inside + entry.name, entry.name, is_folder=False):
            self.found.passed_over.add(PassedOver.EXCLUDED)
        else:
            self.containers.append(Path(entry.path))
        return False

    def _find_folder(self, entry: os.DirEntry[str], folder: _Folder) -> _Folder | None:
        """Return a folder to be searched; None for one that is passed over."""
        name, path = entry.name, folder.inside + entry.name
        kind = folder_kind(name)
        if kind is not None and not self.rules.all_files:
            self.found.passed_over.add(kind)
        elif self.rules.excludes(path, name, is_folder=True):
            self.found.passed_over.add(PassedOver.EXCLUDED)
        else:
            is_link = entry.is_symlink()
            inner = _Folder(
                entry.path,
                f"{path}/",
                os.path.realpath(entry.path) if is_link else f"{folder.real.rstrip('/')}/{name}",
                folder_identity(Path(entry.path)),
                folder,
                folder.depth + 1,
                folder.is_linked or is_link,
                folder.is_included or bool(self.rules.include and self.rules.includes(path, name, is_folder=True)),
                folder.is_odd or kind is not None,
            )
            if self._is_circle(inner):
                self.found.passed_over.add(PassedOver.CIRCLE)
            elif inner.depth > _MAX_DEPTH:
                self.found.fail(
                    self.prefix + path, entry.path, f"lies in {_MAX_DEPTH:,} folders: none deeper is searched"
                )
            else:
                return inner
        return None

    def _is_circle(self, folder: _Folder) -> bool:
        """Tell whether a search of `folder` would come back to it.

        Only a link can lead back, or a mount. For what leads back in some third way, so many repeats are enough.
        """
        if folder.is_linked and any(above.real == folder.real for above in folder.above):
            return True
        repeats = folder.repeats()
        if not repeats:
            return False
        name = Path(folder.path).name
        same_name = sum(Path(above.path).name == name for above in repeats)
        return same_name >= _MAX_REPEATS or self._is_mount(folder.real)

    def _is_mount(self, real: str) -> bool:
        """Tell whether something is mounted at a path without links."""
        if self.mounts is None:
            self.mounts = _mount_points()
        return os.fsencode(real) in self.mounts if self.mounts else os.path.ismount(real)

    def _is_left_out(self, folder: _Folder, name: str) -> bool:
        """Tell whether the patterns leave out a file in `folder`."""
        path = folder.inside + name
        if self.rules.excludes(path, name, is_folder=False):
            return True
        return not (folder.is_included or self.rules.includes(path, name, is_folder=False))


def _plain_names(folder: str) -> list[str] | None:
    """Return the sorted names in a folder if all are surely those of images, else None. Raises `OSError`.

    An entry of it would take three times as much as its name.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (is_plain_image(entry.name) and _is_file(entry)):
                return None
            names.append(entry.name)
    names.sort()
    return names


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # of a link that cannot be followed
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # looking at it as a file says why
        return False


def _is_image(entry: os.DirEntry[str], *, has_suffix: bool) -> bool:
    """Tell whether an entry is an image by its suffix or first bytes. Raises `OSError` if it cannot be looked at."""
    if not entry.is_file():
        # A dangling link in the place of an image is an image that is missing.
        return has_suffix and entry.is_symlink() and not Path(entry.path).exists()
    if has_suffix:
        return True
    with Path(entry.path).open("rb", buffering=SIGNATURE_BYTES) as file:
        return is_image_file(file)


def _mount_points() -> frozenset[bytes]:
    """Return where something is mounted, bind mounts too; nothing where the system does not say."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return frozenset()
    return frozenset(_OCTAL.sub(lambda code: bytes([int(code[1], 8)]), line.split(b" ", 5)[4]) for line in lines)


def _names_in(path: Path) -> frozenset[str]:
    return frozenset(inner.name for inner in list_names(path))
