"""Which size an image gets: resize, crop and pad to a bucket, planned in whole numbers."""

from functools import lru_cache
from itertools import pairwise
from math import isqrt, lcm

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.records import Geometry
from semdis_cli.settings import GeometrySettings

BUCKET_STEP_PX = 64
MAX_BUCKET_ASPECT = 4  # long side to short side


def check_geometry(settings: GeometrySettings, multiple_px: int) -> None:
    """Raise `UsageError` if these settings do not go with sides that are multiples of `multiple_px`."""
    if settings.size is not None and settings.size % multiple_px:
        raise UsageError(f"--size must be a multiple of the model's patch of {multiple_px} px, not {settings.size}")
    step = lcm(BUCKET_STEP_PX, multiple_px)
    if settings.bucket_size is not None and settings.bucket_size % step:
        raise UsageError(f"--bucket-size must be a multiple of {step} px, not {settings.bucket_size}")


def fixed_bucket(settings: GeometrySettings, multiple_px: int) -> tuple[int, int] | None:
    """Return the bucket (H, W) in px that every image gets, or None if it depends on the image. Raises `UsageError`."""
    check_geometry(settings, multiple_px)
    return None if settings.size is None else (settings.size, settings.size)


def plan_geometry(source_size: tuple[int, int], settings: GeometrySettings, multiple_px: int) -> Geometry:
    """Plan the geometry of an upright image of `source_size` (H, W) px, in whole numbers: equal everywhere.

    The sides of its bucket are multiples of `multiple_px`. Where a centre crop cannot be exact, one row or column more
    is cut off at the bottom or right than at the other side. Raises `UsageError` if the settings do not go with
    `multiple_px`.
    """
    check_geometry(settings, multiple_px)
    if settings.size is not None:
        return _cover(source_size, (settings.size, settings.size))
    if settings.bucket_size is not None:
        return _cover(source_size, _nearest_bucket(source_size, settings.bucket_size, multiple_px))
    image = source_size if settings.max_pixels is None else _shrink(source_size, settings.max_pixels)
    bucket = (_round_up(image[0], multiple_px), _round_up(image[1], multiple_px))
    return Geometry(source=source_size, resized=image, crop=(0, 0), image=image, bucket=bucket)


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
    return tuple(sorted(buckets, key=lambda bucket: (bucket[0] / bucket[1], bucket)))


def undo_padding(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the part of `pixels` that is image, as a view: [3,H,W] or [H,W,3], (H, W) = `geometry.bucket`."""
    height, width = geometry.image
    if pixels.shape == (3, *geometry.bucket):
        return pixels[:, :height, :width]
    if pixels.shape == (*geometry.bucket, 3):
        return pixels[:height, :width]
    raise ValueError(f"pixels of shape {pixels.shape} do not fill the bucket {geometry.bucket}")


def mirror(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Return [...,H,W] with the image mirrored, left to right, and padded at the right as it was before."""
    image = pixels[..., : geometry.image[1]].flip(-1)
    padding = image[..., -1:].expand(*pixels.shape[:-1], pixels.shape[-1] - image.shape[-1])
    return torch.cat([image, padding], dim=-1)


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
    crop = ((resized[0] - box[0]) // 2, (resized[1] - box[1]) // 2)
    return Geometry(source=source, resized=resized, crop=crop, image=box, bucket=box)


def _nearest_bucket(source: tuple[int, int], bucket_size: int, multiple_px: int) -> tuple[int, int]:
    """Choose the bucket whose aspect ratio is nearest on a logarithmic scale: neighbours meet at their geometric mean.

    In whole numbers: H/W < sqrt(h1·h2 / (w1·w2)) is H²·w1·w2 < W²·h1·h2. On the boundary the taller one wins.
    """
    buckets = aspect_buckets(bucket_size, multiple_px)
    height, width = source
    for (h1, w1), (h2, w2) in pairwise(buckets):
        if height**2 * w1 * w2 < width**2 * h1 * h2:
            return h1, w1
    return buckets[-1]
