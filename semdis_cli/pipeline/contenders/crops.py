"""A contender that never sees more of an image than a tile: what training on crops sees, and the seams."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from semdis_cli.events import Failure
from semdis_cli.pipeline.contenders.contender import GridContender, Version
from semdis_cli.pipeline.contenders.given import Given


@dataclass(frozen=True)
class CroppedContender:
    """Cuts images into tiles of `side_px`, has `inner` code each by itself, and puts them together again.

    Tiles at the right and at the bottom are smaller where the image ends. Each draws its own noise.
    """

    title: str
    inner: GridContender
    side_px: int

    def record(self) -> dict[str, Any]:
        """Return the settings of `inner`, and the side of the tiles."""
        return self.inner.record() | {"crops_px": self.side_px}

    def least_bytes(self, size: tuple[int, int], num_images: int) -> int:
        """Memory in bytes that tiles of images of `size` (H, W) cannot do without."""
        height, width = (min(side, self.side_px) for side in size)
        num_tiles = -(-size[0] // self.side_px) * -(-size[1] // self.side_px)
        return self.inner.least_bytes((height, width), num_images * num_tiles)

    def reconstruct(self, given: Given) -> list[Version | Failure]:
        """Return what comes back of each image. Raises as `inner` does."""
        canvases = [np.empty((3, *image.record.geometry.image), dtype=np.uint8) for image in given.images]
        num_bytes = [0] * len(canvases)
        failures: dict[int, Failure] = {}
        for tiles in given.tiles(self.side_px, self.inner.multiple_px):
            for (row, top, left), back in zip(tiles.places, self.inner.reconstruct(tiles.given), strict=True):
                if isinstance(back, Failure):
                    failures[row] = Failure(given.images[row].record.key, back.reason)
                    continue
                _, height, width = back.pixels.shape
                canvases[row][:, top : top + height, left : left + width] = back.pixels
                num_bytes[row] += back.num_bytes
        return [failures.get(row) or Version(canvas, num_bytes[row]) for row, canvas in enumerate(canvases)]
