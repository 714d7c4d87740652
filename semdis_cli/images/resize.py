"""A plan carried out: decoded pixels, whichever way up they are stored, resized, cut, turned upright and padded."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from semdis_cli.images.formats.exif import turned, unturned_box, upright_size
from semdis_cli.records import Geometry
from semdis_cli.tensors import is_out_of_memory

LOBES = 3  # of the Lanczos kernel: how far it reaches, in px of the coarser of the two grids
_MOST_CUT = 8  # torch computes the whole axis first: a row of pixels enlarged to a square's side would take gigabytes
_PROBE_SIZES = ((7, 30), (30, 7), (64, 64))


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a resize: the stretch of `length` px from `start` on, of an axis of `resized` px.

    `extent`: px of the decoded pixels that are the picture. Those decoded at a fraction may have a part of one more.
    """

    extent: float
    resized: int
    start: int
    length: int

    @property
    def is_kept(self) -> bool:
        """Tell whether there is nothing to resize."""
        return self.extent == self.resized

    def reach(self, num_px: int) -> slice:
        """Return the decoded pixels, of `num_px`, on which the stretch depends; a few more do no harm."""
        step = self.extent / self.resized
        reach = 1 + LOBES * max(step, 1.0)
        first, last = (self.start + 0.5) * step - reach, (self.start + self.length - 0.5) * step + reach
        return slice(max(0, floor(first)), min(num_px, ceil(last)))

    @property
    def stretch(self) -> slice:
        """The stretch, of the resized axis."""
        return slice(self.start, self.start + self.length)


