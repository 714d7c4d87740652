"""A plan carried out on pixels that lie on a device: resized, cut, turned upright and padded there."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from semdis_cli.images.formats.exif import turned_planes, upright_size
from semdis_cli.images.resize import LOBES, Axis, axes_of
from semdis_cli.records import Geometry

NAME = "float32 lanczos"
_MOST_KEPT = 64  # matrices of weights: of photographs of 6 megapixels 2 MB each


def fit_on_device(pixels: Tensor, geometry: Geometry, orientation: int = 1) -> Tensor:
    """Carry out a plan where the pixels lie: [3,H,W] uint8 as stored -> uint8, (H, W) = `geometry.bucket`.

    The same as `fit_pixels` gives, but for roundings: Lanczos, along rows first, then along columns, rounded to 8 bits
    after each, as products of float32 matrices. `ValueError` for pixels that have another size than the plan.
    """
    stored = upright_size(geometry.source, orientation)
    if tuple(pixels.shape) != (3, *stored):
        raise ValueError(f"{list(pixels.shape)} pixels, orientation {orientation}, do not fit {geometry}")
    rows, columns = axes_of(geometry, orientation)
    if not rows.is_kept:  # what is cut off above and below is not resized along the rows either
        reach = rows.reach(stored[0])
        narrow = _along_rows(pixels[:, reach], columns)
        return _padded(turned_planes(_down_columns(narrow, rows, reach), orientation), geometry.bucket)
    return _padded(turned_planes(_along_rows(pixels[:, rows.stretch], columns), orientation), geometry.bucket)


def _along_rows(pixels: Tensor, axis: Axis) -> Tensor:
    if axis.is_kept:
        return pixels[:, :, axis.stretch]
    reach = axis.reach(pixels.shape[2])
    weights = _weights(axis, reach.start, reach.stop, pixels.device)
    return _rounded(pixels[:, :, reach].float() @ weights.T)


def _down_columns(pixels: Tensor, axis: Axis, reach: slice) -> Tensor:
    """Resize [3,H,W] along its columns; `reach`: which rows of the picture these are."""
    return _rounded(_weights(axis, reach.start, reach.stop, pixels.device) @ pixels.float())


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=_MOST_KEPT)
def _weights(axis: Axis, first: int, last: int, device: torch.device) -> Tensor:
    """Return the weights of pixels `first` to `last` for each of the axis' stretch, [length, last - first] float32.

    Lanczos, a = 3, over the coarser of both grids, with what lies outside of the picture left out; the sum is 1.
    """
    step = axis.extent / axis.resized
    coarser = max(step, 1.0)
    centres = (np.arange(axis.start, axis.start + axis.length) + 0.5) * step
    distances = (np.arange(first, last) + 0.5 - centres[:, None]) / coarser
    weights = np.sinc(distances) * np.sinc(distances / LOBES)
    weights[np.abs(distances) >= LOBES] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


def _padded(pixels: Tensor, bucket: tuple[int, int]) -> Tensor:
    """Return [3,H,W] with the last row and column repeated up to `bucket`."""
    missing = bucket[0] - pixels.shape[1], bucket[1] - pixels.shape[2]
    for axis, number in ((1, missing[0]), (2, missing[1])):
        if number:
            pixels = torch.cat([pixels, pixels.narrow(axis, -1, 1).repeat_interleave(number, axis)], axis)
    return pixels
