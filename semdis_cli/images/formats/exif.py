"""Orientation: which way up a picture is meant to be seen, and turning it there."""

import re
import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

ORIENTATION_TAG = 0x0112

# EXIF 2.32, section 4.6.4: where the first row and the first column of the file are in the upright picture.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,  # row 0 at the top, column 0 at the right
    3: Image.Transpose.ROTATE_180,  # bottom, right
    4: Image.Transpose.FLIP_TOP_BOTTOM,  # bottom, left
    5: Image.Transpose.TRANSPOSE,  # left, top
    6: Image.Transpose.ROTATE_270,  # right, top
    7: Image.Transpose.TRANSVERSE,  # right, bottom
    8: Image.Transpose.ROTATE_90,  # left, bottom
}
# The same in three steps: rows and columns change places, then top and bottom, then left and right.
_STEPS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_SHORT = 3


def exif_orientation(block: object) -> tuple[int, tuple[str, ...]]:
    """Read the orientation 1..8 of an EXIF block, and notes about what is wrong in it.

    `block`: bytes, with or without their `Exif` prefix. Nothing is raised: a block that cannot be read, or names no
    such orientation, or not as a SHORT, means "as stored" (1) and a note. No block (None, empty) and no tag in it mean
    1 and no note.
    """
    if not block:
        return 1, ()
    try:
        value = _read_tag(block) if isinstance(block, bytes) else None
    except (struct.error, ValueError) as error:
        reason = error if isinstance(error, _NotShortError) else "unreadable EXIF block"
        return 1, (f"{reason}: orientation kept as stored",)
    return valid_orientation(value)


def ignored_orientation(block: bytes | None, place: str) -> tuple[str, ...]:
    """Note an orientation in a `place` where browsers do not look for one, and show the file as stored."""
    orientation, notes = exif_orientation(block)
    return (
        notes if orientation == 1 else (f"EXIF orientation {orientation} in {place}: kept as stored, as browsers do",)
    )


class _NotShortError(ValueError):
    """Orientation that is a number of another type than EXIF has for it."""


def valid_orientation(value: object) -> tuple[int, tuple[str, ...]]:
    """Return `value` if it is an orientation 1..8, without a note; else 1, with a note unless it is None (no tag)."""
    if value is None:
        return 1, ()
    if isinstance(value, (int, float)) and value in range(1, 9):
        return int(value), ()
    return 1, (f"EXIF orientation {_short(value)} does not exist: kept as stored",)


def upright_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (height, width) in px of the upright picture whose file holds `stored` = (height, width)."""
    return (stored[1], stored[0]) if orientation >= 5 else stored


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn and mirror the picture so that it is seen as meant; returns the same object if it is upright already."""
    return image.transpose(_TO_UPRIGHT[orientation]) if orientation in _TO_UPRIGHT else image


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn [H,W,...] as `turn_upright` does, as a view."""
    is_swapped, is_upside_down, is_mirrored = _STEPS.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if is_swapped else pixels
    return pixels[:: -1 if is_upside_down else 1, :: -1 if is_mirrored else 1]


def turned_planes(pixels: "Tensor", orientation: int) -> "Tensor":
    """Turn [...,H,W] as `turn_upright` does."""
    is_swapped, is_upside_down, is_mirrored = _STEPS.get(orientation, (False, False, False))
    pixels = pixels.mT if is_swapped else pixels
    flipped = [axis for axis, is_flipped in ((-2, is_upside_down), (-1, is_mirrored)) if is_flipped]
    return pixels.flip(flipped) if flipped else pixels


def unturned_box(
    corner: tuple[int, int], box: tuple[int, int], size: tuple[int, int], orientation: int
) -> tuple[int, int]:
    """Return (top, left) in the stored picture of a box of size `box` at `corner` of the upright one of `size`."""
    is_swapped, *is_flipped = _STEPS.get(orientation, (False, False, False))
    top, left = (size[i] - corner[i] - box[i] if is_flipped[i] else corner[i] for i in (0, 1))
    return (left, top) if is_swapped else (top, left)


def _read_tag(block: bytes) -> int | None:
    """Read the orientation tag in the first directory. Raises `struct.error` or `ValueError` if there is no way to it.

    Read here and not by Pillow, which parses every tag, warns about broken ones, and for a PNG decodes the image first.
    """
    block = re.sub(rb"\A(Exif\0\0){1,2}", b"", block)  # WebP and AVIF files may have the prefix of JPEG too
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("not a TIFF header")
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (num_tags,) = struct.unpack_from(f"{order}H", block, start)
    for position in range(start + 2, start + 2 + 12 * num_tags, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", block, position)
        if tag == ORIENTATION_TAG:
            if count != 1 or kind != _SHORT:
                raise _NotShortError("EXIF orientation is not one SHORT, which browsers ask for")
            (value,) = struct.unpack_from(f"{order}H", block, position + 8)
            return int(value)
    return None


def _short(value: object) -> str:
    return str(value) if isinstance(value, (int, float)) else "that is not a number"
