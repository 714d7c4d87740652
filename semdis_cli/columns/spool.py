"""Bytes that are too many for memory, in a temporary file: written once, then read at any place."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from semdis_cli.files.atomic import explaining
from semdis_cli.files.disk import spool_file, temporary_folder

_BUFFER_BYTES = 1 << 18


class Spool:
    """A temporary file, which goes away with this object. `num_bytes`: what was added to it so far."""

    def __init__(self) -> None:
        """Make it. Raises `UsageError` where there is no place for it."""
        self._folder = temporary_folder()
        self._pending: list[bytes] = []
        self._num_written = self.num_bytes = 0
        self._window, self._window_start = b"", 0
        with explaining(self._folder or Path("memory")):
            self._spool = spool_file(self._folder)
        weakref.finalize(self, self._spool.file.close)

    @property
    def path(self) -> Path:
        """The path that opens it, as long as this object lives."""
        return self._spool.path

    def add(self, data: bytes) -> None:
        """Append `data`. Raises `NoSpaceError` for a full disk."""
        self._pending.append(data)
        self.num_bytes += len(data)
        if self.num_bytes - self._num_written > _BUFFER_BYTES:
            self.finish()

    def finish(self) -> None:
        """Make all that was added readable. Raises `NoSpaceError` for a full disk."""
        left = memoryview(b"".join(self._pending))
        self._pending.clear()
        with explaining(self._folder or Path("memory")):
            while left:  # a nearly full disk takes less at a time
                left = left[self._spool.file.write(left) :]
        self._num_written = self.num_bytes

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` of what is finished; quick where that goes on. Raises `OSError`."""
        first, window = start - self._window_start, self._window
        if first >= 0 and stop - self._window_start <= len(window):
            return window[first : stop - self._window_start]
        descriptor = self._spool.file.fileno()
        if first != len(window) and not 0 <= first < len(window):  # not where the last one ended
            self._window, self._window_start = b"", stop
            return os.pread(descriptor, stop - start, start)
        self._window, self._window_start = os.pread(descriptor, max(_BUFFER_BYTES, stop - start), start), start
        return self._window[: stop - start]

    def lines(self) -> Iterator[bytes]:
        """Give the lines that are finished, from the first one on."""
        with self._spool.path.open("rb") as file:
            yield from file
