"""The only way a file appears in an output folder: whole, synced, under its final name.

Temp name in the same folder -> write -> fsync -> rename -> fsync of the folder. The mode follows the umask.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from semdis_cli.errors import NoSpaceError, StoreError, UsageError

_TEMP_SUFFIX = ".semdis-tmp"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """Size and sha256 (hex) of a file that is safely on disk."""

    num_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "PublishedFile":
        """Size and sha256 of the file at `path`. Raises `StoreError` if it cannot be read."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                return cls(file.tell(), digest)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror})") from error


def publish(path: Path, chunks: Iterable[bytes | memoryview]) -> PublishedFile:
    """Write `chunks` to `path`, replacing what was there, so that a reader sees all of it or none.

    Raises `NoSpaceError` if the disk fills up and `UsageError` if the folder cannot be written; the temporary file is
    gone in either case.
    """
    # Neither the name itself (with anything added, a long one would be too long) nor the process id (in a container it
    # is that of the killed run before).
    temporary = path.with_name(f".{secrets.token_hex(8)}{_TEMP_SUFFIX}")
    try:
        published = _write_synced(temporary, chunks)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise explain_write_error(path, error) from error
    finally:
        with suppress(OSError):  # gone with the rename, or never there; why is said already
            temporary.unlink()
    return published


def _write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> PublishedFile:
    digest, num_bytes = hashlib.sha256(), 0
    # "x": two writers of one name are a bug, not a race to win. 0o666 & ~umask, as any program's files.
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            num_bytes += memoryview(chunk).nbytes
        file.flush()
        os.fsync(file.fileno())
    return PublishedFile(num_bytes, digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> None:
    """Remove temporary files that a killed writer left in `folder`. Call only while holding the folder's lock."""
    for path in folder.iterdir():
        if is_temporary(path.name) and (path.is_symlink() or not path.is_dir()):  # a folder is none of ours
            path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of a temporary file of `publish`."""
    return name.startswith(".") and name.endswith(_TEMP_SUFFIX)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, to survive a power cut. Raises `UsageError` or `NoSpaceError` with a reason."""
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
    except OSError as error:
        raise explain_write_error(folder, error) from error


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise `NoSpaceError` if the disk of `folder` (which exists) has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise NoSpaceError(
            f"{folder}: needs {_size(needed_bytes)}, but the disk has {_size(free)} free; "
            "make room or choose another -o"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:,.1f} KiB"


def explain_write_error(path: Path, error: OSError) -> UsageError | NoSpaceError:
    """The error to raise when writing `path` failed with `error`."""
    if error.errno in _NO_SPACE:
        return NoSpaceError(f"{path}: no space left on the disk; make room and run the same command again to continue")
    return UsageError(f"{path}: cannot be written ({error.strerror or error})")
