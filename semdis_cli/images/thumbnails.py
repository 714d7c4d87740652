"""Small pictures of large ones."""

import numpy as np

from semdis_cli.images.images import read_image, write_image

_QUALITY = 80


def thumbnail(data: bytes, longest_px: int) -> bytes:
    """Make a JPEG of the picture in a file's bytes, its longer side at most `longest_px`; smaller ones keep their size.

    Raises `UnreadableImageError`.
    """
    picture = read_image(data).pixels
    picture.thumbnail((longest_px, longest_px))
    return write_image(np.asarray(picture), "jpg", _QUALITY)
