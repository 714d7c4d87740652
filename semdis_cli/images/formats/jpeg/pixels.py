"""JPEG pixels: telling a picture that was decoded to its end from one that the decoder had to make up in part.

Where a scan ends before the picture of the promised size does, libjpeg makes up one block, fills the rest with mid-grey
and no more than warns of it, and Pillow does not pass its warnings on.
"""

import io
import random
import re

import numpy as np
from PIL import Image, ImageFile

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.formats.pillow import open_image

# Not 0xff: that would begin a marker. Behind a whole number of restart intervals, a decoder looks for the next one.
_SOME_NOISE = bytes(random.Random(0).choices(range(255), k=64))  # noqa: S311
_NOISE = _SOME_NOISE + b"".join(bytes([0xFF, 0xD0 + number]) + _SOME_NOISE for number in range(8))
# 0xff 0x00 stands for a value, 0xff 0xd0 to 0xd7 are marks within a scan, and 0xff may be repeated before a marker.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_WIDEST_BLOCK_PX = 32  # where a row of blocks is a single one, none of a missing row may be grey
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})


def draft(image: Image.Image, fraction: int) -> None:
    """Let an opened JPEG be decoded at 1/1, 1/2, 1/4 or 1/8 of its sides, rounded up. No side is below `fraction`."""
    if fraction > 1 and isinstance(image, ImageFile.ImageFile):
        image.draft(None, (image.width // fraction, image.height // fraction))


def check_jpeg_pixels(image: Image.Image, data: bytes, fraction: int = 1) -> None:
    """Raise `UnreadableImageError` if `image`, decoded from `data`, was filled up where `data` has no pixels for it.

    It was decoded at that `fraction` of its size.

    Only a picture whose last pixel is about mid-grey can be one that lacks more than its last block; it is decoded once
    more, with noise behind its scans. A decoder that has all it needs never looks at the noise. Arithmetic coding may
    leave zeros out at the end of a scan, so nothing can be told there.
    """
    if image.width > _WIDEST_BLOCK_PX and not _is_grey(image.getpixel((image.width - 1, image.height - 1)), image.mode):
        return
    again = open_image("JPEG", io.BytesIO(_with_noise(data)))
    size = (again.height, again.width)
    draft(again, fraction)
    if again.tobytes() != image.tobytes():
        raise UnreadableImageError(
            f"truncated: the JPEG has fewer pixels than its header promises ({size[0]}x{size[1]})"
        )


def may_be_filled_up(pixels: np.ndarray) -> bool:
    """Tell whether a decoded JPEG, [H,W,3] uint8, is one of the few that `check_jpeg_pixels` would decode once more."""
    return pixels.shape[1] <= _WIDEST_BLOCK_PX or _is_grey(tuple(pixels[-1, -1].tolist()), "RGB")


def _is_grey(pixel: float | tuple[int, ...] | None, mode: str) -> bool:
    """Tell whether the last pixel has the brightness of the filling; its colour may have run in from above."""
    if not isinstance(pixel, tuple):
        return pixel == 128
    if mode == "CMYK":
        return pixel[3] in {127, 128}  # black is not mixed with the other inks; Adobe's is stored inverted
    red, green, blue = pixel
    return abs(299 * red + 587 * green + 114 * blue - 128_000) <= 2000


def _with_noise(data: bytes) -> bytes:
    """Put noise behind each scan of the JPEG's first image; unchanged if its coding is arithmetic."""
    parts: list[bytes] = []
    start, position, is_in_scan = 0, 2, False
    while marker := _MARKER.search(data, position):
        kind = marker[1][0]
        if is_in_scan:
            parts += [data[start : marker.start()], _NOISE]
            start = marker.start()
        if kind == _END_OF_IMAGE or kind in _ARITHMETIC:
            break
        is_in_scan = kind == _START_OF_SCAN
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return b"".join([*parts, data[start:]])
