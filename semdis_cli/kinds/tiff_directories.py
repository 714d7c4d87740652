"""Directories of a TIFF: which of its pictures is the one that is meant, and whether it is a camera raw.

A TIFF may begin with a small version of its picture, with a mask, or with the preview of what a camera's sensor saw;
the picture itself is then another page or in a sub-directory (TIFF 6.0, TIFF Technical Note 1, TIFF/EP, DNG 1.7).
"""

import errno
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from semdis_cli.errors import UnreadableImageError
from semdis_cli.kinds.recognise import CAMERA_RAW

NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, SUB_DIRECTORIES = (
    254, 255, 256, 257, 259, 262, 330,
)  # fmt: skip

_RAW_TAGS = frozenset({33422, 34310, 46275, 50706, 50740})  # colour filters, of Leaf and Hasselblad, two of DNG
_RAW_PHOTOMETRICS = frozenset({32803, 34892})  # colour filter array, linear raw
_RAW_COMPRESSIONS = frozenset({262, 32767, 32769, 32770, 34713, 65000, 65535})  # of Kodak, Sony, Epson, Samsung, ...
_RAW_MARKS = (b"CR\x02", b"IIII", b"MMMM")  # behind the header: CR2, IIQ
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2
_MAX_TAGS, _MAX_PAGES, _MAX_SUB_DIRECTORIES = 4096, 32, 32
_MAX_VALUE_BYTES = 1 << 24
_USUAL_BYTES = 512
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_CODES |= {13: "I", 16: "Q", 17: "q", 18: "Q"}
_TYPES = {kind: (code, struct.calcsize("=" + code)) for kind, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Directory:
    """One picture's tags. `position`: where it lies in the file; `next`: where the next page's lies, or 0.

    `entries`: of each tag its type, its number of values, and the field that holds them or says where they lie.
    """

    position: int
    next: int
    entries: dict[int, tuple[int, int, bytes]]


class TiffReader:
    """Reads directories and values of a TIFF or BigTIFF; what cannot be read is taken to be absent."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the header of the TIFF in `file`, of either byte order."""
        self._file = file
        self.start = self._read(0, 16)
        self.order = "<" if self.start[:2] == b"II" else ">"
        self.is_big = self.start[2:4] in {b"+\0", b"\0+"}
        self.word = "Q" if self.is_big else "I"
        at = 8 if self.is_big else 4
        self.first = self._unpack(self.word, self.start[at:]) or 0

    def directory(self, position: int) -> Directory | None:
        """Read the directory at `position`; None if there is none."""
        head, entry = ("Q", "HHQ8s") if self.is_big else ("H", "HHI4s")
        head_bytes, entry_bytes = struct.calcsize(head), struct.calcsize("=" + entry)
        table = self._read(position, _USUAL_BYTES)
        num_tags = self._unpack(head, table)
        if not num_tags or num_tags > _MAX_TAGS:
            return None
        end = head_bytes + num_tags * entry_bytes
        after = end + struct.calcsize(self.word)
        if after > _USUAL_BYTES:
            table = self._read(position, after)
        if len(table) < end:
            return None
        rows = struct.iter_unpack(self.order + entry, table[head_bytes:end])
        entries = {tag: (kind, count, field) for tag, kind, count, field in rows}
        return Directory(position, self._unpack(self.word, table[end:after]) or 0, entries)

    def values(self, directory: Directory, tag: int) -> tuple[float, ...]:
        """Read the values of a tag, fractions divided; none if it is absent, of no known type or cut off."""
        entry = directory.entries.get(tag)
        if entry is None:
            return ()
        kind, count, field = entry
        code, size = _TYPES.get(kind, ("", 0))
        num_bytes = count * size
        if num_bytes > len(field):
            (where,) = struct.unpack(self.order + self.word, field)
            field = self._read(where, num_bytes) if num_bytes <= _MAX_VALUE_BYTES else b""
        if not 0 < num_bytes <= len(field):
            return ()
        values = struct.unpack(f"{self.order}{count * len(code)}{code[0]}", field[:num_bytes])
        if len(code) > 1:
            return tuple(a / b if b else 0.0 for a, b in zip(values[::2], values[1::2], strict=True))
        return values

    def whole(self, directory: Directory, tag: int, default: int = 0) -> int:
        """Read the first value of a tag as a whole number; `default` if it is absent."""
        values = self.values(directory, tag)
        return int(values[0]) if values else default

    def _read(self, position: int, num_bytes: int) -> bytes:
        try:
            self._file.seek(position)
            return self._file.read(num_bytes)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            return b""  # beyond what the file system could hold

    def _unpack(self, code: str, data: bytes) -> int | None:
        code = self.order + code
        return int(struct.unpack_from(code, data)[0]) if len(data) >= struct.calcsize(code) else None


def find_picture(reader: TiffReader) -> Directory | None:
    """Find the directory of the picture that a TIFF is about; None if its first one cannot be read.

    It is the first page; if that is a reduced version or a mask, or a sub-directory of it holds a larger picture, the
    first whole picture behind it, sub-directories before pages. Raises `UnreadableImageError` for camera raws, and for
    a file of reduced versions and masks alone.
    """
    first = reader.directory(reader.first)
    if first is None:
        return None
    found = list(_pictures(reader, first))
    if reader.start[8:12].startswith(_RAW_MARKS) or any(_is_raw(reader, one) for one in found):
        raise UnreadableImageError(CAMERA_RAW.reason)
    if WIDTH not in first.entries:
        return first  # what opens it says what it lacks
    subs = len(reader.values(first, SUB_DIRECTORIES)[:_MAX_SUB_DIRECTORIES])
    whole = [one for one in found if _is_whole(reader, one)]
    if not whole:
        raise UnreadableImageError("holds only a reduced version or a mask of a picture that is not in the file")
    if whole[0] is not first:
        return whole[0]
    larger = [one for one in found[1 : 1 + subs] if one in whole and _area(reader, one) > _area(reader, first)]
    return larger[0] if larger else first


def larger_page(reader: TiffReader, directory: Directory) -> tuple[int, int] | None:
    """Find a page of the same shape behind `directory`'s with sides at least twice as long: its (height, width) in px.

    Then this one may be a reduced version that does not say so; pages of a document are like that now and then too.
    """
    if not directory.next:
        return None
    height, width = _size(reader, directory)
    for page in _pictures(reader, directory):
        size = _size(reader, page)
        has_shape = abs(size[0] * width - size[1] * height) <= max(size)
        if has_shape and size[0] >= 2 * height and size[1] >= 2 * width and _is_whole(reader, page):
            return size
    return None


def pointed_at(directory: Directory, reader: TiffReader, file: BinaryIO) -> BinaryIO:
    """Return `file`, or a copy of it in memory that begins with `directory` where that is not its first."""
    if directory.position == reader.first:
        return file
    file.seek(0)
    data = bytearray(file.read())
    struct.pack_into(reader.order + reader.word, data, 8 if reader.is_big else 4, directory.position)
    return io.BytesIO(data)


def is_picture(file: BinaryIO) -> bool:
    """Tell whether the TIFF in `file` is no camera raw, and holds more than previews."""
    try:
        find_picture(TiffReader(file))
    except UnreadableImageError:
        return False
    return True


def _pictures(reader: TiffReader, first: Directory) -> Iterator[Directory]:
    """Yield `first`, its sub-directories, the next page, its sub-directories, and so on; each once, up to a limit."""
    seen: set[int] = set()
    page: Directory | None = first
    while page is not None and page.position not in seen and len(seen) < _MAX_PAGES:
        seen.add(page.position)
        yield page
        for position in reader.values(page, SUB_DIRECTORIES)[:_MAX_SUB_DIRECTORIES]:
            inner = reader.directory(int(position)) if position not in seen else None
            if inner is not None:
                seen.add(inner.position)
                yield inner
        page = reader.directory(page.next) if page.next else None


def _is_raw(reader: TiffReader, directory: Directory) -> bool:
    return (
        not _RAW_TAGS.isdisjoint(directory.entries)
        or reader.whole(directory, PHOTOMETRIC) in _RAW_PHOTOMETRICS
        or reader.whole(directory, COMPRESSION) in _RAW_COMPRESSIONS
    )


def _is_whole(reader: TiffReader, directory: Directory) -> bool:
    """Tell whether it is a picture, neither a reduced version of one nor a mask."""
    if WIDTH not in directory.entries:  # EXIF and the like
        return False
    flags = reader.whole(directory, NEW_SUBFILE_TYPE)
    if NEW_SUBFILE_TYPE not in directory.entries:
        flags = _REDUCED if reader.whole(directory, OLD_SUBFILE_TYPE) == _OLD_REDUCED else 0
    return not flags & (_REDUCED | _MASK)


def _size(reader: TiffReader, directory: Directory) -> tuple[int, int]:
    return reader.whole(directory, HEIGHT), reader.whole(directory, WIDTH)


def _area(reader: TiffReader, directory: Directory) -> int:
    height, width = _size(reader, directory)
    return height * width
