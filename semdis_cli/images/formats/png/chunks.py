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

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_SAMPLES_PER_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_UNPACKED_AT_ONCE = 2**20
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_OF_A_PALETTE = 3  # colour type
_KEY_BYTES = {0: 2, 2: 6, _OF_A_PALETTE: 1}  # at least so many say what is transparent, by colour type
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_MAX_EXIF_BYTES = 2**20
_OF_APPLE = "a PNG out of an iPhone app (CgBI), which no browser shows: convert it (pngdefry) or take the original"


@dataclass(frozen=True, slots=True)
class PngHeader:
    """Facts from the chunks: stored size in px, bits per sample, and the raw EXIF block if there is one.

    `stray_exif`: one that stands behind the pixels or begins as in a JPEG, where browsers do not look for it, or that
    fails its CRC.
    """

    height: int
    width: int
    bit_depth: int
    exif: bytes | None
    stray_exif: bytes | None


@dataclass(frozen=True, slots=True)
class PngChunk:
    """Chunk's type, the position of its payload in the file, and the payload's length in bytes."""

    kind: bytes
    start: int
    length: int


def read_png_header(file: BinaryIO) -> PngHeader:
    """Read the header of the PNG in `file`: only chunk headers, to the end of the file; the pixels are skipped.

    Raises `UnreadableImageError` if the file does not begin with an image header.
    """
    chunks = png_chunks(file)
    first = next(chunks, None)
    if first is not None and first.kind == b"CgBI":
        raise UnreadableImageError(_OF_APPLE)
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
            block, checksum = file.read(chunk.length), file.read(4)
            is_whole = checksum == chunk_checksum(chunk.kind, block)
            is_stray = is_late or block.startswith(b"Exif") or not is_whole
            exif, stray = (None, block) if is_stray else (block, None)
            if is_whole:
                break
    return PngHeader(height, width, bit_depth, exif, stray)


def only_pixels(data: bytes, file: BinaryIO) -> bytes:
    """Make the same image a PNG without comments, animation, EXIF and profile. `file` reads `data`.

    As in browsers, what is transparent counts where it has to stand and is long enough, and a palette goes on with its
    last colour. Raises `UnreadableImageError` if a chunk that is kept is cut off or fails its CRC.
    """
    kept: dict[bytes, list[bytes | memoryview]] = {}
    for kind, payload, whole in _kept_chunks(data, file):
        is_first = kind not in kept
        if kind != b"tRNS" or (is_first and _counts(payload, data[25], kept)):
            kept.setdefault(kind, []).append(whole)
    if b"IDAT" not in kept:
        raise UnreadableImageError("truncated: the PNG ends before its pixels")
    if data[25] == _OF_A_PALETTE:
        kept |= _whole_palette(kept)
    return b"".join([data[: len(PNG_SIGNATURE)], *(part for parts in kept.values() for part in parts), _END])


