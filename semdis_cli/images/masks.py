"""Masks: how much of each latent position counts in training, the average over the pixels of its patch."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.images.formats.pillow import pillow_guard
from semdis_cli.images.headers import read_header
from semdis_cli.images.images import check_size, read_grey
from semdis_cli.parts import MASK, MASK_FLIP
from semdis_cli.records import FileDigest, Geometry, SourceImage
from semdis_cli.settings import ReadSettings
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.masks import MaskFiles, MaskNames

_WHITE = 255
_BYTES_PER_PX = 12.5  # at the peak of decoding, as measured of PNG


class Weights(NamedTuple):
    """Shares of the pixels of an upright picture that count, uint8 [H,W], and sha256 and name of the file that says so.

    None, None: there is no file, so all of it counts.
    """

    values: np.ndarray | None = None
    sha256: str | None = None
    name: str = ""


@dataclass(frozen=True)
class MaskMaker:
    """Makes the `parts` of images that are masks: from their alpha, or from `files` beside them."""

    parts: tuple[str, ...]
    files: MaskFiles | None = None

    def read(
        self, image: SourceImage, settings: ReadSettings, taking: Callable[[int], AbstractContextManager[None]]
    ) -> Weights | None:
        """Read the file that is the mask of an image; None: its alpha is. Without such a file all of it counts.

        `taking` as of `load_pixels`. Raises `UnreadableImageError`.
        """
        if self.files is None:
            return None
        mask = self.files.of(image)
        if mask is None:
            return Weights()
        try:
            data = read_bytes(mask)
            return Weights(_read_values(data, settings, taking), FileDigest.of(data).sha256, mask.key)
        except OSError as error:
            raise PassingReadError(f"its mask {mask.key} cannot be read ({error.strerror or error})") from error
        except UnreadableImageError as error:
            raise type(error)(f"its mask {mask.key}: {error}") from error

    def found_by(self, names: MaskNames) -> "MaskMaker":
        """Return the same, of images whose files are found by `names`."""
        return self if self.files is None else replace(self, files=self.files.found_by(names))

    def make(
        self, weights: Weights | None, alpha: np.ndarray | None, geometry: Geometry, patch_px: int
    ) -> Mapping[str, Tensor]:
        """Return the masks of an image by name, [1,h,w] float32 each; `weights`: what `read` gave.

        Raises `UnreadableImageError` for a file of another shape than the image.
        """
        values = alpha if weights is None else weights.values
        if weights is not None and values is not None:
            _check_shape(values.shape, geometry.source, weights.name)
        return {name: grid_mask(values, geometry, patch_px, is_mirrored=name == MASK_FLIP) for name in self.parts}


def masks_made(parts: Sequence[str], files: MaskFiles | None) -> MaskMaker | None:
    """Return what makes the masks among `parts`; None if there are none."""
    masks = tuple(name for name in parts if name in {MASK, MASK_FLIP})
    return MaskMaker(masks, files) if masks else None


def grid_mask(values: np.ndarray | None, geometry: Geometry, patch_px: int, *, is_mirrored: bool = False) -> Tensor:
    """Average what counts of pixels over each patch: [H,W] 0..255 -> [1,h,w] float32 in [0,1]; None: all counts.

    `values` are of the upright picture, of any size: they are stretched over `geometry.resized`, cut and padded as the
    pixels are. The average is that of the area: exact, where a resampled picture would ring. Padding counts 0.
    `is_mirrored`: of the picture that is mirrored within its box, as `mirror` does it.
    """
    if values is None:
        return _without_padding(geometry, patch_px)
    rows = _cells(geometry, 0, values.shape[0], patch_px)
    columns = _cells(geometry, 1, values.shape[1], patch_px, is_mirrored=is_mirrored)
    means = _means(_means(values, rows).T, columns).T / _WHITE
    return torch.from_numpy(np.ascontiguousarray(means, np.float32))[None]


def _without_padding(geometry: Geometry, patch_px: int) -> Tensor:
    shares = [
        (image - torch.arange(0, bucket, patch_px)).clamp(0, patch_px) / patch_px
        for image, bucket in zip(geometry.image, geometry.bucket, strict=True)
    ]
    return torch.outer(*shares)[None]


class _Cells(NamedTuple):
    """Stretches of an axis of values, one a position of the grid, in values; `whole`: length of one without padding."""

    stretches: list[tuple[float, float]]
    whole: float


def _cells(geometry: Geometry, axis: int, num_values: int, patch_px: int, *, is_mirrored: bool = False) -> _Cells:
    resized, start, image = geometry.resized[axis], geometry.crop[axis], geometry.image[axis]
    edges = [min(edge, image) for edge in range(0, geometry.bucket[axis] + 1, patch_px)]
    if is_mirrored:
        edges = [image - edge for edge in edges]
    # Multiplied before divided: where the box ends with the picture, the quotient is exact.
    places = [(start + edge) * num_values / resized for edge in edges]
    stretches = [(min(pair), max(pair)) for pair in pairwise(places)]
    return _Cells(stretches, patch_px * num_values / resized)


def _means(values: np.ndarray, cells: _Cells) -> np.ndarray:
    """Average [N,M] along the first axis: float64 [cells,M]."""
    means = np.zeros((len(cells.stretches), values.shape[1]))
    for mean, (start, stop) in zip(means, cells.stretches, strict=True):
        first, last = floor(start), ceil(stop)
        places = np.arange(first, last)
        covered = np.minimum(places + 1, stop) - np.maximum(places, start)
        np.einsum("i,ij->j", covered, values[first:last], out=mean)  # converts as it goes, whatever a cell covers
    return means / cells.whole


def _read_values(
    data: bytes, settings: ReadSettings, taking: Callable[[int], AbstractContextManager[None]]
) -> np.ndarray:
    with pillow_guard(settings.max_image_pixels):
        header = read_header(io.BytesIO(data))
        check_size(header.size, settings)
        with taking(len(data) + int(_BYTES_PER_PX * header.size[0] * header.size[1])):
            return read_grey(header, data)


def _check_shape(size: tuple[int, ...], source: tuple[int, int], name: str) -> None:
    """Raise `UnreadableImageError` unless one side follows from the other as in the image, up to a pixel."""
    height, width = size
    if abs(height * source[1] - width * source[0]) > max(source):
        what = f"has {width}x{height} px, another shape than the {source[1]}x{source[0]} px of the image"
        raise UnreadableImageError(f"its mask {name} {what}")
