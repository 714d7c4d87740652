"""A plan carried out on pixels that lie on a device: resized, cut, turned upright and padded there."""

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semdis_cli.images.formats.exif import turned_planes, upright_size
from semdis_cli.images.resize import LOBES, Axis, axes_of
from semdis_cli.records import Geometry

NAME = "float32 lanczos"
_MOST_KEPT = 64  # axes, 24 bytes for each pixel that is looked at
_MOST_WEIGHTS, _MOST_VALUES = 1 << 20, 1 << 25  # of a product of matrices: 4 and 128 MB


def fit_on_device(pixels: Tensor, geometry: Geometry, orientation: int = 1) -> Tensor:
    """Carry out a plan where the pixels lie: [3,H,W] uint8 as stored -> uint8, (H, W) = `geometry.bucket`.

    The same as `fit_pixels` gives, but for roundings: Lanczos, along rows first, then along columns, rounded to 8 bits
    after each, as products of float32 matrices. `ValueError` for pixels that have another size than the plan.
    """
    stored = upright_size(geometry.source, orientation)
    if tuple(pixels.shape) != (3, *stored):
        raise ValueError(f"{list(pixels.shape)} pixels, orientation {orientation}, do not fit {geometry}")
    rows, columns = axes_of(geometry, orientation)
    if rows.is_kept:
        fitted = _along_rows(pixels[:, rows.stretch], columns)
    else:  # what is cut off above and below is not resized along the rows either
        there = rows.reach(stored[0])
        fitted = _down_columns(_along_rows(pixels[:, there], columns), rows, there)
    return _padded(turned_planes(fitted, orientation), geometry.bucket)


def _along_rows(pixels: Tensor, axis: Axis) -> Tensor:
    if axis.is_kept:
        return pixels[:, :, axis.stretch]
    parts = _parts(axis, 3 * pixels.shape[1], slice(0, pixels.shape[2]), pixels.device)
    return torch.cat([_rounded(pixels[:, :, reach].float() @ weights.T) for weights, reach in parts], dim=2)


def _down_columns(pixels: Tensor, axis: Axis, there: slice) -> Tensor:
    """Resize [3,H,W] along its columns; `there`: which rows of the picture these are."""
    parts = _parts(axis, 3 * pixels.shape[2], there, pixels.device)
    return torch.cat([_rounded(weights @ pixels[:, reach].float()) for weights, reach in parts], dim=1)


def _parts(axis: Axis, num_lines: int, there: slice, device: torch.device) -> Iterator[tuple[Tensor, slice]]:
    """Yield the weights [positions, pixels] of parts of the stretch of `axis`, and which pixels these are.

    `there`: those that there are, each in `num_lines`. Nearly always it is one part; in several no product is of large
    matrices, whatever the picture.
    """
    taps = _taps(axis.extent, axis.resized)
    for start in range(axis.start, axis.start + axis.length, length := taps.most_positions(num_lines)):
        stretch = slice(start, min(start + length, axis.start + axis.length))
        weights, reach = taps.matrix(stretch, there, device)
        yield weights, slice(reach.start - there.start, reach.stop - there.start)


class _Taps(NamedTuple):
    """Weights of the pixels that each position of an axis is made of, [resized, taps] float32.

    `first`: number of the first of them, [resized]; those that lie outside of the picture weigh nothing. `step`: px
    from position to position.
    """

    weights: Tensor
    first: Tensor
    step: float

    def most_positions(self, num_lines: int) -> int:
        """Return how many positions at a time make no large matrix of weights, nor of the pixels of `num_lines`."""
        num_taps = self.weights.shape[1]
        of_weights = (sqrt(num_taps**2 + 4 * self.step * _MOST_WEIGHTS) - num_taps) / (2 * self.step)
        of_pixels = (_MOST_VALUES / num_lines - num_taps) / self.step
        return max(1, int(min(of_weights, of_pixels)))

    def matrix(self, stretch: slice, there: slice, device: torch.device) -> tuple[Tensor, slice]:
        """Return the weights of a stretch, [positions, pixels], and which pixels these are, of those that are there."""
        weights = self.weights[stretch]
        places = self.first[stretch, None] + torch.arange(weights.shape[1])
        reach = slice(max(there.start, int(places[0, 0])), min(there.stop, int(places[-1, -1]) + 1))
        places = places.clamp(reach.start, reach.stop - 1) - reach.start  # what weighs nothing may be added anywhere
        matrix = torch.zeros(len(weights), reach.stop - reach.start, device=device)
        return matrix.scatter_add_(1, places.to(device), weights.to(device)), reach


@lru_cache(maxsize=_MOST_KEPT)
def _taps(extent: float, resized: int) -> _Taps:
    """Return the weights of Lanczos, a = 3, over the coarser of both grids.

    What lies outside of the picture is left out, and the sum is 1.
    """
    step = extent / resized
    coarser = max(step, 1.0)
    centres = (np.arange(resized) + 0.5) * step
    first = np.floor(centres - LOBES * coarser).astype(np.int64)
    places = first[:, None] + np.arange(2 * ceil(LOBES * coarser) + 2)
    distances = (places + 0.5 - centres[:, None]) / coarser
    weights = np.sinc(distances) * np.sinc(distances / LOBES)
    weights[(np.abs(distances) >= LOBES) | (places < 0) | (places >= extent)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return _Taps(torch.from_numpy(weights.astype(np.float32)), torch.from_numpy(first), step)


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def _padded(pixels: Tensor, bucket: tuple[int, int]) -> Tensor:
    """Return [3,H,W] with the last row and column repeated up to `bucket`."""
    missing = bucket[0] - pixels.shape[1], bucket[1] - pixels.shape[2]
    for axis, number in ((1, missing[0]), (2, missing[1])):
        if number:
            pixels = torch.cat([pixels, pixels.narrow(axis, -1, 1).repeat_interleave(number, axis)], axis)
    return pixels
