"""Strips and tiles of a TIFF unpacked, whatever kind of samples is in them."""

import io
import struct
import zlib

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.images.formats.pillow import open_image
from semdis_cli.images.formats.tiff.layout import DEFLATE, NONE, OLD_DEFLATE, PACKBITS

_SHORT, _LONG = 3, 4
_DAMAGED = "damaged TIFF: its pixels cannot be unpacked"


def unpacked_part(packed: bytes, compression: int, num_bytes: int) -> bytes:
    """Unpack the first `num_bytes` of what is in `packed`, or fewer if there are no more.

    Raises `UnreadableImageError`.
    """
    if compression == NONE:
        return packed
    if compression == PACKBITS:
        return _unpackbits(packed, num_bytes)
    if compression not in {DEFLATE, OLD_DEFLATE}:
        return _by_libtiff(packed, compression, num_bytes)
    try:
        return zlib.decompressobj().decompress(packed, num_bytes)
    except zlib.error as error:
        raise UnreadableImageError(_DAMAGED) from error


def _unpackbits(packed: bytes, num_bytes: int) -> bytes:
    """Unpack PackBits (TIFF 6.0, section 9)."""
    out = bytearray()
    at = 0
    while at < len(packed) and len(out) < num_bytes:
        count, at = packed[at], at + 1
        if count < 128:
            out += packed[at : at + count + 1]
            at += count + 1
        elif count > 128:
            out += packed[at : at + 1] * (257 - count)
            at += 1
    return bytes(out[:num_bytes])


def _by_libtiff(packed: bytes, compression: int, num_bytes: int) -> bytes:
    """Unpack by what Pillow has for such TIFFs: to it, the bytes are a row of grey."""
    fields = {256: num_bytes, 257: 1, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    table = b"".join(
        struct.pack("<HHII", tag, _LONG if tag in {256, 273, 279} else _SHORT, 1, value)
        for tag, value in fields.items()
    )
    padded = packed + bytes(len(packed) % 2)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(padded))
    try:
        image = open_image("TIFF", io.BytesIO(head + padded + struct.pack("<H", len(fields)) + table + bytes(4)))
        return image.tobytes()
    except PassingReadError:
        raise
    except (UnreadableImageError, OSError, ValueError) as error:
        raise UnreadableImageError(_DAMAGED) from error
