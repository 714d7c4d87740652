"""The only way a file appears in an output folder: whole, synced, under its final name.

Temp name in the same folder -> write -> fsync -> rename -> fsync of the folder. The mode follows the umask.
"""

import errno
import hashlib
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from semdis_cli.errors import NoSpaceError, RefusedNameError, StoreError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.links import why_unreadable
from semdis_cli.files.url import Location
from semdis_cli.records import FileDigest
from semdis_cli.wording import size

_COPIED_AT_ONCE = 1 << 20


def digest_file(path: Location) -> FileDigest:
    """Read size and sha256 of the file at `path`. Raises `StoreError` if it cannot be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileDigest(file.tell(), digest)
    except OSError as error:
        raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error


class Lines(NamedTuple):
    """Lines of a text: how many end in it, the first, and the last, as far as they are no longer than a mebibyte."""

    number: int
    first: bytes
    last: bytes


def digest_lines(path: Location) -> tuple[FileDigest, Lines]:
    """Read size and sha256 of the text at `path`, and look at its lines. Raises `StoreError` if it cannot be read."""
    digest, num_bytes, number, first, before, chunk = hashlib.sha256(), 0, 0, b"", b"", b""
    try:
        with path.open("rb") as file:
            while more := file.read(_COPIED_AT_ONCE):
                first, before, chunk = first or more, chunk, more
                digest.update(chunk)
                number += chunk.count(b"\n")
                num_bytes += len(chunk)
    except OSError as error:
        raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error
    last = (before + chunk).removesuffix(b"\n").rpartition(b"\n")[2]
    return FileDigest(num_bytes, digest.hexdigest()), Lines(number, first.partition(b"\n")[0], last)


def publish(path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    """Write `chunks` to `path`, replacing what was there, so that a reader sees all of it or none.

    Raises `NoSpaceError` if the disk fills up and `UsageError` if the folder cannot be written; the temporary file is
    gone in either case.
    """
    pending = PendingFile(path)
    try:
        for chunk in chunks:
            pending.write(chunk)
        return pending.publish()
    except OSError as error:  # of `chunks`: the disk they are read from
        raise explain_write_error(path, error) from error
    finally:
        pending.discard()


class PendingFile:
    """A file that is written bit by bit, and appears at `path` when it is published. Methods raise as `publish`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest, self._num_bytes = hashlib.sha256(), 0
        # Neither the name itself (with anything added, a long one would be too long) nor the process id (in a container
        # it is that of the killed run before).
        self._temporary = disk.new_temporary(path.parent)
        # "x": two writers of one name are a bug, not a race to win. 0o666 & ~umask, as any program's files.
        with explaining(path):
            self._file = self._temporary.open("xb")

    def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes at the end."""
        with explaining(self._path):
            self._file.write(chunk)
        self._digest.update(chunk)
        self._num_bytes += memoryview(chunk).nbytes

    @property
    def digest(self) -> FileDigest:
        """Size and sha256 of what is written so far."""
        return FileDigest(self._num_bytes, self._digest.hexdigest())

    def publish(self, path: Path | None = None) -> FileDigest:
        """Sync the file and give it its name, or `path` where that turned out to be another one on the same disk."""
        self._path = path or self._path
        with explaining(self._path):
            self._file.flush()
            disk.sync_file(self._file.fileno())
            self._file.close()
            disk.replace(self._temporary, self._path)
            disk.sync_folder(self._path.parent)
        return self.digest

    def discard(self) -> None:
        """Remove the file, unless it is published."""
        with suppress(OSError):  # a full disk, and it is said already
            self._file.close()
        with suppress(OSError):  # gone with the rename; why is said already
            self._temporary.unlink()


def publish_below(root: Path, path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    """Publish to `path` below `root`, which exists, and make its folders. `path` is named as an input was.

    Raises `RefusedNameError` if the disk does not take this name or one of its folders, but takes others in `root`.
    """
    try:
        make_folder(path.parent)
        return publish(path, chunks)
    except UsageError as error:
        raise refused_name(root, path, error.__cause__) or error from error.__cause__


def refused_name(root: Path, path: Path, cause: BaseException | None) -> RefusedNameError | None:
    """Return the error to raise when `path` was not written, if the disk takes others in `root`; else None."""
    if isinstance(cause, OSError) and disk.may_be_the_name(cause) and _takes_names(root, path.suffix):
        reason = cause.strerror or cause
        return RefusedNameError(f"the disk does not take its name ({reason}), but takes others; rename the original")
    return None


def _takes_names(folder: Path, suffix: str) -> bool:
    """Tell whether a file of an ordinary name with this suffix can be made in `folder`, and given another."""
    first, second = (folder / f".{secrets.token_hex(8)}{suffix}{disk.TEMP_SUFFIX}" for _ in range(2))
    try:
        with first.open("xb") as file:
            file.write(b"semdis")
        first.rename(second)
    except OSError:
        return False
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink()
    return True


def move(path: Path, folder: Path) -> None:
    """Give a file that is safely on disk its place in `folder`, where it replaces what was there. Raises as `publish`.

    On disks that are several ones underneath (mergerfs, overlays) it may have to be copied.
    """
    target = folder / path.name
    try:
        disk.replace(path, target)
        disk.sync_folder(folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise explain_write_error(target, error) from error
        with path.open("rb") as file:
            publish(target, iter(lambda: file.read(_COPIED_AT_ONCE), b""))
        path.unlink()


def keep_file(path: Path, target: Path) -> None:
    """Give a file that is safely on disk the further name `target`, or copy it where the disk has none to give.

    Neither is written to later: files are replaced. Raises as `publish`.
    """
    make_folder(target.parent)
    if disk.try_link(path, target):
        sync_folder(target.parent)
        return
    try:
        with path.open("rb") as file:
            publish(target, iter(lambda: file.read(_COPIED_AT_ONCE), b""))
    except OSError as error:
        raise explain_write_error(target, error) from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut, where the disk can. Raises as `publish`."""
    with explaining(folder):
        disk.sync_folder(folder)


