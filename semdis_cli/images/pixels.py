"""A file's bytes to the pixels that the model sees: decoded, resized, cut and turned, by the fastest exact way."""

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from semdis_cli.images.adm import adm_bytes, adm_pixels
from semdis_cli.images.colour.convert import samples_to_srgb
from semdis_cli.images.formats.exif import turned
from semdis_cli.images.formats.jpeg.decoder import decode_plain_jpeg, is_fast_jpeg
from semdis_cli.images.formats.jpeg.header import read_plain_jpeg
from semdis_cli.images.formats.jpeg.on_device import can_wait
from semdis_cli.images.formats.pillow import pillow_guard
from semdis_cli.images.geometry import plan_geometry
from semdis_cli.images.headers import Header, open_pixels, read_header
from semdis_cli.images.images import check_size, decode_stored
from semdis_cli.images.resize import fit_pixels
from semdis_cli.records import Geometry
from semdis_cli.settings import GeometrySettings, ReadSettings

_FAST_BYTES_PER_PX, _MOST_BYTES_PER_PX = 3.5, 15.0  # the latter: Pillow, with a profile or four channels
_BYTES_PER_PX = {"WEBP": 17.5, "PNG": 12.5, "BMP": 9.5, "GIF": 10.5}
PlanAll = Callable[[tuple[int, int]], Sequence[Geometry]]
Taking = Callable[[int], AbstractContextManager[None]]
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
    taking: Taking = lambda _: nullcontext(),
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
    plan_all: PlanAll,
    taking: Taking,
    *,
    is_adm: bool = False,
    memory: np.ndarray | None = None,
) -> list[LoadedPixels]:
    """Load several images of the picture in a file's bytes, which is decoded once; otherwise as `load_pixels`.

    `plan_all`: makes of its size (H, W) in px the plans, all with one `resized`. `is_adm`: they are of ADM's crop.
    `memory`: uint8 [H,W,3], contiguous, in which the pixels of a picture that has this size may come to lie.
    """
    plain = read_plain_jpeg(io.BytesIO(data))
    if plain is not None and plain.is_simple and not plain.may_have_profile and is_fast_jpeg():
        check_size(plain.size, settings)
        header = Header("JPEG", plain.size, plain.orientation, plain.notes)
        views = _Views(header, settings, plan_all(header.size), is_adm=is_adm, is_plain=True)
        with taking(views.needed_bytes(len(data))):
            pixels = decode_plain_jpeg(data, views.decoded_size, views.fraction, **views.place(memory))
            if pixels is not None:
                return views.fit(pixels, plain.notes)
    with pillow_guard(settings.max_image_pixels):
        header = read_header(io.BytesIO(data))
        check_size(header.size, settings)
        is_plain = header.name == "JPEG" and plain is not None and plain.is_simple
        views = _Views(header, settings, plan_all(header.size), is_adm=is_adm, is_plain=is_plain)
        with taking(views.needed_bytes(len(data))):
            decoded = _decode_fast(views, data) if is_plain else None
            if decoded is not None:
                return views.fit(*decoded)
            stored = decode_stored(header, data, settings, views.fraction)
            alpha = None if stored.alpha is None else turned(np.asarray(stored.alpha), header.orientation)
            # A copy: torch asks for memory that may be written
            return views.fit(np.array(stored.pixels), stored.notes, alpha)


class WaitingJpeg(NamedTuple):
    """A JPEG that waits for a device to decode it: its bytes, and what its header says, as in a `PlainJpeg`."""

    data: bytes
    size: tuple[int, int]
    orientation: int
    notes: tuple[str, ...]


def waiting_jpeg(data: bytes, settings: ReadSettings) -> WaitingJpeg | None:
    """Return a file's bytes as a JPEG that a device decodes; None: a CPU is to do it.

    Raises `UnreadableImageError` for one that is too large.
    """
    plain = read_plain_jpeg(io.BytesIO(data))
    if plain is None or not can_wait(plain, data):
        return None
    check_size(plain.size, settings)
    return WaitingJpeg(data, plain.size, plain.orientation, plain.notes)


@dataclass(frozen=True, slots=True)
class _Views:
    """Images that are to be made of one picture; `plans` have one `resized`. `is_plain`: it is a plain JPEG."""

    header: Header
    settings: ReadSettings
    plans: Sequence[Geometry]
    is_adm: bool
    is_plain: bool

    @property
    def fraction(self) -> int:
        """Part of its size at which it is decoded."""
        return _fraction(self.plans[0]) if self.is_plain and self.settings.jpeg_scaling else 1

    @property
    def decoded_size(self) -> tuple[int, int]:
        """(height, width) in px as it is decoded, before it is turned."""
        height, width = self.header.stored_size
        return -(-height // self.fraction), -(-width // self.fraction)

    def place(self, memory: np.ndarray | None) -> dict[str, Any]:
        """Say where a plain JPEG is decoded to: pixels that are resized need not last."""
        if all(plan.resized != plan.source for plan in self.plans):
            return {"is_passing": True}
        is_fitting = memory is not None and len(self.plans) == 1 and memory.shape == (*self.decoded_size, 3)
        return {"memory": memory.reshape(-1)} if is_fitting and memory is not None else {}

    def fit(self, pixels: np.ndarray, notes: tuple[str, ...], alpha: np.ndarray | None = None) -> list[LoadedPixels]:
        """Carry out the plans on decoded pixels [H,W,3]."""
        fit = adm_pixels if self.is_adm else partial(fit_pixels, fraction=self.fraction)
        orientation = self.header.orientation
        return [LoadedPixels(fit(pixels, plan, orientation), plan, notes, alpha) for plan in self.plans]

    def needed_bytes(self, file_bytes: int) -> int:
        """Estimate the memory in bytes that it takes at its peak."""
        plan = self.plans[0]
        resizing = adm_bytes(plan) if self.is_adm else _resizing_bytes(plan, self.fraction)
        held = file_bytes + 3 * sum(one.bucket[0] * one.bucket[1] for one in self.plans)
        return _needed_bytes(self.header, self.fraction, held + resizing, is_plain=self.is_plain)


def _resizing_bytes(plan: Geometry, fraction: int) -> int:
    """Return the memory in bytes that resizing takes: two copies of what it made of the rows."""
    return 0 if plan.resized == plan.source else 6 * plan.source[0] * plan.resized[1] // fraction


def _needed_bytes(header: Header, fraction: int, num_bytes: int, *, is_plain: bool) -> int:
    """Estimate the memory in bytes that an image takes at its peak: `num_bytes` for all but decoding it.

    Measured with 24 megapixels of each format: what decoding takes for a pixel.
    """
    height, width = header.size
    has_profile = header.image is not None and "icc_profile" in header.image.info
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


def _decode_fast(views: _Views, data: bytes) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Decode a plain JPEG as stored, to sRGB; also its notes. None if Pillow has to decode it."""
    pixels = decode_plain_jpeg(data, views.decoded_size, views.fraction, **views.place(None))
    if pixels is None:
        return None
    image, samples = open_pixels(views.header, data)
    converted, notes = samples_to_srgb(pixels, image.mode, samples)
    return converted, views.header.notes + notes
