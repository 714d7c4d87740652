"""Small pictures of large ones."""

import numpy as np
from numpy.typing import NDArray

from semdis_cli.images.images import read_image, write_image

_QUALITY = 80


def thumbnail(data: bytes, longest_px: int) -> bytes:
    """Make a JPEG of the picture in a file's bytes, its longer side at most `longest_px`; smaller ones keep their size.

    Raises `UnreadableImageError`.
    """
    return write_image(small_pixels(data, longest_px), "jpg", _QUALITY)


def small_pixels(data: bytes, longest_px: int) -> NDArray[np.uint8]:
    """Return the picture in a file's bytes as uint8 [H,W,3] sRGB, sized as by `thumbnail`. Raises as that."""
    picture = read_image(data).pixels
    picture.thumbnail((longest_px, longest_px))
    return np.asarray(picture)
