"""Arrays that grow: a few numbers stay in memory, millions lie in a file without a name that the system maps."""

import math
import mmap
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semdis_cli.files.disk import SpoolFile, spool_file, temporary_folder

_MOST_BYTES = 16 << 20  # that one of them holds in memory
_READ_BYTES = 1 << 20
Typecode = Literal["B", "I", "q", "Q"]


class GrowingArray:
    """Numbers of one type, as in `array.array`, to which more are added at the end.

    From 16 MiB on they lie in a file in `folder`, by itself the one for temporary files: memory holds what is read,
    and the system may drop that. Where there can be no such file, or its disk is full, memory holds all.
    """

    def __init__(self, typecode: Typecode, folder: Path | None = None) -> None:
        self._typecode: Typecode = typecode
        self._tail = array(typecode)
        self._mapped = memoryview(b"").cast(typecode)
        self._folder = folder
        self._file: SpoolFile | None = None
        self._most: float = _MOST_BYTES // self._tail.itemsize

    def __len__(self) -> int:
        return len(self._mapped) + len(self._tail)

    def __getitem__(self, number: int) -> int:
        """Return the number at a place from 0 on."""
        first = len(self._mapped)
        return int(self._mapped[number] if number < first else self._tail[number - first])

    def append(self, value: int) -> None:
        """Add a number. Raises `OverflowError` for one that the type cannot hold."""
        self._tail.append(value)
        if len(self._tail) >= self._most:
            self._put_away()

    def extend(self, values: Iterable[int]) -> None:
        """Add numbers that the type can hold."""
        self._tail.extend(values)
        if len(self._tail) >= self._most:
            self._put_away()

    def add_bytes(self, data: bytes) -> None:
        """Add the numbers that lie in `data`."""
        self._tail.frombytes(data)
        if len(self._tail) >= self._most:
            self._put_away()

    def part(self, first: int, stop: int) -> "array[int]":
        """Return a copy of some of them."""
        start = len(self._mapped)
        if first >= start:
            return self._tail[first - start : stop - start]
        found = array(self._typecode)
        found.frombytes(self._mapped[first:stop].tobytes())
        return found + self._tail[: max(0, stop - start)]

    def values(self) -> NDArray[np.generic]:
        """Return all of them, [N], not copied: nothing is added while the array lives."""
        if self._mapped and self._tail:
            self._put_away()
        if self._mapped and self._tail:  # there is no room in the file
            return np.concatenate([np.asarray(self._mapped), np.asarray(self._tail)])
        return np.asarray(self._mapped or self._tail)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of a text, of which each ends in a newline."""
        left = b""
        for first in range(0, len(self), _READ_BYTES):
            *whole, left = (left + self.part(first, first + _READ_BYTES).tobytes()).split(b"\n")
            yield from (line + b"\n" for line in whole)

    def _put_away(self) -> None:
        """Add to the file what is in memory, if the disk takes it."""
        num_bytes = len(self._mapped) * self._tail.itemsize
        try:
            if self._file is None:
                self._file = _new_file(self._folder)
                weakref.finalize(self, self._file.file.close)
            left = memoryview(self._tail).cast("B")
            size = num_bytes + len(left)
            while left:  # a nearly full disk takes less at a time
                left = left[self._file.file.write(left) :]
            mapped = mmap.mmap(self._file.file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError:
            self._most = math.inf
            if self._file is not None:
                with suppress(OSError):
                    os.ftruncate(self._file.file.fileno(), num_bytes)
            return
        self._mapped = memoryview(mapped).cast(self._typecode)
        self._tail = array(self._typecode)


def _new_file(folder: Path | None) -> SpoolFile:
    folder = folder or temporary_folder()
    if folder is None:
        raise FileNotFoundError
    return spool_file(folder)