def _kept_chunks(data: bytes, file: BinaryIO) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield kind, payload and all bytes of each chunk that makes pixels; not of the last, in which there is nothing."""
    view = memoryview(data)
    for chunk in png_chunks(file):
        if chunk.kind not in _PIXEL_CHUNKS:
            continue
        name, end = chunk.kind.decode(), chunk.start + chunk.length
        if end + 4 > len(data):
            raise UnreadableImageError(f"truncated: the PNG ends in its {name} chunk")
        if name == "IEND":
            return
        if zlib.crc32(view[chunk.start - 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise UnreadableImageError(f"damaged PNG: wrong checksum in its {name} chunk")
        yield chunk.kind, view[chunk.start : end], view[chunk.start - 8 : end + 4]


def _counts(payload: memoryview, colour_type: int, before: Mapping[bytes, object]) -> bool:
    """Tell whether a chunk about transparency stands between those that it has to, and says enough."""
    is_in_place = b"IDAT" not in before and (colour_type != _OF_A_PALETTE or b"PLTE" in before)
    return is_in_place and len(payload) >= _KEY_BYTES.get(colour_type, 1 << 31)


def _whole_palette(kept: Mapping[bytes, list[bytes | memoryview]]) -> dict[bytes, list[bytes | memoryview]]:
    """Make the chunks of a palette and its alphas have 256 colours: the last stands for those that it lacks."""
    colours = bytes(kept[b"PLTE"][0][8:-4]) if b"PLTE" in kept else b""
    num = len(colours) // 3
    if num == 0:
        raise UnreadableImageError("damaged PNG: it has no palette")
    if num >= 256:
        return {}
    whole: dict[bytes, list[bytes | memoryview]] = {
        b"PLTE": [chunk_bytes(b"PLTE", colours[: 3 * num] + colours[3 * num - 3 : 3 * num] * (256 - num))]
    }
    if b"tRNS" in kept:
        alphas = bytes(kept[b"tRNS"][0][8:-4])[:num].ljust(num, b"\xff")
        whole[b"tRNS"] = [chunk_bytes(b"tRNS", alphas + alphas[-1:] * (256 - num))]
    return whole


def check_png_pixels(image: Image.Image, file: BinaryIO) -> None:
    """Raise `UnreadableImageError` if `image`, decoded from the PNG in `file`, has rows that the PNG does not hold.

    Pillow leaves such rows at zero and says nothing. Only where they are zero the pixels are unpacked and counted.
    """
    file.seek(len(PNG_SIGNATURE) + 8)
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
    """Yield rows and columns of each pass; without interlacing there is one."""
    for y, x, dy, dx in _ADAM7 if interlace else ((0, 0, 1, 1),):
        yield -(-(height - y) // dy), -(-(width - x) // dx)


def _count_unpacked(file: BinaryIO, enough: int) -> int:
    """Count the bytes that the IDAT chunks of the PNG in `file` unpack to, until there are `enough`."""
    stream, count = zlib.decompressobj(), 0
    for chunk in png_chunks(file):
        packed = file.read(chunk.length) if chunk.kind == b"IDAT" else b""
        while packed and count < enough:
            count += len(stream.decompress(packed, _UNPACKED_AT_ONCE))
            packed = stream.unconsumed_tail
    return count


def chunks_before_pixels(file: BinaryIO, most_bytes: Mapping[bytes, int]) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Read the payloads of the first chunk of each kind before the pixels of the PNG in `file`, in the file's order.

    `most_bytes`: of each kind that is wanted; of longer ones no more is read, and their CRC is not checked. Also gives
    the kinds of those that were passed over because they fail it.
    """
    found: dict[bytes, bytes] = {}
    damaged: list[bytes] = []
    for chunk in png_chunks(file):
        if chunk.kind == b"IDAT":
            break
        if chunk.kind in most_bytes and chunk.kind not in found:
            payload = file.read(min(chunk.length, most_bytes[chunk.kind]))
            if len(payload) == chunk.length and file.read(4) != chunk_checksum(chunk.kind, payload):
                damaged.append(chunk.kind)
            else:
                found[chunk.kind] = payload
    return found, damaged


def chunk_bytes(kind: bytes, payload: bytes) -> bytes:
    """Make a chunk with its length and CRC."""
    return struct.pack(">I", len(payload)) + kind + payload + chunk_checksum(kind, payload)


def chunk_checksum(kind: bytes, payload: bytes) -> bytes:
    """Compute the four bytes behind a chunk's payload."""
    return struct.pack(">I", zlib.crc32(payload, zlib.crc32(kind)))


def png_chunks(file: BinaryIO) -> Iterator[PngChunk]:
    """Yield every chunk up to IEND or the end of the file; `file` stands at its payload then (which may be cut off)."""
    position = file.seek(len(PNG_SIGNATURE))
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        yield PngChunk(kind, position + 8, length)
        if kind == b"IEND":
            return
        position = file.seek(position + 12 + length)
