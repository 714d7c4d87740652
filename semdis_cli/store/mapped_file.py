"""A file that is read at random while it may be replaced: mapped into memory, where the disk can do that."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.files.links import why_unreadable


class FileIdentity(NamedTuple):
    """Facts by which a file is told from another one under its path."""

    device: int
    inode: int
    num_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """Return those of a file that has the status `status`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class MappedFile:
    """The bytes of the file at `path`, which is the one of `identity`; it stays that one, whatever replaces it.

    No descriptor is kept. Where files cannot be mapped, they are read when they are asked for. It is sent to another
    process as its path or, if that leads to another file by then, as its bytes. Raises `StoreError` if the file cannot
    be read, or is another one.
    """

    def __init__(self, path: Path, identity: FileIdentity, data: bytes | None = None) -> None:
        self.path, self.identity = path.absolute(), identity  # programs change their folder
        self._data = _map(path, identity) if data is None else np.frombuffer(data, dtype=np.uint8)
        if data is None and not _is_it(path, identity):
            raise StoreError("was replaced while it was opened; open it again", place=path)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, fewer at the end of the file. Raises `StoreError`."""
        if self._data is not None:
            return self._data.data[start:stop].tobytes()
        try:
            with self.path.open("rb") as file:
                if FileIdentity.of(os.fstat(file.fileno())) != self.identity:
                    raise StoreError("was replaced since it was opened; open it again", place=self.path)
                file.seek(start)
                return file.read(max(0, stop - start))
        except OSError as error:
            raise StoreError(f"cannot be read ({why_unreadable(self.path, error)})", place=self.path) from error

    def array(self, dtype: str, start: int, count: int) -> NDArray[Any]:
        """Return `count` values from byte `start` on, not to be written to. Raises `StoreError`."""
        num_bytes = np.dtype(dtype).itemsize * count
        if self._data is not None:
            return self._data[start : start + num_bytes].view(dtype)
        return np.frombuffer(self.read(start, start + num_bytes), dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        is_there = self._data is None or _is_it(self.path, self.identity)
        data = None if is_there else self.read(0, self.identity.num_bytes)
        return MappedFile, (self.path, self.identity, data)


def _is_it(path: Path, identity: FileIdentity) -> bool:
    try:
        return FileIdentity.of(path.stat()) == identity
    except OSError:
        return False


def _map(path: Path, identity: FileIdentity) -> NDArray[np.uint8] | None:
    """Map a file; None where that is impossible: network disks and FUSE, no address space left, an empty file."""
    if not identity.num_bytes:
        return None
    try:
        # mmap of Python, which numpy uses too, would keep a descriptor.
        data = torch.from_file(str(path), shared=False, size=identity.num_bytes, dtype=torch.uint8)
    except (OSError, RuntimeError):  # the latter is torch's ENODEV; what else there is to say, reading says
        return None
    return np.asarray(data.numpy())
