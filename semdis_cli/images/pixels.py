"""A file's bytes to the pixels that the model sees: decoded, resized, cut and turned, by the fastest exact way."""

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from semdis_cli.images.adm import adm_bytes, adm_pixels
from semdis_cli.images.colour.convert import samples_to_srgb
from semdis_cli.images.formats.exif import turned
from semdis_cli.images.formats.jpeg.decoder import decode_plain_jpeg, is_fast_jpeg
from semdis_cli.images.formats.jpeg.header import read_plain_jpeg
from semdis_cli.images.formats.pillow import pillow_guard
from semdis_cli.images.geometry import plan_geometry
from semdis_cli.images.headers import Header, open_pixels, read_header
from semdis_cli.images.images import check_size, decode_stored
from semdis_cli.images.resize import fit_pixels
from semdis_cli.records import Geometry
from semdis_cli.settings import GeometrySettings, ReadSettings

_FAST_BYTES_PER_PX, _MOST_BYTES_PER_PX = 3.5, 15.0  # the latter: Pillow, with a profile or four channels
_BYTES_PER_PX = {"WEBP": 17.5, "PNG": 12.5, "BMP": 9.5, "GIF": 10.5}
_SMALLEST_SCALED_PX = 16  # below, several fractions can give the same size, and a decoder may choose another


@dataclass(frozen=True, slots=True)
class LoadedPixels:
    """`pixels`: uint8 [3,H,W] sRGB of any strides, (H, W) = `geometry.bucket`. `notes`: what could not be honoured.

    `alpha`: uint8 [H,W] of the whole picture, upright; None: it is opaque.
    """

    pixels: Tensor
    geometry: Geometry
    notes: tuple[str, ...] = ()
    alpha: np.ndarray | None = None


def load_pixels(
    data: bytes,
    settings: ReadSettings,
    geometry: GeometrySettings,
    multiple_px: int,
    taking: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> LoadedPixels:
    """Load the picture in a file's bytes as `read_image` reads it, and as `plan_geometry` wants it.

    Safe to call from several threads; decoding and resizing happen without the GIL and in the calling thread alone, as
    long as torch is told to use one. Raises `UnreadableImageError` as `read_image` does, and `UsageError` as
    `plan_geometry`. `taking`: is entered with the memory in bytes that it is going to take, before it takes it.
    """
    is_adm = geometry.resize == "adm"
    plan = partial(plan_geometry, settings=geometry, multiple_px=multiple_px)
    return load_views(data, settings, lambda size: [plan(size)], taking, is_adm=is_adm)[0]


def load_views(
    data: bytes,
    settings: ReadSettings,
    plan_all: Callable[[tuple[int, int]], Sequence[Geometry]],
    taking: Callable[[int], AbstractContextManager[None]],
    *,
    is_adm: bool = False,
) -> list[LoadedPixels]:
    """Load several images of the picture in a file's bytes, which is decoded once; otherwise as `load_pixels`.

    `plan_all`: makes of its size (H, W) in px the plans, all with one `resized`. `is_adm`: they are of ADM's crop.
    """
    with pillow_guard(settings.max_image_pixels):
        header = read_header(io.BytesIO(data))
        check_size(header.size, settings)
        plans = plan_all(header.size)
        plan = plans[0]
        plain = read_plain_jpeg(io.BytesIO(data)) if header.name == "JPEG" else None
        is_plain = plain is not None and plain.is_simple
        fraction = _fraction(plan) if is_plain and settings.jpeg_scaling else 1
        resizing = adm_bytes(plan) if is_adm else _resizing_bytes(plan, fraction)
        held = len(data) + 3 * sum(one.bucket[0] * one.bucket[1] for one in plans)
        with taking(_needed_bytes(header, fraction, held + resizing, is_plain=is_plain)):
            is_resized = all(one.resized != one.source for one in plans)
            decoded = _decode_fast(header, data, fraction, is_resized=is_resized) if is_plain else None
            alpha = None
            if decoded is None:
                stored = decode_stored(header, data, settings, fraction)
                decoded = np.array(stored.pixels), stored.notes  # a copy: torch asks for memory that may be written
                alpha = None if stored.alpha is None else turned(np.asarray(stored.alpha), header.orientation)
            pixels, notes = decoded
            fit = adm_pixels if is_adm else partial(fit_pixels, fraction=fraction)
            return [LoadedPixels(fit(pixels, one, header.orientation), one, notes, alpha) for one in plans]


def _resizing_bytes(plan: Geometry, fraction: int) -> int:
    """Return the memory in bytes that resizing takes: two copies of what it made of the rows."""
    return 0 if plan.resized == plan.source else 6 * plan.source[0] * plan.resized[1] // fraction


def _needed_bytes(header: Header, fraction: int, num_bytes: int, *, is_plain: bool) -> int:
    """Estimate the memory in bytes that an image takes at its peak: `num_bytes` for all but decoding it.

    Measured with 24 megapixels of each format: what decoding takes for a pixel.
    """
    height, width = header.size
    has_profile = header.image is None or "icc_profile" in header.image.info
    is_fast = is_plain and not has_profile and is_fast_jpeg(fraction)
    per_px = _FAST_BYTES_PER_PX if is_fast else _BYTES_PER_PX.get(header.name, _MOST_BYTES_PER_PX)
    decoding = per_px * height * width / fraction**2
    return num_bytes + int(decoding)


def _fraction(plan: Geometry) -> int:
    """Choose the smallest part of the size, 1/1 to 1/8, that is still at least twice what resizing is going to make."""
    if min(plan.source) < _SMALLEST_SCALED_PX:
        return 1
    smallest = min(source // (2 * resized) for source, resized in zip(plan.source, plan.resized, strict=True))
    return next((fraction for fraction in (8, 4, 2) if fraction <= smallest), 1)


def _decode_fast(
    header: Header, data: bytes, fraction: int, *, is_resized: bool
) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Decode a plain JPEG as stored, to sRGB; also its notes. None if Pillow has to decode it.

    `is_resized`: it is going to be, into memory of its own, so that these pixels need not last.
    """
    height, width = header.stored_size
    size = (-(-height // fraction), -(-width // fraction))
    pixels = decode_plain_jpeg(data, size, fraction, is_passing=is_resized)
    if pixels is None:
        return None
    image, samples = open_pixels(header, data)
    converted, notes = samples_to_srgb(pixels, image.mode, samples)
    return converted, header.notes + notes
