"""BMP of Windows (headers of 40, 52, 56, 108 and 124 bytes) and of OS/2 (12, 16 to 64), as browsers show them.

Pillow reads few of the masks, no depth of 2 bits and no short OS/2 headers, and fills what run lengths leave out.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.colour.convert import Samples

_FILE_HEADER_BYTES = 14
_OS2_HEADER, _V4_HEADERS = 12, frozenset({108, 124})
_WINDOWS_HEADERS = frozenset({40, 52, 56}) | _V4_HEADERS
_RGB, _RLE8, _RLE4, _BITFIELDS, _JPEG, _PNG, _ALPHA_BITFIELDS = range(7)
_RLE24 = 4  # of OS/2
_EMBEDDED_PROFILE = b"DEBM"  # MBED, little-endian
_MAX_PROFILE_BYTES = 16 * 2**20
_DEPTHS = frozenset({1, 2, 4, 8, 16, 24, 32})


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """`height`, `width` in px. `bits` of a pixel. `masks`: of red, green, blue and alpha, where a pixel has 16 or 32.

    `palette_at`, `data_at`: places in the file. `num_colours`: of the palette, each of `colour_bytes`.
    """

    height: int
    width: int
    is_top_down: bool
    bits: int
    compression: int
    is_os2: bool
    masks: tuple[int, int, int, int]
    palette_at: int
    num_colours: int
    colour_bytes: int
    data_at: int
    profile: tuple[int, int] | None  # position and length in bytes

    @property
    def is_run_length(self) -> bool:
        """Tell whether its pixels are packed."""
        return self.compression in {_RLE8, _RLE4} or (self.is_os2 and self.compression == _RLE24)


def read_bmp_header(file: BinaryIO) -> BmpHeader:
    """Read the header of a BMP. Raises `UnreadableImageError` for damaged ones and kinds that are not read."""
    file.seek(0)
    start = file.read(_FILE_HEADER_BYTES + 124 + 16)
    info_bytes = int.from_bytes(start[14:18], "little")
    if len(start) < _FILE_HEADER_BYTES + info_bytes:
        raise UnreadableImageError("truncated: the BMP ends in its header")
    info = start[_FILE_HEADER_BYTES : _FILE_HEADER_BYTES + info_bytes]
    if info_bytes == _OS2_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", info, 4)
        compression = 0
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", info, 4)
        compression = _field(info, 16)
    is_os2 = info_bytes not in _WINDOWS_HEADERS
    masks_at = _FILE_HEADER_BYTES + 40
    has_masks_behind = info_bytes == 40 and compression in {_BITFIELDS, _ALPHA_BITFIELDS}
    palette_at = _FILE_HEADER_BYTES + info_bytes + has_masks_behind * (16 if compression == _ALPHA_BITFIELDS else 12)
    colour_bytes = 3 if info_bytes == _OS2_HEADER else 4
    data_at = _field(start, 10) or palette_at
    header = BmpHeader(
        abs(height), width, height < 0, bits, compression, is_os2,
        _masks(start[masks_at : masks_at + 16], info_bytes, bits, compression),
        palette_at, _num_colours(info, bits, (data_at - palette_at) // colour_bytes), colour_bytes, data_at,
        _profile_place(info),
    )  # fmt: skip
    _check(header)
    return header


def decode_bmp(header: BmpHeader, data: bytes) -> tuple[Image.Image, Samples]:
    """Decode to mode RGB or RGBA; also the meaning of the samples. Raises `UnreadableImageError` if it is cut off.

    Alpha that is zero in every pixel was never meant as such, although a browser may show nothing then.
    """
    profile = None
    if header.profile is not None:
        at, length = header.profile
        profile = data[at : at + length]
    if header.bits == 24 and not header.is_run_length:
        return _from_bytes(header, data), Samples(profile=profile)
    if header.is_run_length:
        pixels = _from_run_lengths(header, data)
    elif header.bits <= 8:
        pixels = _palette(header, data)[_indices(_rows(header, data), header)]
    else:
        pixels = _by_masks(_rows(header, data), header)
    pixels = pixels if header.is_top_down else pixels[::-1]
    return Image.fromarray(np.ascontiguousarray(pixels)), Samples(profile=profile)


def _from_bytes(header: BmpHeader, data: bytes) -> Image.Image:
    """Decode a picture of 24 bits; the most common kind, so by Pillow's fast unpacking."""
    rows = _rows(header, data)
    size = (header.width, header.height)
    return Image.frombuffer("RGB", size, rows, "raw", "BGR", rows.shape[1], 1 if header.is_top_down else -1)


