"""Which size an image gets: resize, crop and pad to a bucket, planned in whole numbers."""

from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from math import isqrt, lcm

import numpy as np

from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.images.adm import adm_sizes
from semdis_cli.records import Geometry
from semdis_cli.settings import FilterSettings, GeometrySettings

BUCKET_STEP_PX = 64
MAX_BUCKET_ASPECT = 4  # long side to short side
_MOST_ADM_PX = 178_956_970  # ADM resizes all before it cuts: as many as Pillow opens without a complaint


def check_geometry(settings: GeometrySettings, multiple_px: int) -> None:
    """Raise `UsageError` if these settings do not go with sides that are multiples of `multiple_px`."""
    for size in settings.sizes:
        if size % multiple_px:
            raise UsageError(f"--size must be a multiple of the model's patch of {multiple_px} px, not {size}")
    step = lcm(BUCKET_STEP_PX, multiple_px)
    if settings.bucket_size is not None and settings.bucket_size % step:
        raise UsageError(f"--bucket-size must be a multiple of {step} px, not {settings.bucket_size}")
    for height, width in settings.buckets:
        if height % multiple_px or width % multiple_px:
            what = f"sides that are multiples of the model's patch of {multiple_px} px, not {width}x{height}"
            raise UsageError(f"--bucket must have {what}")


def fixed_bucket(settings: GeometrySettings, multiple_px: int) -> tuple[int, int] | None:
    """Return the bucket (H, W) in px that every image gets, or None if it depends on the image. Raises `UsageError`."""
    check_geometry(settings, multiple_px)
    if len(set(settings.buckets)) == 1:
        return settings.buckets[0]
    size = _one_size(settings)
    return None if size is None else (size, size)


def plan_geometry(source_size: tuple[int, int], settings: GeometrySettings, multiple_px: int) -> Geometry:
    """Plan the geometry of an upright image of `source_size` (H, W) px, in whole numbers: equal everywhere.

    The sides of its bucket are multiples of `multiple_px`. Where a centre crop cannot be exact, one row or column more
    is cut off at the bottom or right than at the other side. Raises `UsageError` if the settings do not go with
    `multiple_px`, and `UnreadableImageError` for a shape that ADM's crop would enlarge beyond all measure.
    """
    check_geometry(settings, multiple_px)
    size = _one_size(settings)
    if size is not None and settings.resize == "adm":
        return _cut_centre(source_size, _check_adm(adm_sizes(source_size, size)[-1]), (size, size))
    if size is not None:
        return _cover(source_size, (size, size))
    if settings.bucket_size is not None:
        return _cover(source_size, _nearest_bucket(source_size, aspect_buckets(settings.bucket_size, multiple_px)))
    if settings.buckets:
        return _cover(source_size, _nearest_bucket(source_size, _by_aspect(settings.buckets)))
    image = source_size if settings.max_pixels is None else _shrink(source_size, settings.max_pixels)
    bucket = (_round_up(image[0], multiple_px), _round_up(image[1], multiple_px))
    return Geometry(source=source_size, resized=image, crop=(0, 0), image=image, bucket=bucket)


def move_crop(plan: Geometry, seed: int, key: str, number: int) -> Geometry:
    """Return the plan with its box at a random place, which `seed`, the file's `key` and the crop's number decide.

    All places are equally likely, up to 1 in 10^12, and the same on any machine. In other sizes it is the same part.
    """
    digest = sha256(f"{seed} {number} ".encode() + key.encode("utf-8", "surrogatepass")).digest()
    rooms = (resized - image for resized, image in zip(plan.resized, plan.image, strict=True))
    top, left = (int.from_bytes(digest[8 * i : 8 * i + 8]) * (room + 1) >> 64 for i, room in enumerate(rooms))
    return replace(plan, crop=(top, left))


def why_left_out(
    size: tuple[int, int], filters: FilterSettings, settings: GeometrySettings, multiple_px: int
) -> str | None:
    """Return the name of the first of `filters` that leaves out an image of `size` (H, W) px; None: it is taken."""
    short, long = sorted(size)
    if filters.min_size is not None and short < filters.min_size:
        return "min_size"
    if filters.max_aspect is not None and long > filters.max_aspect * short:
        return "max_aspect"
    if filters.no_upscale:
        height, width = plan_geometry(size, settings, multiple_px).resized
        return "no_upscale" if height > size[0] or width > size[1] else None
    return None


