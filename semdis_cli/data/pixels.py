"""A file's bytes to the pixels that the model sees: decoded, resized, cut and turned, by the fastest exact way."""

import io
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from semdis_cli.data.colour import samples_to_srgb
from semdis_cli.data.geometry import GeometrySettings, plan_geometry
from semdis_cli.data.headers import Header, open_pixels, read_header
from semdis_cli.data.images import ReadSettings, check_size, decode_stored
from semdis_cli.data.jpeg_decoder import decode_plain_jpeg
from semdis_cli.data.jpeg_header import is_plain_jpeg
from semdis_cli.data.pillow import pillow_guard
from semdis_cli.data.resize import fit_pixels
from semdis_cli.records import Geometry

_SMALLEST_SCALED_PX = 16  # below, several fractions can give the same size, and a decoder may choose another


@dataclass(frozen=True, slots=True)
class LoadedPixels:
    """`pixels`: uint8 [3,H,W] sRGB of any strides, (H, W) = `geometry.bucket`. `notes`: what could not be honoured."""

    pixels: Tensor
    geometry: Geometry
    notes: tuple[str, ...] = ()


def load_pixels(data: bytes, settings: ReadSettings, geometry: GeometrySettings, multiple_px: int) -> LoadedPixels:
    """The picture in a file's bytes as `read_image` reads it, and as `plan_geometry` wants it.

    Safe to call from several threads; decoding and resizing happen without the GIL and in the calling thread alone, as
    long as torch is told to use one. Raises `UnreadableImageError` as `read_image` does, and `UsageError` as
    `plan_geometry`.
    """
    with pillow_guard(settings.max_image_pixels):
        header = read_header(io.BytesIO(data))
        check_size(header.size, settings)
        plan = plan_geometry(header.size, geometry, multiple_px)
        is_plain = header.name == "JPEG" and is_plain_jpeg(io.BytesIO(data))
        fraction = _fraction(plan) if is_plain and settings.jpeg_scaling else 1
        decoded = _decode_fast(header, data, fraction, is_resized=plan.resized != plan.source) if is_plain else None
        if decoded is None:
            stored = decode_stored(header, data, settings, fraction)
            decoded = np.array(stored.pixels), stored.notes  # a copy: torch asks for memory that may be written
    pixels, notes = decoded
    return LoadedPixels(fit_pixels(pixels, plan, header.orientation, fraction), plan, notes)


def _fraction(plan: Geometry) -> int:
    """The smallest part of the size, as 1, 2, 4 or 8, that is still at least twice what resizing is going to make."""
    if min(plan.source) < _SMALLEST_SCALED_PX:
        return 1
    smallest = min(source // (2 * resized) for source, resized in zip(plan.source, plan.resized, strict=True))
    return next((fraction for fraction in (8, 4, 2) if fraction <= smallest), 1)


def _decode_fast(
    header: Header, data: bytes, fraction: int, *, is_resized: bool
) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """A plain JPEG as stored, in sRGB, and its notes; None if Pillow has to decode it.

    `is_resized`: it is going to be, into memory of its own, so that these pixels need not last.
    """
    height, width = header.stored_size
    size = (-(-height // fraction), -(-width // fraction))
    pixels = decode_plain_jpeg(data, size, is_passing=is_resized)
    if pixels is None:
        return None
    image, samples = open_pixels(header, data)
    converted, notes = samples_to_srgb(pixels, image.mode, samples)
    return converted, header.notes + notes
