"""Open files that are read at places, by several threads: of a disk by their descriptors, of a store by requests."""

import os
from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock
from typing import TypeAlias

from semdis_cli.files.url import Url

_BLOCK_BYTES = 1 << 16  # the least that a store is asked for
_KEPT_BLOCKS = 64
_KEPT_HANDLES = 64


class FarHandle:
    """File of a store, as long as it was when it was opened; the blocks that were read last are kept."""

    def __init__(self, url: Url) -> None:
        """Ask the store how large the file is. Raises `OSError`."""
        far = url.file()
        self._url, self._path, self.num_bytes = url, far.path, far.num_bytes
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = Lock()

    def pread(self, num_bytes: int, start: int) -> bytes:
        """Return bytes from a place on, fewer at the end. Raises `OSError`."""
        end = min(start + num_bytes, self.num_bytes)
        if end - start >= _BLOCK_BYTES:
            return self._read(start, end)
        blocks = range(start // _BLOCK_BYTES, -(-end // _BLOCK_BYTES) if end > start else 0)
        data = b"".join(map(self._block, blocks))
        return data[start % _BLOCK_BYTES :][: max(0, end - start)]

    def _block(self, number: int) -> bytes:
        """Return a block; of several threads that need one at a time, one reads it."""
        with self._lock:
            is_new = number not in self._blocks
            block = self._blocks.setdefault(number, Future())
            self._blocks.move_to_end(number)
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        if is_new:
            self._fill(block, number)
        return block.result()

    def _fill(self, block: "Future[bytes]", number: int) -> None:
        start = number * _BLOCK_BYTES
        try:
            block.set_result(self._read(start, min(start + _BLOCK_BYTES, self.num_bytes)))
        except BaseException as error:
            with self._lock:
                self._blocks.pop(number, None)  # the next one tries again
            block.set_exception(error)
            raise

    def _read(self, start: int, end: int) -> bytes:
        return self._url.read(self._path, start, end - start, is_all=end == self.num_bytes)


Handle: TypeAlias = int | FarHandle


def pread(handle: Handle, num_bytes: int, start: int) -> bytes:
    """Return bytes of an open file from a place on, fewer at its end. Raises `OSError`."""
    return os.pread(handle, num_bytes, start) if isinstance(handle, int) else handle.pread(num_bytes, start)


def close(handle: Handle) -> None:
    """Close an open file; one of a store has nothing to be closed."""
    if isinstance(handle, int):
        os.close(handle)


class _Handles:
    """Files of stores that are open, those that were asked for last at the end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: OrderedDict[Url, FarHandle] = OrderedDict()

    def open(self, url: Url, *, anew: bool) -> FarHandle:
        """Return the open file, opened `anew` or the one of before."""
        with self._lock:
            if not anew and url in self._open:
                self._open.move_to_end(url)
                return self._open[url]
        handle = FarHandle(url)
        with self._lock:
            self._open[url] = handle
            if len(self._open) > _KEPT_HANDLES:
                self._open.popitem(last=False)
        return handle


_HANDLES = _Handles()


def open_far(url: Url, *, anew: bool = False) -> FarHandle:
    """Open a file of a store; several times the same one, unless it is to be looked at `anew`. Raises `OSError`."""
    return _HANDLES.open(url, anew=anew)