def _field(block: bytes, at: int) -> int:
    """Read a 32-bit field; 0 where the block is too short to have it."""
    return int.from_bytes(block[at : at + 4], "little") if len(block) >= at + 4 else 0


def _check(header: BmpHeader) -> None:
    if header.is_os2 and header.compression == _BITFIELDS:
        raise UnreadableImageError("a BMP in Huffman coding, which is not read: convert it to PNG first")
    if not header.is_os2 and header.compression in {_JPEG, _PNG}:
        inside = "JPEG" if header.compression == _JPEG else "PNG"
        raise UnreadableImageError(f"a BMP with a {inside} inside, which is not read: convert it to PNG first")
    if header.width < 1 or header.height < 1:
        raise UnreadableImageError(f"damaged BMP: its size is {header.height}x{header.width}")
    depths = {_RLE8: {8}, _RLE4: {4}, _RLE24: {24}, _BITFIELDS: {16, 32}, _ALPHA_BITFIELDS: {16, 32}}
    if header.compression != _RGB and header.bits not in depths.get(header.compression, ()):
        raise UnreadableImageError(f"damaged BMP: compression {header.compression} of {header.bits} bits")
    if header.bits not in _DEPTHS:
        raise UnreadableImageError(f"damaged BMP: {header.bits} bits a pixel")
    if not all(map(_is_one_run, header.masks)):
        raise UnreadableImageError("damaged BMP: its masks have holes")


def _masks(stored: bytes, info_bytes: int, bits: int, compression: int) -> tuple[int, int, int, int]:
    """Read the masks of red, green, blue and alpha; those in a file are in its header or behind a short one."""
    whole = 0xFFFFFFFF >> max(0, 32 - bits)
    red, green, blue, alpha = (mask & whole for mask in struct.unpack("<4I", stored.ljust(16, b"\0")))
    if compression in {_BITFIELDS, _ALPHA_BITFIELDS}:
        return red, green, blue, alpha if info_bytes >= 56 or compression == _ALPHA_BITFIELDS else 0
    if bits == 16:
        return 0x7C00, 0x3E0, 0x1F, 0
    return 0xFF0000, 0xFF00, 0xFF, 0xFF000000 if alpha and info_bytes in _V4_HEADERS else 0


def _num_colours(info: bytes, bits: int, room: int) -> int:
    """Count the colours of the palette; there are no more than there is room for before the pixels."""
    if bits > 8:
        return 0
    used = _field(info, 32)
    return max(0, min(used or 1 << bits, 1 << bits, room))


def _profile_place(info: bytes) -> tuple[int, int] | None:
    if len(info) < 124 or info[56:60] != _EMBEDDED_PROFILE:
        return None
    at, length = struct.unpack_from("<II", info, 112)
    return _FILE_HEADER_BYTES + at, min(length, _MAX_PROFILE_BYTES)


def _is_one_run(mask: int) -> bool:
    low = mask & -mask
    return not mask & (mask + low)


