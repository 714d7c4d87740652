"""Any stretch of what a gzip file unpacks to, without unpacking it to disk, in bounded memory and by many threads.

It can be unpacked forwards only. What was unpacked last is kept for a while; for steps further back, the state of the
unpacker is kept at points along the way, in distances that double where they would be too many.
"""

import io
import weakref
import zlib
from bisect import bisect_right
from operator import attrgetter
from threading import Lock
from typing import Any, NamedTuple

from semdis_cli.files.handles import Handle, close, pread

_GZIP = zlib.MAX_WBITS | 16
MAGIC = b"\x1f\x8b"
_READ_BYTES, _UNPACKED_BYTES = 1 << 16, 1 << 18  # at a time
_KEPT_BYTES, _TRIMMED_BYTES = 8 << 20, 4 << 20
_MOST_POINTS = 64  # of about 40 KB each
_FIRST_DISTANCE = 1 << 20


class _Point(NamedTuple):
    """State of the unpacker at a byte of what comes out, and the byte of the file that it takes next."""

    position: int
    packed: int
    unpacker: Any  # of zlib, which has no name for it


class GzipReader:
    """Reads what a gzip file unpacks to, from any place. It takes over the descriptor of the file."""

    def __init__(self, descriptor: Handle) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, close, descriptor)
        self._lock = Lock()
        self._points = [_Point(0, 0, zlib.decompressobj(_GZIP))]
        self._distance = _FIRST_DISTANCE
        self._go_to(self._points[0])

    def read(self, start: int, num_bytes: int) -> bytes:
        """Return so many unpacked bytes from a place on, fewer at the end. Raises `OSError`, `ValueError` for damage.

        What is returned is held in memory twice: whoever asks for it believes the number.
        """
        with self._lock:
            nearest = self._points[bisect_right(self._points, start, key=attrgetter("position")) - 1]
            if start < self._first or self._position < nearest.position:
                self._go_to(nearest)
            while self._position < start + num_bytes and self._unpack():
                self._trim(start)
            first = start - self._first
            return bytes(self._kept[first : first + num_bytes])

    @property
    def _position(self) -> int:
        return self._first + len(self._kept)

    def _go_to(self, point: _Point) -> None:
        self._first, self._packed, self._unpacker = point.position, point.packed, point.unpacker.copy()
        self._kept = bytearray()

    def _unpack(self) -> bool:
        """Unpack some more; False at the end."""
        if self._unpacker.eof and not self._begin_member():
            return False
        packed = pread(self._descriptor, _READ_BYTES, self._packed)
        try:
            data = self._unpacker.decompress(packed, _UNPACKED_BYTES)
        except zlib.error as error:
            raise ValueError(f"damaged behind byte {self._packed} of the compressed file") from error
        left = self._unpacker.unused_data if self._unpacker.eof else self._unpacker.unconsumed_tail
        self._packed += len(packed) - len(left)
        self._kept += data
        if self._position - self._points[-1].position >= self._distance:
            self._note_point()
        return bool(packed or data)

    def _begin_member(self) -> bool:
        """Begin with the gzip file that follows in the same file, if there is one; zeros may fill it up."""
        start = pread(self._descriptor, len(MAGIC), self._packed)
        if start == MAGIC:
            self._unpacker = zlib.decompressobj(_GZIP)
        elif start.strip(b"\0"):
            raise ValueError(f"no gzip behind byte {self._packed} of the compressed file")
        return start == MAGIC

    def _note_point(self) -> None:
        self._points.append(_Point(self._position, self._packed, self._unpacker.copy()))
        if len(self._points) > _MOST_POINTS:
            del self._points[1::2]
            self._distance *= 2

    def _trim(self, start: int) -> None:
        """Forget what was unpacked long ago, but nothing from `start` on."""
        if len(self._kept) > _KEPT_BYTES + _TRIMMED_BYTES:
            number = max(0, min(_TRIMMED_BYTES, start - self._first))
            del self._kept[:number]
            self._first += number


class Unpacked(io.RawIOBase):
    """Unpacked content of a gzip file, as a file."""

    def __init__(self, reader: GzipReader) -> None:
        super().__init__()
        self._reader = reader
        self._place = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer at the end."""
        assert size >= 0, "all of it may be any size"
        data = self._reader.read(self._place, size)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the beginning; nothing is unpacked before it is read."""
        assert whence == io.SEEK_SET
        self._place = offset
        return offset

    def tell(self) -> int:
        """Return where it stands."""
        return self._place

    def seekable(self) -> bool:
        """Return True: `seek` goes anywhere."""
        return True

    def readable(self) -> bool:
        """Return True: it is for reading."""
        return True
