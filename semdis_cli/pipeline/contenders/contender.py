"""The protocol of a contender, and what comes back from one."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from semdis_cli.records import LoadedImage


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

    def reconstruct(self, images: Sequence[LoadedImage], budgets: Sequence[int]) -> list[Version | None]:
        """Return what comes back of `images`, all of one size, in order; None for one that it cannot keep.

        `budgets`: the bytes that the first contender has kept of each, for those that are to do with as many. Raises
        `UnreadableImageError` where the images are too large for the memory.
        """
