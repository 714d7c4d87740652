"""The images of a model call as contenders are given them: what several make of them in the same way is made once."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from semdis_cli.records import Geometry, LoadedImage

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Given:
    """`images`, all of one size, and their `budgets`: the bytes that the first contender has kept of each.

    Within tiles there are no budgets. It belongs to one model call, in one thread, and so does what is made of it.
    """

    images: Sequence[LoadedImage]
    budgets: Sequence[int] = ()
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` has made under this key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def padded(self, multiple_px: int) -> Sequence[LoadedImage]:
        """Return the images, each with the last row and column repeated as far as a model needs it, and no farther."""
        return self.once(("padded", multiple_px), lambda: [_pad(image, multiple_px) for image in self.images])

    def tiles(self, side_px: int, multiple_px: int) -> "Sequence[Tiles]":
        """Cut the images into tiles of `side_px` or, at the right and the bottom, of what is left.

        Tiles that have one size once they are padded are in one group.
        """
        return self.once(("tiles", side_px, multiple_px), lambda: _cut(self.images, side_px, multiple_px))


class Place(NamedTuple):
    """The place of a tile: in the image of number `row`, with its corner at `top`, `left` px."""

    row: int
    top: int
    left: int


class Tiles(NamedTuple):
    """Tiles of one size, and the place of each."""

    given: Given
    places: Sequence[Place]


def _pad(image: LoadedImage, multiple_px: int) -> LoadedImage:
    geometry = image.record.geometry
    bucket = _bucket(geometry.image, multiple_px)
    if bucket == geometry.bucket:
        return image
    rows, columns = (torch.arange(side).clamp_(max=last - 1) for side, last in zip(bucket, geometry.image, strict=True))
    pixels = image.pixels[:, rows][:, :, columns]
    return replace(image, record=replace(image.record, geometry=replace(geometry, bucket=bucket)), pixels=pixels)


def _cut(images: Sequence[LoadedImage], side_px: int, multiple_px: int) -> list[Tiles]:
    groups: dict[tuple[int, int], tuple[list[LoadedImage], list[Place]]] = {}
    for row, image in enumerate(images):
        for top, left, pixels in _tiles_of(image, side_px):
            tiles, places = groups.setdefault(_bucket(pixels.shape[1:], multiple_px), ([], []))
            tiles.append(_as_image(image, top, left, pixels))
            places.append(Place(row, top, left))
    return [Tiles(Given(tiles), places) for tiles, places in groups.values()]


def _tiles_of(image: LoadedImage, side_px: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the corner and the pixels of each tile of an image, without its padding."""
    height, width = image.record.geometry.image
    for top in range(0, height, side_px):
        for left in range(0, width, side_px):
            yield top, left, image.pixels[:, top : min(top + side_px, height), left : min(left + side_px, width)]


def _as_image(image: LoadedImage, top: int, left: int, pixels: Tensor) -> LoadedImage:
    """Return a tile as an image with a key of its own, from which its noise is drawn."""
    size = (pixels.shape[1], pixels.shape[2])
    record = replace(
        image.record, key=f"{image.record.key} {top},{left}", geometry=Geometry(size, size, (0, 0), size, size)
    )
    return LoadedImage(record, pixels)


def _bucket(size: Sequence[int], multiple_px: int) -> tuple[int, int]:
    """Return the size (H, W) in px of an image that is padded."""
    height, width = (-(-side // multiple_px) * multiple_px for side in size)
    return height, width
