"""WebP headers: size and EXIF block from the container, where Pillow would read the whole file."""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from semdis_cli.errors import UnreadableImageError

_IS_ANIMATED, _HAS_EXIF, _HAS_ALPHA = 0x02, 0x08, 0x10
_MAX_EXIF_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class WebpHeader:
    """Stored size in px, and the raw EXIF block if there is one."""

    height: int
    width: int
    exif: bytes | None


def read_webp_header(file: BinaryIO) -> WebpHeader:
    """Read the header of the WebP in `file` (RFC 9649). Raises `UnreadableImageError` if it is damaged or cut off."""
    file.seek(0)
    start = file.read(30)
    if len(start) < 30:
        raise UnreadableImageError("truncated: the WEBP ends in its header")
    kind = start[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
        return WebpHeader(height, width, _find_exif(file) if start[20] & _HAS_EXIF else None)
    if kind == b"VP8L" and start[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", start, 21)
        return WebpHeader((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, None)
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 26))
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a" and width and height:
        return WebpHeader(height, width, None)
    raise UnreadableImageError("damaged WEBP: no image header where it should be")


def check_complete(data: bytes) -> None:
    """Raise `UnreadableImageError` if the WebP in `data` ends before the length that its container states."""
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
        raise UnreadableImageError(f"truncated: the WEBP should have {8 + length} bytes, it has {len(data)}")


def with_empty_canvas(data: bytes) -> bytes:
    """Say that a WebP has alpha if its first frame is smaller than the picture: nothing is around it.

    Without that flag the decoder would give black there, and hide the frame's own alpha.
    """
    flags = data[20]
    if data[12:16] != b"VP8X" or flags & (_IS_ANIMATED | _HAS_ALPHA) != _IS_ANIMATED:
        return data
    at = _find_chunk(io.BytesIO(data), b"ANMF")
    if at is None or data[at + 6 : at + 12] == data[24:30]:
        return data
    return data[:20] + bytes([flags | _HAS_ALPHA]) + data[21:]


def _find_exif(file: BinaryIO) -> bytes | None:
    """Read the payload of the first EXIF chunk."""
    at = _find_chunk(file, b"EXIF")
    if at is None:
        return None
    file.seek(at - 4)
    length = int.from_bytes(file.read(4), "little")
    return file.read(length) if length <= _MAX_EXIF_BYTES else None


def _find_chunk(file: BinaryIO, wanted: bytes) -> int | None:
    """Find the payload of the first chunk of that kind; only chunk headers are read on the way to it."""
    position = file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind == wanted:
            return position + 8
        position = file.seek(position + 8 + length + length % 2)  # payloads are padded to an even length
    return None
