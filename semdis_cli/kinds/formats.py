"""The image formats that can be read, told apart by a file's first bytes: its name says nothing about its content."""

import struct
from typing import BinaryIO

from semdis_cli.kinds.brands import AVIF, format_by_brands
from semdis_cli.kinds.jxl_start import JXL_STARTS, has_jxl
from semdis_cli.kinds.tiff_directories import is_picture

SIGNATURE_BYTES = 512  # a list of brands may be long; a tar's first block

# What a folder scan takes for an image by its name alone.
_IMAGE_SUFFIXES = frozenset(
    {"apng", "avif", "bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
)

_SIGNATURES: dict[bytes, str | None] = {
    b"\xff\xd8\xff\xf7": None,  # JPEG-LS
    b"\xff\xd8\xff": "JPEG",  # an MPO file is a JPEG with more of them behind it
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
    **dict.fromkeys(JXL_STARTS, "JXL"),
}
_BMP_HEADER_SIZES = frozenset({12, *range(16, 65, 4), 42, 46, 108, 124})


def image_format(start: bytes) -> str | None:
    """Return the format of a file by its first `SIGNATURE_BYTES`: JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or JXL."""
    for signature, name in _SIGNATURES.items():
        if start.startswith(signature):
            return name if name != "JXL" or has_jxl() else None  # passed over without its extra
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        return AVIF if format_by_brands(start) == AVIF else None
    # Two letters are no signature: a text may begin with BM as well.
    if start[:2] == b"BM" and len(start) >= 18 and struct.unpack_from("<I", start, 14)[0] in _BMP_HEADER_SIZES:
        return "BMP"
    return None


def has_image_suffix(name: str) -> bool:
    """Tell whether a file is an image by its name alone."""
    _, dot, suffix = name.rpartition(".")
    return bool(dot) and suffix.lower() in _IMAGE_SUFFIXES


def is_image_file(file: BinaryIO) -> bool:
    """Tell whether the file, which stands at its beginning, is an image by its content; a camera raw is none."""
    name = image_format(file.read(SIGNATURE_BYTES))
    return is_picture(file) if name == "TIFF" else name is not None
