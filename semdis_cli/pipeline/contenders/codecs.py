"""Image files as contenders: JPEG and WebP, of one quality or of as many bytes as the first contender has kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdis_cli.events import Failure
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.images import LONGEST_SIDES, read_image, write_image
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.records import LoadedImage
from semdis_cli.settings import ImageFormat, ReadSettings

_BEST = 100
_SAMPLING: dict[ImageFormat, str] = {
    "jpg": "4:4:4 from quality 90 on, 4:2:0 below",
    "webp": "lossless at quality 100, 4:2:0 below",
}


@dataclass(frozen=True)
class CodecContender:
    """Files as `decode` writes them. `quality` None: of each image the best whose file is within its budget.

    Where that is too small for any quality, it is the least, and the file is larger.
    """

    title: str
    format: ImageFormat
    quality: int | None

    def record(self) -> dict[str, Any]:
        """Return the format, the quality and whose encoder it is."""
        return {
            "codec": self.format,
            "quality": self.quality or "the best within the bytes of the first contender",
            "sampling": _SAMPLING[self.format],
            "pillow": version("pillow"),
        }

    def least_bytes(self, size: tuple[int, int], num_images: int) -> int:  # noqa: ARG002 # one at a time
        """Memory in bytes of an image as the encoder and the decoder have it."""
        return 2 * 3 * size[0] * size[1]

    def reconstruct(self, given: Given) -> list[Version | Failure]:
        """Return what comes back of each image."""
        budgets = given.budgets if self.quality is None else [0] * len(given.images)
        return [self._version(image, budget) for image, budget in zip(given.images, budgets, strict=True)]

    def _version(self, image: LoadedImage, budget: int) -> Version | Failure:
        pixels = undo_padding(image.pixels.numpy(), image.record.geometry)
        longest = LONGEST_SIDES[self.format]
        if max(pixels.shape) > longest:
            return Failure(image.record.key, f"{self.format} files hold at most {longest} px a side")
        write = partial(write_image, pixels.transpose(1, 2, 0), self.format)
        data = best_within(write, budget) if self.quality is None else write(self.quality)
        return Version(_read(data, pixels[0].size), len(data))


def best_within(write: Callable[[int], bytes], most_bytes: int) -> bytes:
    """Return the file of the highest quality in 1..100 that has at most `most_bytes`; if there is none, that of 1.

    By bisection, which takes files to grow with their quality: at most 8 are written, and one where the best fits.
    """
    data = write(_BEST)
    fits, too_good = 0, _BEST
    if len(data) <= most_bytes:
        return data
    best = data
    while too_good - fits > 1:
        quality = (fits + too_good) // 2
        data = write(quality)
        if len(data) <= most_bytes:
            fits, best = quality, data
        else:
            too_good, best = quality, best if fits else data
    return best


def _read(data: bytes, num_pixels: int) -> NDArray[np.uint8]:
    """Return the pixels of a file, [3,H,W], which may be written to."""
    picture = read_image(data, ReadSettings(max_image_pixels=num_pixels)).pixels
    return np.array(np.asarray(picture).transpose(2, 0, 1), order="C")