def _rows(header: BmpHeader, data: bytes) -> np.ndarray:
    """Return [H,B] bytes of each row, padded to a multiple of four; the padding of the last may be missing."""
    used = -(-header.width * header.bits // 8)
    stride = -(-used // 4) * 4
    part = data[header.data_at : header.data_at + stride * header.height]
    if len(part) < stride * (header.height - 1) + used:
        raise UnreadableImageError("truncated: the BMP ends too early")
    return np.frombuffer(part.ljust(stride * header.height, b"\0"), np.uint8).reshape(header.height, stride)


def _indices(rows: np.ndarray, header: BmpHeader) -> np.ndarray:
    """Return [H,W] of palette indices; several in a byte lie from the left to the right."""
    if header.bits == 8:
        return rows[:, : header.width]
    per_byte = 8 // header.bits
    used = rows[:, : -(-header.width // per_byte)]
    shifts = range(8 - header.bits, -1, -header.bits)
    indices = np.stack([used >> shift & (1 << header.bits) - 1 for shift in shifts], axis=2)
    return indices.reshape(header.height, -1)[:, : header.width]


def _palette(header: BmpHeader, data: bytes) -> np.ndarray:
    """Read the palette as [2**bits,3]; colours that it does not have are black."""
    colours = np.zeros((1 << header.bits, 3), np.uint8)
    stored = data[header.palette_at : header.palette_at + header.num_colours * header.colour_bytes]
    num = len(stored) // header.colour_bytes
    table = np.frombuffer(stored[: num * header.colour_bytes], np.uint8).reshape(num, header.colour_bytes)
    colours[:num] = table[:, 2::-1]
    return colours


def _by_masks(rows: np.ndarray, header: BmpHeader) -> np.ndarray:
    """Decode by masks to [H,W,3] or, with alpha, [H,W,4]."""
    words = rows.view(f"<u{header.bits // 8}")[:, : header.width]
    num = 4 if header.masks[3] else 3
    pixels = np.empty((header.height, header.width, num), np.uint8)
    for at, mask in enumerate(header.masks[:num]):
        pixels[:, :, at] = _masked(words, mask)
    return pixels if num == 3 or pixels[:, :, 3].any() else pixels[:, :, :3]


def _masked(words: np.ndarray, mask: int) -> np.ndarray:
    """Return the bits under a mask as 0..255, rounded."""
    if not mask:
        return np.zeros(words.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    white = mask >> shift
    values = words >> shift & white
    if white == 255:
        return values.astype(np.uint8)
    if white < 1 << 16:
        levels = (np.arange(white + 1, dtype=np.uint32) * 255 + white // 2) // white
        scaled: np.ndarray = levels.astype(np.uint8)[values]
        return scaled
    return (values >> white.bit_length() - 8).astype(np.uint8)


def _from_run_lengths(header: BmpHeader, data: bytes) -> np.ndarray:
    """Decode RLE8, RLE4 or RLE24 to [H,W,3], the lowest row first. What the runs leave out is black, as in browsers."""
    values = np.full((header.height, header.width), -1, np.int32 if header.bits == 24 else np.int16)
    _run(_Pen(values), data, header.data_at, header.bits)
    if header.bits == 24:
        return np.stack([np.maximum(values, 0) >> shift & 255 for shift in (16, 8, 0)], axis=2).astype(np.uint8)
    colours = np.concatenate([_palette(header, data), np.zeros((1, 3), np.uint8)])
    pixels: np.ndarray = colours[values]  # -1 is the last
    return pixels


@dataclass(slots=True)
class _Pen:
    """Place of the next pixel on `canvas` [H,W]; what is over the edge is dropped."""

    canvas: np.ndarray
    x: int = 0
    y: int = 0

    def draw(self, values: np.ndarray | int, count: int) -> None:
        """Draw `count` pixels to the right."""
        if self.y < len(self.canvas):
            room = max(0, min(count, self.canvas.shape[1] - self.x))
            self.canvas[self.y, self.x : self.x + room] = values if isinstance(values, int) else values[:room]
        self.x += count

    @property
    def is_at_end(self) -> bool:
        """Tell whether there is no pixel left to draw."""
        return self.y >= len(self.canvas) or (self.y == len(self.canvas) - 1 and self.x >= self.canvas.shape[1])


def _run(pen: _Pen, data: bytes, at: int, bits: int) -> None:
    """Follow the codes of RLE8, RLE4 or RLE24 to their end."""
    while at + 2 <= len(data) and pen.y < len(pen.canvas):
        count, code = data[at], data[at + 1]
        at += 2
        if count:
            num_bytes = 3 if bits == 24 else 1
            pen.draw(_repeated(data[at - 1 : at - 1 + num_bytes], count, bits), count)
            at += num_bytes - 1
        elif code == 0:
            pen.x, pen.y = 0, pen.y + 1
        elif code == 1:
            return
        elif code == 2:
            if at + 2 > len(data):
                break
            pen.x, pen.y, at = pen.x + data[at], pen.y + data[at + 1], at + 2
        else:
            num_bytes = -(-code * bits // 8)
            values = _literal(data[at : at + num_bytes], code, bits)
            pen.draw(values, len(values))
            at += num_bytes + num_bytes % 2
    if not pen.is_at_end:
        raise UnreadableImageError("truncated: the BMP ends too early")


def _repeated(part: bytes, count: int, bits: int) -> np.ndarray | int:
    """Repeat one value, or the two in a byte in turns."""
    if bits == 4:
        return np.resize(np.array([part[0] >> 4, part[0] & 15]), count)
    return int.from_bytes(part, "little")


def _literal(part: bytes, count: int, bits: int) -> np.ndarray:
    """Read up to `count` values, fewer if the data end."""
    stored = np.frombuffer(part, np.uint8)
    if bits == 4:
        return np.stack([stored >> 4, stored & 15], axis=1).ravel()[:count]
    if bits == 24:
        whole = stored[: len(stored) // 3 * 3].reshape(-1, 3).astype(np.int32)
        return whole[:, 0] | whole[:, 1] << 8 | whole[:, 2] << 16
    return stored
