"""Folders, files, tars, stdin and lists of files -> the images of a run, each under its key, sorted."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semdis_cli.data.formats import IMAGE_SUFFIXES, SIGNATURE_BYTES, image_format
from semdis_cli.data.spool import STDIN, STDIN_NAME, Spool
from semdis_cli.data.tars import is_tar_name, list_tar
from semdis_cli.defaults import DECODE_MARKER, ROUNDTRIP_MARKER, TRAIN_MARKER
from semdis_cli.errors import UsageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.records import SourceImage


@dataclass(frozen=True, slots=True)
class FoundImages:
    """Images and failures of a run, each sorted by key, no key twice, and the number of files passed over.

    `stdin` is kept so that images from there can be read for as long as this lives.
    """

    images: tuple[SourceImage, ...]
    failures: tuple[Failure, ...]
    num_ignored: int
    stdin: Spool | None = None

    @property
    def is_single(self) -> bool:
        """Whether one image on stdin is all that there is."""
        return self.stdin is not None and self.stdin.is_single


def find_images(
    sources: Sequence[Path],
    *,
    listed: Sequence[Path] = (),
    packed: Sequence[tuple[str, Path]] = (),
    exclude: Path | None = None,
    stdin: Spool | None = None,
    tell: Tell = untold,
) -> FoundImages:
    """List the images of `sources` (folders, tars, files, `-`) and of `listed` (files), without reading them.

    Folders are searched all the way down, through symbolic links too, but not in circles. A regular file in them is an
    image by its suffix or, failing that, by its first bytes; all else counts as ignored, and so do names that begin
    with a dot. `exclude` is a folder not to enter; folders that `decode`, `roundtrip` or `train` wrote are passed over
    as well, and so are tars in it. A file named outright is a tar by its suffix, else it is taken for an image whatever
    it looks like. `-` is what `stdin` holds. `packed`: more tars, each with what the keys in it begin with.

    Keys are POSIX paths. In a folder or tar: relative to it; with several sources, after its own name. A file among
    the sources: its name. A listed file: its path if that is relative and has no `..`, else its absolute path without
    the leading slash. An image on stdin: `stdin` and the suffix of its format. One file twice under one key counts
    once.

    A source that does not exist, a tar that is not whole, and two files with one key, are a `UsageError`. A listed file
    that does not exist, and whatever is not a regular file or may not be looked at, is a `Failure`.
    """
    scan = _Scan(None if exclude is None else _identity(exclude), tell)
    for source in sources:
        if source == STDIN and stdin is not None:
            scan.add_stdin(stdin, is_only=len(sources) == 1)
        else:
            scan.add_source(source, is_only=len(sources) == 1)
    for name, path in packed:
        scan.add_tar(path, f"{name}/")
    for path in listed:
        scan.add_file(path, _listed_key(path))
    return scan.result(stdin)


_ENTRIES_BETWEEN_NEWS = 100
_OWN_OUTPUT = frozenset({DECODE_MARKER, ROUNDTRIP_MARKER, TRAIN_MARKER})
_Identity = tuple[int, int]  # (st_dev, st_ino)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to search: its path, what the keys in it begin with, and the folder that it was reached from."""

    path: str
    prefix: str
    identity: _Identity | None
    parent: "_Folder | None" = None

    def is_inside(self, identity: _Identity | None) -> bool:
        """Whether this is the folder with that identity, or was reached through it."""
        folder: _Folder | None = self
        while folder is not None and folder.identity != identity:
            folder = folder.parent
        return folder is not None


