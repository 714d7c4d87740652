"""Calls that a disk or a container may refuse, what that means, and what is done without them: the only such place.

Network disks, FUSE and sandboxes answer calls that a local disk never refuses. A refusal means one of these:

- *cannot*: the disk, or the kernel, does not have the call. It is done without (`is_unsupported`).
- *unknown*: an answer that says nothing, such as 0 blocks in all (`free_bytes`).
- *full*: `is_full`. The run ends; what is published stays.
- *about this name*: the disk takes others (`may_be_the_name`, and then somebody has to try).
- *passing*: the same call is made once more (`open_at_once`), and an image is tried again by the next run.
- all else ends the run: a write that failed with EIO is never passed over.

Calls that a signal interrupts are repeated by Python itself.
"""

import errno
import io
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

# The call is unknown to the disk, or to what stands between.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY})
# No disk says by EPERM or EACCES that data is lost; sandboxes do say so of calls that they do not let through.
_SYNC_UNSUPPORTED = _UNSUPPORTED | {errno.EACCES, errno.EPERM}
# A folder that may be written need not be one that may be opened (EACCES), or opened at all (EISDIR, EBADF).
_FOLDER_UNSUPPORTED = _SYNC_UNSUPPORTED | {errno.EISDIR, errno.EBADF}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The disk is out of order or out of reach, or this process has no more descriptors or memory, or may write no large
# files: other names do not help.
_OUT_OF_ORDER = frozenset(
    {
        *(errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOLINK),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        errno.EFBIG,
    }
)
# A file that was replaced on the server is found by its name again; EAGAIN: it is being fetched from tape, or leased.
_PASSING = frozenset({errno.ESTALE, errno.EAGAIN})
# What rename answers where a name that is there cannot be replaced: SFTP without its extension, some FUSE.
_NO_REPLACING = frozenset({errno.EEXIST, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL})
_LEAST_DISK_BYTES = 1 << 12  # a disk that says it is smaller in all does not know its size
TEMP_SUFFIX = ".semdis-tmp"
_SPOOL_SUFFIX = ".semdis-spool"


def is_unsupported(error: OSError, *, of_folder: bool = False) -> bool:
    """Tell whether a call was refused because the disk does not have it. `of_folder`: it opened or synced a folder."""
    return error.errno in (_FOLDER_UNSUPPORTED if of_folder else _UNSUPPORTED)


def is_full(error: OSError) -> bool:
    """Tell whether there is no room left, on the disk or in a quota."""
    return error.errno in _FULL


def may_be_the_name(error: OSError) -> bool:
    """Tell whether another name may be taken where this one was refused; only trying one tells."""
    return error.errno is not None and error.errno not in _FULL | _OUT_OF_ORDER


def is_of_disk(error: OSError) -> bool:
    """Tell whether the disk or its permissions are to blame, whatever was asked of them; no name is wrong then."""
    return error.errno in _FULL | _OUT_OF_ORDER | {errno.EACCES, errno.EPERM}


# --- Syncing and replacing ---


def sync_file(descriptor: int) -> None:
    """Fsync an open file; a disk that has no fsync writes when it sees fit. Raises `OSError` where it failed (EIO)."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _SYNC_UNSUPPORTED:
            raise


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut, where the disk can (SMB, WSL and some FUSE cannot).

    Raises `OSError` where it failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if is_unsupported(error, of_folder=True):
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_unsupported(error, of_folder=True):
            raise
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Rename a file to `target`, in the place of what is there: in one step, where the disk can.

    Where it cannot, the old file steps aside until the new one has its place, and for that moment a reader finds none;
    what cannot be removed stays. Raises `OSError`; the old file is back then.
    """
    try:
        source.replace(target)
    except OSError as error:
        if error.errno not in _NO_REPLACING or not _is_no_folder(target):
            raise
        aside = new_temporary(target.parent)
        target.rename(aside)
        try:
            source.rename(target)
        except OSError:
            aside.rename(target)
            raise
        with suppress(OSError):  # a disk that removes nothing either
            aside.unlink()


def _is_no_folder(path: Path) -> bool:
    return os.path.lexists(path) and not os.path.isdir(path)  # noqa: PTH112 # no OSError for names that cannot be


def new_temporary(folder: Path) -> Path:
    """Return a name for a temporary file in `folder` that nothing has."""
    return folder / f".{secrets.token_hex(8)}{TEMP_SUFFIX}"


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it, as far as the disk lets it go; what stays is in nobody's way."""
    shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):  # rmtree opens folders, which some disks refuse
        for path in list_names(folder):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            folder.rmdir()


def list_names(folder: Path) -> list[Path]:
    """Return the paths in `folder`; none if it does not let itself be listed."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


FolderIdentity = tuple[int, int]  # (st_dev, st_ino): equal for one folder, but on some disks for different ones too


def folder_identity(path: Path) -> FolderIdentity | None:
    """Return the numbers by which the system knows the folder at `path`; None if there is none to be asked for."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