def sweep_temporaries(folder: Path) -> None:
    """Remove temporary files that a killed writer left in `folder`. Call only while holding the folder's lock.

    One that cannot be found or removed (another user's, or a disk that only adds) is in nobody's way.
    """
    for path in disk.list_names(folder):
        if is_temporary(path.name) and (path.is_symlink() or not path.is_dir()):  # a folder is none of ours
            with suppress(OSError):
                path.unlink()


def is_temporary(name: str) -> bool:
    """Tell whether a file name is that of a temporary file of `publish`."""
    return name.startswith(".") and name.endswith(disk.TEMP_SUFFIX)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, to survive a power cut. Raises `UsageError` or `NoSpaceError` with a reason."""
    with explaining(folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            disk.sync_folder(path.parent)


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise `NoSpaceError` if the disk of `folder` (which exists) has less than `needed_bytes` free, and knows it."""
    free = disk.free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise NoSpaceError(
            f"needs {size(needed_bytes)}, but the disk has {size(free)} free; make room or choose another -o",
            place=folder,
        )


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Raise what `explain_write_error` returns for an `OSError` inside, where `path` is written."""
    try:
        yield
    except OSError as error:
        raise explain_write_error(path, error) from error


def explain_write_error(path: Path, error: OSError) -> UsageError | NoSpaceError:
    """Return the error to raise when writing `path` failed with `error`."""
    if disk.is_full(error):
        return NoSpaceError(
            "no space left on the disk; make room and run the same command again to continue", place=path
        )
    return UsageError(f"cannot be written ({error.strerror or error})", place=path)


def explain_refusal(path: Path, error: OSError) -> UsageError | NoSpaceError:
    """Return the error to raise when `path` could not even be looked at, or nobody knows what was tried."""
    explained = explain_write_error(path, error)
    return explained if isinstance(explained, NoSpaceError) else UsageError(f"{error.strerror or error}", place=path)