@dataclass(slots=True)
class _Scan:
    """What has been found so far, each with the path that it came from."""

    exclude: _Identity | None
    tell: Tell = untold  # of the listing, every so many files
    found: list[tuple[SourceImage | Failure, Path | str]] = field(default_factory=list)
    num_ignored: int = 0

    def add_source(self, source: Path, *, is_only: bool) -> None:
        """Add what the user named: a folder or a file. `is_only`: there is no other source."""
        try:
            is_folder = stat.S_ISDIR(source.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{source}: no such file or folder") from None
        except OSError:
            is_folder = False  # add_file says what is wrong
        if is_folder:
            name = "" if is_only else source.resolve().name
            self._add_folder(_Folder(str(source), f"{name}/" if name else "", _identity(source)))
        elif is_tar_name(source):
            self.add_tar(source, "" if is_only else f"{source.stem}/")
        else:
            self.add_file(source, source.name)

    def add_tar(self, path: Path, prefix: str) -> None:
        """Add the images of a tar. Raises `UsageError` if it is damaged, or no regular file."""
        try:
            status = path.stat()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: is not a regular file; give a tar on a pipe as '-'")
        self._add_members(path, prefix, status.st_mtime_ns, path)

    def add_stdin(self, stdin: Spool, *, is_only: bool) -> None:
        """Add what came on stdin: the image, or the images of the tar."""
        if stdin.suffix == "tar":
            self._add_members(stdin.path, "" if is_only else f"{STDIN_NAME}/", None, Path(STDIN_NAME))
        else:
            image = SourceImage(f"{STDIN_NAME}.{stdin.suffix}", stdin.path, stdin.num_bytes, offset=0)
            self.found.append((image, Path(STDIN_NAME)))

    def add_file(self, path: Path, key: str) -> None:
        """Add one file, or why it cannot be an image. It is not opened: a pipe would keep us waiting."""
        try:
            status = path.stat()
        except OSError as error:
            self._fail(key, path, f"cannot be read ({error.strerror})")
            return
        if stat.S_ISREG(status.st_mode):
            self.found.append((SourceImage(key, path, status.st_size, status.st_mtime_ns), path))
        else:
            self._fail(key, path, "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")

    def result(self, stdin: Spool | None) -> FoundImages:
        """Everything, sorted by key. Raises `UsageError` if one key stands for two files."""
        self.found.sort(key=lambda entry: entry[0].key)
        unique = list(_without_repeats(self.found))
        return FoundImages(
            images=tuple(found for found in unique if isinstance(found, SourceImage)),
            failures=tuple(found for found in unique if isinstance(found, Failure)),
            num_ignored=self.num_ignored,
            stdin=stdin,
        )

    def _add_members(self, tar: Path, prefix: str, mtime_ns: int | None, name: Path) -> None:
        """Add what is in a tar that is called `name`."""
        contents = list_tar(tar, prefix, mtime_ns, name)
        self.found += ((image, name) for image in contents.images)
        self.found += ((failure, name) for failure in contents.failures)
        self.num_ignored += contents.num_ignored

    def _add_folder(self, root: _Folder) -> None:
        remaining = [root]
        while remaining:
            folder = remaining.pop()
            if self.exclude is not None and folder.identity == self.exclude:
                continue
            try:
                entries = list(os.scandir(folder.path))
            except OSError as error:
                key = folder.prefix.removesuffix("/") or "."
                self._fail(key, folder.path, f"cannot be searched ({error.strerror})")
                continue
            if any(entry.name in _OWN_OUTPUT for entry in entries):
                self.num_ignored += len(entries)
                continue
            for start in range(0, len(entries), _ENTRIES_BETWEEN_NEWS):
                self.tell(Planning("listing photos", len(self.found) + self.num_ignored))
                for entry in entries[start : start + _ENTRIES_BETWEEN_NEWS]:
                    self._add_entry(entry, folder, remaining)

    def _add_entry(self, entry: os.DirEntry[str], folder: _Folder, remaining: list[_Folder]) -> None:
        key = folder.prefix + entry.name
        if entry.name.startswith("."):
            self.num_ignored += 1
            return
        try:
            if entry.is_dir():
                inner = _Folder(entry.path, f"{key}/", _identity(Path(entry.path)), folder)
                if not folder.is_inside(inner.identity):  # a link back up would go on for ever
                    remaining.append(inner)
            elif _is_image(entry):
                status = entry.stat()
                image = SourceImage(key, entry.path, status.st_size, status.st_mtime_ns)
                self.found.append((image, entry.path))
            else:
                self.num_ignored += 1
        except OSError as error:
            self._fail(key, entry.path, f"cannot be read ({error.strerror})")

    def _fail(self, key: str, path: Path | str, reason: str) -> None:
        self.found.append((Failure(key, reason), path))


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a folder's entry is an image by its suffix or first bytes. `OSError` for one that cannot be looked at."""
    _, dot, suffix = entry.name.rpartition(".")
    has_suffix = bool(dot) and suffix.lower() in IMAGE_SUFFIXES
    if not entry.is_file():
        # A dangling link in the place of an image is an image that is missing.
        return has_suffix and entry.is_symlink() and not Path(entry.path).exists()
    if has_suffix:
        return True
    with Path(entry.path).open("rb", buffering=0) as file:
        return image_format(file.read(SIGNATURE_BYTES)) is not None


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _listed_key(path: Path) -> str:
    if not path.is_absolute() and ".." not in path.parts:
        return path.as_posix()
    absolute = Path(os.path.normpath(path.absolute()))
    return absolute.relative_to(absolute.anchor).as_posix()


def _without_repeats(found: Sequence[tuple[SourceImage | Failure, Path | str]]) -> Iterator[SourceImage | Failure]:
    """The records of `found`, which is sorted by key; of one file under one key the first."""
    last: SourceImage | Failure | None = None
    last_path: Path | str = ""
    for record, path in found:
        if last is None or record.key != last.key:
            yield record
        elif _offset(record) != _offset(last) and path == last_path:
            raise UsageError(f"{path}: {record.key!r:.80} is in it twice; unpack it, and encode the folder")
        elif not _is_same(path, last_path):
            raise UsageError(f"{last_path} and {path} have the same key {record.key}: name a folder above both")
        last, last_path = record, path


def _offset(record: SourceImage | Failure) -> int | None:
    return record.offset if isinstance(record, SourceImage) else None


def _is_same(one: Path | str, other: Path | str) -> bool:
    try:
        return one == other or Path(one).samefile(other)
    except OSError:
        return False