# --- Opening ---


def open_no_link(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of the file at `path`, which must be no link (ELOOP), also where O_NOFOLLOW is unknown."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, mode)
    except OSError as error:
        if not is_unsupported(error):
            raise
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path)) from error
        return os.open(path, flags, mode)


def open_at_once(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the file at `path`, without waiting for the other end of a pipe."""
    try:
        return os.open(path, flags | os.O_NONBLOCK)
    except OSError as error:
        if not (is_unsupported(error) or error.errno in _PASSING) or not os.path.isfile(path):  # noqa: PTH113
            raise
        return os.open(path, flags)


def open_to_append(path: Path) -> BinaryIO:
    """The file at `path`, unbuffered, to write at its end; also where O_APPEND is unknown. Raises `OSError`."""
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        if not is_unsupported(error):
            raise
        file = path.open("r+b", buffering=0)
        file.seek(0, os.SEEK_END)
        return file


def path_of_descriptor(descriptor: int) -> Path | None:
    """A path that opens the file of `descriptor` anew, also one without a name; None where the system has none."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        path = Path(folder, str(descriptor))
        with suppress(OSError):
            os.close(os.open(path, os.O_RDONLY))
            return path
    return None


def try_link(path: Path, other: Path) -> bool:
    """Give a regular file another name; False where the disk cannot, or `path` is a link itself."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        os.link(path, other)
    except OSError:
        return False
    return True


def has_other_names(path: Path) -> bool:
    """Tell whether a file has more names than this one, as where `try_link` gave it one."""
    try:
        return path.stat().st_nlink > 1
    except OSError:
        return False


# --- Files without a name ---


def memory_file(*, buffering: int = -1) -> BinaryIO:
    """A file in memory: one that the system knows (Pillow writes to it without the GIL), else a buffer of Python's."""
    create = getattr(os, "memfd_create", None)  # Linux
    if create is not None:
        with suppress(OSError):  # seccomp, gVisor, or no descriptor left
            return os.fdopen(create("semdis"), "w+b", buffering=buffering)
    return io.BytesIO()


def unnamed_file(folder: Path, *, buffering: int = -1) -> BinaryIO:
    """A file in `folder` that leaves nothing when it is closed. Raises `OSError`.

    Where a file that is open cannot lose its name, it keeps one until it is closed.
    """
    try:
        file = tempfile.TemporaryFile(dir=folder, prefix=".", suffix=TEMP_SUFFIX, buffering=buffering)  # noqa: SIM115
        return cast("BinaryIO", file)
    except OSError as error:
        if not may_be_the_name(error):
            raise
    named = _NamedFile(new_temporary(folder))
    return cast("BinaryIO", named if buffering == 0 else io.BufferedRandom(named))


class _NamedFile(io.FileIO):
    """A new file that is removed when it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+b")
        self._path = path

    def close(self) -> None:
        if not self.closed:
            super().close()
            with suppress(OSError):
                self._path.unlink()


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """An unbuffered file for what comes on a pipe. `path` opens it as long as it is open."""

    file: BinaryIO
    path: Path


def spool_file(folder: Path | None) -> SpoolFile:
    """A new file in `folder`, or in memory if that is None. Raises `OSError`.

    It has no name, so that no killed run leaves it behind. Without /proc it needs one, which no sweep takes away.
    """
    with suppress(OSError):
        file = memory_file(buffering=0) if folder is None else unnamed_file(folder, buffering=0)
        path = None if isinstance(file, io.BytesIO) else path_of_descriptor(file.fileno())
        if path is not None:
            return SpoolFile(file, path)
        file.close()
    if folder is None:
        raise FileNotFoundError(errno.ENOENT, "there is no folder for temporary files; set TMPDIR to one")
    path = folder / f".{secrets.token_hex(8)}{_SPOOL_SUFFIX}"
    return SpoolFile(cast("BinaryIO", _NamedFile(path)), path)


def temporary_folder() -> Path | None:
    """Return where files may be put for a while; None in a container without /tmp whose other folders are read-only."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None


# --- Questions to the system ---


def free_bytes(folder: Path) -> int | None:
    """Bytes free on the disk of `folder`; None where it does not know, as FUSE without statfs."""
    try:
        status = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows has none; ENOSYS, EACCES, EOVERFLOW
        return None
    block = status.f_frsize or status.f_bsize
    is_absurd = status.f_blocks * block < _LEAST_DISK_BYTES or not 0 <= status.f_bavail <= status.f_blocks
    return None if is_absurd else status.f_bavail * block


def count_cores() -> int:
    """Processor cores that this process may use; all of the machine where the system does not say (gVisor, macOS)."""
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
