"""The protocol of a contender, and what comes back from one."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from semdis_cli.events import Failure
from semdis_cli.pipeline.contenders.given import Given


class Version(NamedTuple):
    """An image as it came back: uint8 [3,H,W] sRGB without padding, and the bytes that were kept of it."""

    pixels: NDArray[np.uint8]
    num_bytes: int


class Contender(Protocol):
    """Keeps images and gives them back. Safe to use from several threads.

    `title`: a few words, unique among those that are compared.
    """

    @property
    def title(self) -> str:
        """Name it for a person."""

    def record(self) -> dict[str, Any]:
        """Return every setting that decides the pixels that come back, as plain JSON values."""

    def least_bytes(self, size: tuple[int, int], num_images: int) -> int:
        """Memory in bytes that images of `size` (H, W) cannot do without, beside their pixels and what comes back.

        On a GPU 0: what there is not enough memory for is tried, and told.
        """

    def reconstruct(self, given: Given) -> list[Version | Failure]:
        """Return what comes back of each image, in order; the reason where one cannot be kept so.

        Raises `UnreadableImageError` where the images are too large for the memory.
        """


class GridContender(Contender, Protocol):
    """Contender whose latents lie on a grid: it pads what does not fill `multiple_px` by repeating the last pixels."""

    @property
    def multiple_px(self) -> int:
        """Pixels of a position of the latents along each side."""
