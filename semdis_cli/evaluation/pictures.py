"""Kinds of pictures of latents, and the legend of each: what the values of pixels mean in a whole set."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.evaluation.legends import channel_legend, pca_legend
from semdis_cli.evaluation.pca import HIGH, LOW, BasisFit, LatentBasis
from semdis_cli.images.geometry import undo_padding
from semdis_cli.records import Geometry

CHANNELS_ACROSS = 16
_CELL_PX = 64  # of a channel, about
_EDGE = 96  # between channels: of what is grey


class PictureKind(Protocol):
    """Maker of pictures of one kind."""

    @property
    def name(self) -> str:
        """Name of the kind in records."""

    def draw(self, latents: Tensor, geometry: Geometry, scale: int | None) -> NDArray[np.uint8]:
        """Return the picture [3,H,W] of the latents [Z,h,w] of an image."""

    def legend(self) -> dict[str, Any]:
        """Return what the values of pixels mean, as plain values."""

    def legend_picture(self) -> str:
        """Return the same to look at, an SVG."""


@dataclass(frozen=True, eq=False)
class PcaPictures:
    """Pictures of principal components: as large as the image, or `scale` px a position."""

    basis: LatentBasis
    name = "pca"

    def draw(self, latents: Tensor, geometry: Geometry, scale: int | None) -> NDArray[np.uint8]:
        """Return the picture of an image."""
        colours = self.basis.picture(latents)
        if scale is not None:
            return enlarge(colours, scale)
        return undo_padding(enlarge(colours, geometry.bucket[0] // latents.shape[1]), geometry)

    def legend(self) -> dict[str, Any]:
        """Return the basis."""
        return self.basis.to_json()

    def legend_picture(self) -> str:
        """Return which colour is which component, and how much all of them explain."""
        return pca_legend(self.basis)


@dataclass(frozen=True, eq=False)
class ChannelPictures:
    """Pictures of all channels, from left to right and top to bottom; `low` [Z] is black, `high` [Z] white."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    name = "channels"

    @classmethod
    def of(cls, fit: BasisFit) -> "ChannelPictures":
        """Take the 1st and 99th percentile of each channel."""
        low, high = fit.sample.percentiles(LOW, HIGH)
        return cls(low, high)

    def draw(self, latents: Tensor, geometry: Geometry, scale: int | None) -> NDArray[np.uint8]:  # noqa: ARG002
        """Return the picture of an image: a row for each 16 channels, an edge of 1 px between two."""
        Z, h, w = latents.shape
        side = scale or max(1, _CELL_PX // max(h, w))
        across = min(CHANNELS_ACROSS, Z)
        down, height, width = -(-Z // across), h * side + 1, w * side + 1
        picture = np.full((down * height - 1, across * width - 1), _EDGE, np.uint8)
        for number, grey in enumerate(enlarge(self._greys(latents), side)):
            top, left = number // across * height, number % across * width
            picture[top : top + h * side, left : left + w * side] = grey
        return np.broadcast_to(picture, (3, *picture.shape))

    def _greys(self, latents: Tensor) -> NDArray[np.uint8]:
        """Return latents as grey values; what does not vary is in the middle."""
        span = (self.high - self.low)[:, None, None]
        values = latents.double().numpy() - self.low[:, None, None]
        scaled = np.where(span > 0, 255 * values / np.where(span > 0, span, 1.0), 128.0)
        return scaled.round().clip(0, 255).astype(np.uint8)

    def legend(self) -> dict[str, Any]:
        """Return what is black and white in each channel."""
        ranges = {"percentiles": [LOW, HIGH], "low": self.low.tolist(), "high": self.high.tolist()}
        return {"channels_across": min(CHANNELS_ACROSS, len(self.low)), **ranges}

    def legend_picture(self) -> str:
        """Return which channel is where, and its range."""
        return channel_legend(self.low, self.high, min(CHANNELS_ACROSS, len(self.low)))


def enlarge(planes: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return planes [N,h,w] with `side` x `side` equal pixels for each."""
    return planes.repeat(side, 1).repeat(side, 2)
