"""PNG chunks: size, orientation and single chunks without decoding, and a copy that holds only what makes the pixels.

Pillow reads a PNG's header up to the pixels, so it misses an eXIf chunk behind them; it refuses a file for the size of
its comments or profile; it lets comments overwrite what it knows about the image; and it checks no CRC of pixels.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from semdis_cli.errors import UnreadableImageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_SAMPLES_PER_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_UNPACKED_AT_ONCE = 2**20
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_MAX_EXIF_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class PngHeader:
    """Facts from the chunks: stored size in px, bits per sample, and the raw EXIF block if there is one.

    `stray_exif`: one that stands behind the pixels or begins as in a JPEG, where browsers do not look for it.
    """

    height: int
    width: int
    bit_depth: int
    exif: bytes | None
    stray_exif: bytes | None


@dataclass(frozen=True, slots=True)
class PngChunk:
    """A chunk's type, the position of its payload in the file, and the payload's length in bytes."""

    kind: bytes
    start: int
    length: int


def read_png_header(file: BinaryIO) -> PngHeader:
    """Header of the PNG in `file`. Only chunk headers are read, to the end of the file; the pixels are skipped.

    Raises `UnreadableImageError` if the file does not begin with an image header.
    """
    chunks = png_chunks(file)
    first = next(chunks, None)
    if first is None or first.kind != b"IHDR" or first.length != 13:
        raise UnreadableImageError("damaged PNG: it does not begin with an image header")
    fields = file.read(13)
    if len(fields) < 13:
        raise UnreadableImageError("truncated: the PNG ends in its header")
    width, height, bit_depth = struct.unpack_from(">IIB", fields)
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise UnreadableImageError(f"damaged PNG: its size is {height}x{width}")
    exif, stray = None, None
    is_late = False
    for chunk in chunks:
        is_late |= chunk.kind == b"IDAT"
        if chunk.kind == b"eXIf" and chunk.length <= _MAX_EXIF_BYTES:
            block = file.read(chunk.length)
            exif, stray = (None, block) if is_late or block.startswith(b"Exif") else (block, None)
            break
    return PngHeader(height, width, bit_depth, exif, stray)


def only_pixels(data: bytes, file: BinaryIO) -> bytes:
    """The same image as a PNG without comments, animation, EXIF and profile. `file` reads `data`.

    Raises `UnreadableImageError` if a chunk that is kept is cut off or fails its CRC.
    """
    view = memoryview(data)
    parts, has_pixels = [view[: len(_SIGNATURE)]], False
    for chunk in png_chunks(file):
        if chunk.kind in _PIXEL_CHUNKS:
            name = chunk.kind.decode()
            end = chunk.start + chunk.length
            if end + 4 > len(data):
                raise UnreadableImageError(f"truncated: the PNG ends in its {name} chunk")
            if zlib.crc32(view[chunk.start - 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                raise UnreadableImageError(f"damaged PNG: wrong checksum in its {name} chunk")
            parts.append(view[chunk.start - 8 : end + 4])
            has_pixels |= name == "IDAT"
    if not has_pixels:
        raise UnreadableImageError("truncated: the PNG ends before its pixels")
    return b"".join(parts)


def check_png_pixels(image: Image.Image, file: BinaryIO) -> None:
    """Raise `UnreadableImageError` if `image`, decoded from the PNG in `file`, has rows that the PNG does not hold.

    Pillow leaves such rows at zero and says nothing. Only where they are zero the pixels are unpacked and counted.
    """
    file.seek(len(_SIGNATURE) + 8)
    width, height, bit_depth, colour_type, *_, interlace = struct.unpack(">IIBBBBB", file.read(13))
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if not interlace and np.asarray(last_row).any():
        return
    bits = bit_depth * _SAMPLES_PER_PIXEL[colour_type]
    sizes = pass_sizes(height, width, interlace)
    num_bytes = sum(rows * (1 + (columns * bits + 7) // 8) for rows, columns in sizes if columns)
    if _count_unpacked(file, num_bytes) < num_bytes:
        raise UnreadableImageError(f"truncated: the PNG has fewer pixels than its header promises ({height}x{width})")


def pass_sizes(height: int, width: int, interlace: int) -> Iterator[tuple[int, int]]:
    """Rows and columns of each pass; without interlacing there is one."""
    for y, x, dy, dx in _ADAM7 if interlace else ((0, 0, 1, 1),):
        yield -(-(height - y) // dy), -(-(width - x) // dx)


def _count_unpacked(file: BinaryIO, enough: int) -> int:
    """Bytes that the IDAT chunks of the PNG in `file` unpack to; no more are counted once there are `enough`."""
    stream, count = zlib.decompressobj(), 0
    for chunk in png_chunks(file):
        packed = file.read(chunk.length) if chunk.kind == b"IDAT" else b""
        while packed and count < enough:
            count += len(stream.decompress(packed, _UNPACKED_AT_ONCE))
            packed = stream.unconsumed_tail
    return count


def chunks_before_pixels(file: BinaryIO, most_bytes: Mapping[bytes, int]) -> dict[bytes, bytes]:
    """Payloads of the first chunk of each kind before the pixels of the PNG in `file`, in the file's order.

    `most_bytes`: of each kind that is wanted; longer payloads are cut.
    """
    found: dict[bytes, bytes] = {}
    for chunk in png_chunks(file):
        if chunk.kind == b"IDAT":
            break
        if chunk.kind in most_bytes and chunk.kind not in found:
            found[chunk.kind] = file.read(min(chunk.length, most_bytes[chunk.kind]))
    return found


def png_chunks(file: BinaryIO) -> Iterator[PngChunk]:
    """Every chunk up to IEND or the end of the file; at each, `file` stands at its payload (which may be cut off)."""
    position = file.seek(len(_SIGNATURE))
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        yield PngChunk(kind, position + 8, length)
        if kind == b"IEND":
            return
        position = file.seek(position + 12 + length)
