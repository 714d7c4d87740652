"""JPEG XL (ISO/IEC 18181): size and orientation from the codestream; pixels through `pillow-jxl-plugin`, an extra.

Its decoder is called directly: Pillow's plugin decodes the whole picture to know its size, before any limit is asked.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.colour.convert import Samples
from semdis_cli.images.formats.exif import turn_upright, upright_size
from semdis_cli.images.formats.pillow import decoder_errors, open_image
from semdis_cli.images.formats.pixel_colour import jpeg_samples

_CODESTREAM = b"\xff\x0a"
_START_BYTES = 32  # size and orientation take up to 13
_MOST_BOXES = 64
_RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width to height
_MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


class _Bits:
    """Bits of `data`, of each byte the lowest first (18181-1, B.2)."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise UnreadableImageError("truncated: the JPEG XL ends in its header")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value


@dataclass(frozen=True, slots=True)
class JxlHeader:
    """`size`: (height, width) in px of the upright picture. `orientation`: 1..8, which decoding to pixels sees to."""

    size: tuple[int, int]
    orientation: int


def read_jxl_header(file: BinaryIO) -> JxlHeader:
    """Read size and orientation (18181-1, D.2 and D.3.1). Raises `UnreadableImageError` if they are not there."""
    bits = _Bits(_codestream_start(file))
    height, width = _read_size(bits)
    has_more = not bits.take(1) and bits.take(1)
    orientation = bits.take(3) + 1 if has_more else 1
    if has_more and _is_animated(bits):
        raise UnreadableImageError("an animated JPEG XL, of which the last frame alone can be decoded: convert it")
    return JxlHeader(upright_size((height, width), orientation), orientation)


def _is_animated(bits: _Bits) -> bool:
    """Read the metadata behind the orientation (18181-1, D.3.1, D.3.2 and D.3.3)."""
    if bits.take(1):
        _read_size(bits)  # the size to show it at
    if bits.take(1):
        _skip_preview_size(bits)
    return bool(bits.take(1))


def decode_jxl(header: JxlHeader, data: bytes) -> tuple[Image.Image, Samples]:
    """Decode the first frame, upright; also the meaning of its samples. Raises `UnreadableImageError`.

    `header` was read from `data`. A JPEG that was packed into JPEG XL is unpacked and read as the JPEG that it is.
    """
    with decoder_errors("JPEG XL"):
        is_jpeg, info, pixels, profile, _ = _decoder()(data)
        if is_jpeg:
            jpeg = open_image("JPEG", io.BytesIO(pixels))
            samples = jpeg_samples(jpeg, pixels)
            return turn_upright(jpeg, header.orientation), samples
    if (info.height, info.width) != header.size:
        raise UnreadableImageError(f"damaged JPEG XL: {info.height}x{info.width} px where it promised {header.size}")
    return _image(info, pixels), Samples(white=65535, profile=profile or None)


def _decoder() -> Callable[[bytes], tuple[bool, Any, bytes, bytes, Any]]:
    from pillow_jxl import Decoder

    decoder: Callable[[bytes], tuple[bool, Any, bytes, bytes, Any]] = Decoder(num_threads=0)
    return decoder


def _image(info: Any, pixels: bytes) -> Image.Image:
    """Make the picture Pillow's; grey with alpha of 16 bits comes under the name of 8."""
    size = info.width, info.height
    if info.mode in _MODES:
        values = np.frombuffer(pixels, np.uint8)
        if len(values) == 2 * info.width * info.height * _MODES[info.mode]:
            values = values[1::2]
        return Image.frombytes(info.mode, size, values.tobytes())
    if info.mode == "I;16":
        return Image.frombytes("I;16", size, pixels)
    raise UnreadableImageError("floating-point samples without a defined range: convert the file to 8 or 16 bits")


def _read_size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.take(1)
    height = _side(bits, is_small=is_small)
    ratio = bits.take(3)
    width = height * _RATIOS[ratio][0] // _RATIOS[ratio][1] if ratio else _side(bits, is_small=is_small)
    return height, width


def _skip_preview_size(bits: _Bits) -> None:
    widths = (0, 0, 5, 9) if bits.take(1) else (6, 8, 10, 12)
    bits.take(widths[bits.take(2)])
    if bits.take(3) == 0:
        bits.take(widths[bits.take(2)])


def _side(bits: _Bits, *, is_small: int) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


def _codestream_start(file: BinaryIO) -> bytes:
    """Read the codestream's first bytes behind its signature, from its box where there is a container (18181-2)."""
    file.seek(0)
    start = file.read(_START_BYTES)
    position = 0
    for _ in range(_MOST_BOXES):
        if start.startswith(_CODESTREAM):
            return start[len(_CODESTREAM) :]
        if len(start) < 16:
            break
        size, kind = struct.unpack_from(">I4s", start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", start, 8), 16
        if kind in {b"jxlc", b"jxlp"}:
            file.seek(position + head + (4 if kind == b"jxlp" else 0))
            start = file.read(_START_BYTES)
            if not start.startswith(_CODESTREAM):
                break
            continue
        if size < head:
            break
        position = file.seek(position + size)
        start = file.read(_START_BYTES)
    raise UnreadableImageError("truncated or damaged: no JPEG XL codestream where it should be")