def fit_pixels(pixels: np.ndarray, geometry: Geometry, orientation: int = 1, fraction: int = 1) -> Tensor:
    """Carry out a plan: [3,H,W] uint8, of any strides, (H, W) = `geometry.bucket`.

    `pixels`: [H,W,3] uint8 sRGB, contiguous and writable, as stored in a file whose EXIF `orientation` is 1..8, and
    decoded at one `fraction`-th of the size; `ValueError` if they do not have the plan's. The result may share their
    memory.

    Resizing is antialiased Lanczos on sRGB values, along rows first, then along columns, rounded to 8 bits after each,
    by what `resize_name` says. Torch's is within 1 level of Pillow's along one axis and within 2 after both, where
    hardly one sample in 100 000 is off by 2; Pillow also does the few axes of which most is cut off. Turning comes
    last: it then costs next to nothing. A picture decoded at a fraction begins in the same corner; where its size is no
    multiple, the last pixel stands for a part of one, and the step from pixel to pixel is that of the exact size, so
    the crop stays where it was.
    """
    stored = upright_size(geometry.source, orientation)
    if pixels.shape != (*(-(-side // fraction) for side in stored), 3):
        raise ValueError(f"{pixels.shape} pixels, orientation {orientation}, at 1/{fraction} do not fit {geometry}")
    rows, columns = axes_of(geometry, orientation, fraction)
    return _padded(turned(_resized(pixels, rows, columns), orientation), geometry.bucket)


@lru_cache(maxsize=1)
def resize_name() -> str:
    """Name what resizes: `torch lanczos` where torch has it and agrees with Pillow, else `pillow lanczos`."""
    try:
        agrees = all(_agrees(size, dim) for size in _PROBE_SIZES for dim in (0, 1))
    except (NotImplementedError, RuntimeError, ValueError):  # as torch says it, release by release
        agrees = False
    return "torch lanczos" if agrees else "pillow lanczos"


def _agrees(size: tuple[int, int], dim: int) -> bool:
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    probe = np.stack([x * 37, y * 53, 255 * ((x + y) % 2)], axis=2).astype(np.uint8)
    axis = Axis(size[dim], 16, 0, 16)
    return bool(np.abs(_torch_pass(probe, axis, dim).astype(int) - _pillow_pass(probe, axis, dim)).max() <= 1)


def axes_of(geometry: Geometry, orientation: int, fraction: int = 1) -> tuple[Axis, Axis]:
    """Find what becomes of rows and columns of the stored picture."""
    source, resized, image = (
        upright_size(size, orientation) for size in (geometry.source, geometry.resized, geometry.image)
    )
    corner = unturned_box(geometry.crop, geometry.image, geometry.resized, orientation)
    rows, columns = (Axis(source[i] / fraction, resized[i], corner[i], image[i]) for i in (0, 1))
    return rows, columns


def _resized(pixels: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """Resize along both axes. What is cut off above and below is not resized along the rows either."""
    if rows.is_kept:
        return _one_axis(_cut(pixels, rows.stretch, 0), columns, 1)
    reach = rows.reach(len(pixels))
    narrow = _one_axis(pixels[reach], columns, 1)
    # Where the grid of a cut-off part begins is no whole pixel, mostly: the part goes back to its place.
    whole = np.zeros((len(pixels), *narrow.shape[1:]), np.uint8)
    whole[reach] = narrow
    return _one_axis(whole, rows, 0)


def _one_axis(pixels: np.ndarray, axis: Axis, dim: int) -> np.ndarray:
    if axis.is_kept:
        return _cut(pixels, axis.stretch, dim)
    if resize_name() == "torch lanczos" and axis.resized <= _MOST_CUT * axis.length:
        return _torch_pass(pixels, axis, dim)
    return _pillow_pass(pixels, axis, dim)


def _cut(pixels: np.ndarray, stretch: slice, dim: int) -> np.ndarray:
    """Cut the stretch along `dim`; if it is a part, as a copy: the rest need not stay in memory."""
    if stretch == slice(0, pixels.shape[dim]):
        return pixels
    return pixels[(slice(None),) * dim + (stretch,)].copy()


def _torch_pass(pixels: np.ndarray, axis: Axis, dim: int) -> np.ndarray:
    """Resize [H,W,3] along `dim`, by torch's integer kernels, and cut it."""
    height, width, channels = pixels.shape
    # These strides, also for sides of 1 px, where others would mean the same and end in kernels that fail.
    strides = (height * width * channels, 1, width * channels, channels)
    image = torch.from_numpy(np.ascontiguousarray(pixels)).as_strided((1, channels, height, width), strides)
    try:
        if axis.extent == pixels.shape[dim]:
            size = [height, width]
            size[dim] = axis.resized
            resized = functional.interpolate(image, size=size, mode="lanczos", antialias=True)
        else:
            steps = [1.0, 1.0]
            steps[dim] = axis.resized / axis.extent
            resized = functional.interpolate(image, scale_factor=steps, mode="lanczos", antialias=True)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise
    return _cut(resized[0].permute(1, 2, 0).numpy(), axis.stretch, dim)


def _pillow_pass(pixels: np.ndarray, axis: Axis, dim: int) -> np.ndarray:
    """Resize [H,W,3] along `dim`, by Pillow; what is cut off is not computed."""
    height, width, _ = pixels.shape
    # Multiplied before divided: where the stretch ends with the image, the quotient is exact.
    first, last = (place * axis.extent / axis.resized for place in (axis.start, axis.start + axis.length))
    size, box = (
        ((width, axis.length), (0, first, width, last))
        if dim == 0
        else ((axis.length, height), (first, 0, last, height))
    )
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, box=box))


def _padded(pixels: np.ndarray, bucket: tuple[int, int]) -> Tensor:
    """Return [H,W,3] as [3,H,W], the last row and column repeated up to `bucket`."""
    height, width, _ = pixels.shape
    if (height, width) != bucket:
        image, pixels = pixels, np.empty((*bucket, 3), np.uint8)
        pixels[:height, :width] = image
        pixels[height:, :width] = image[-1]
        pixels[:, width:] = pixels[:, width - 1 : width]
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
