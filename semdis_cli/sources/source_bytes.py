"""The bytes of a source image, wherever they lie: a file of their own, or a stretch of a tar."""

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.files.disk import open_at_once
from semdis_cli.records import SourceImage


def open_source(source: SourceImage) -> io.BufferedReader:
    """Open an image for reading, from its first byte to its last. Safe to call from several threads.

    Raises `OSError`, and `UnreadableImageError` for what is no regular file or a tar that was changed meanwhile.
    """
    descriptor = _open_regular(source.path)
    if source.offset is None:
        return os.fdopen(descriptor, "rb")
    section = _Section(descriptor, source.offset, source.num_bytes)
    if source.mtime_ns is not None and os.fstat(descriptor).st_mtime_ns != source.mtime_ns:
        section.close()
        raise PassingReadError("the tar was changed while the run was going on; run again")
    return io.BufferedReader(section)


def read_source(file: BinaryIO, source: SourceImage) -> bytes:
    """All bytes of an image that was opened. Raises `UnreadableImageError` if its tar was cut off meanwhile."""
    if source.offset is None:
        data: bytes | None = file.read()
        if data is None:  # the disk has none yet; it was opened so that a pipe could not keep us
            raise PassingReadError("the disk does not give it now; run again")
        return data
    data = file.read(source.num_bytes)
    if len(data) < source.num_bytes:
        raise PassingReadError("the tar was cut off while the run was going on; run again")
    return data


def hash_source(source: SourceImage) -> str | None:
    """Return the sha256 (hex) of an image's bytes; None if they cannot be read."""
    try:
        with open_source(source) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UnreadableImageError):
        return None


def _open_regular(path: Path | str) -> int:
    """Open a regular file for reading; a pipe or device would hang or never end."""
    descriptor = open_at_once(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableImageError("not a regular file")
    return descriptor


class _Section(io.RawIOBase):
    """A stretch of a file as a file. It reads at places of its own: those of one descriptor may be shared."""

    def __init__(self, descriptor: int, start: int, num_bytes: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._start = start
        self._num_bytes = num_bytes
        self._position = 0

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # as io itself calls it
        """Fill `buffer` with what comes next, as far as it goes."""
        size = max(0, min(len(buffer), self._num_bytes - self._position))
        data = os.pread(self._descriptor, size, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the stretch's beginning."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        if base + offset < 0:
            raise ValueError("a place before the beginning")
        self._position = base + offset
        return self._position

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Of the file that it is a stretch of."""
        return self._descriptor

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