@lru_cache(maxsize=64)
def aspect_buckets(bucket_size: int, multiple_px: int) -> tuple[tuple[int, int], ...]:
    """List the buckets (H, W) in px for `bucket_size`, from the flattest to the tallest.

    For each long side L the short side is the largest multiple of the step with L·short <= bucket_size².
    """
    step = lcm(BUCKET_STEP_PX, multiple_px)
    buckets: set[tuple[int, int]] = set()
    for long in range(bucket_size, MAX_BUCKET_ASPECT * bucket_size, step):
        short = bucket_size**2 // long // step * step
        if short and long <= MAX_BUCKET_ASPECT * short:
            buckets |= {(long, short), (short, long)}
    return _by_aspect(tuple(buckets))


@lru_cache(maxsize=64)
def _by_aspect(buckets: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Sort buckets from the flattest to the tallest, those of one aspect ratio by size."""
    return tuple(sorted(set(buckets), key=lambda bucket: (bucket[0] / bucket[1], bucket)))


def undo_padding(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the part of `pixels` that is image, as a view: [3,H,W] or [H,W,3], (H, W) = `geometry.bucket`."""
    height, width = geometry.image
    if pixels.shape == (3, *geometry.bucket):
        return pixels[:, :height, :width]
    if pixels.shape == (*geometry.bucket, 3):
        return pixels[:height, :width]
    raise ValueError(f"pixels of shape {pixels.shape} do not fill the bucket {geometry.bucket}")


def _one_size(settings: GeometrySettings) -> int | None:
    if len(settings.sizes) > 1:
        raise UsageError(f"one --size at a time, not {settings.sizes}")
    return next(iter(settings.sizes), None)


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _round_ratio(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _shrink(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """Find the largest size of about this aspect ratio with at most `max_pixels`, no side below 1 or above its own."""
    if size[0] * size[1] <= max_pixels:
        return size
    short, long = sorted(size)
    new_long = min(isqrt(max_pixels * long // short), max_pixels)
    new_short = max(1, min(_round_ratio(short * new_long, long), max_pixels // new_long))
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def _cover(source: tuple[int, int], box: tuple[int, int]) -> Geometry:
    """Scale to the smallest size that covers `box`, up or down, and cut `box` out of the middle."""
    if box[0] * source[1] >= box[1] * source[0]:  # the height decides
        resized = (box[0], max(box[1], _round_ratio(source[1] * box[0], source[0])))
    else:
        resized = (max(box[0], _round_ratio(source[0] * box[1], source[1])), box[1])
    return _cut_centre(source, resized, box)


def _cut_centre(source: tuple[int, int], resized: tuple[int, int], box: tuple[int, int]) -> Geometry:
    crop = ((resized[0] - box[0]) // 2, (resized[1] - box[1]) // 2)
    return Geometry(source=source, resized=resized, crop=crop, image=box, bucket=box)


def _check_adm(resized: tuple[int, int]) -> tuple[int, int]:
    if resized[0] * resized[1] > _MOST_ADM_PX:
        raise UnreadableImageError(f"too long for --resize adm, which would make {resized[0]}x{resized[1]} px of it")
    return resized


def _nearest_bucket(source: tuple[int, int], buckets: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Choose the bucket whose aspect ratio is nearest on a logarithmic scale: neighbours meet at their geometric mean.

    In whole numbers: H/W < sqrt(h1·h2 / (w1·w2)) is H²·w1·w2 < W²·h1·h2. On the boundary the taller one wins. Of
    several with that ratio: the largest that `source` covers as it is, else the smallest. `buckets`: by `_by_aspect`.
    """
    height, width = source
    nearer = (one for one, (h2, w2) in pairwise(buckets) if height**2 * one[1] * w2 < width**2 * one[0] * h2)
    nearest = next(nearer, buckets[-1])
    alike = [bucket for bucket in buckets if bucket[0] * nearest[1] == bucket[1] * nearest[0]]
    covered = [bucket for bucket in alike if bucket[0] <= height and bucket[1] <= width]
    return covered[-1] if covered else alike[0]
