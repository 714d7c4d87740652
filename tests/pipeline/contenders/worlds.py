"""Images as contenders are given them, and a tokenizer that counts."""

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from semdis_cli.events import Failure
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.contender import Contender, Version
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.records import FileDigest, Geometry, ImageRecord, LoadedImage
from semdis_cli.settings import TokenizerSettings

ON_CPU = TokenizerSettings(device="cpu", dtype="float32", batch_size=2)
PHOTO = Path(__file__).parents[2] / "photos"


class CountingTokenizer(Tokenizer):
    """Counts the images that are encoded."""

    num_encoded = 0

    def encode(self, images: Tensor, *others: object, **more: object) -> Tensor:
        """Encode, and count."""
        self.num_encoded += len(images)
        return super().encode(images, *others, **more)  # type: ignore[arg-type]


def load(folder: Path) -> CountingTokenizer:
    """Load a model."""
    tokenizer = CountingTokenizer.load(str(folder), ON_CPU)
    assert isinstance(tokenizer, CountingTokenizer)
    return tokenizer


def padded(pixels: NDArray[np.uint8], multiple_px: int) -> NDArray[np.uint8]:
    """Repeat the last row and column of [3,H,W] until both sides are multiples."""
    down, right = (-side % multiple_px for side in pixels.shape[1:])
    return np.pad(pixels, ((0, 0), (0, down), (0, right)), mode="edge")


def image_of(key: str, pixels: NDArray[np.uint8], multiple_px: int = 16) -> LoadedImage:
    """Return an image as it is read for a model of that patch size; `pixels` [3,H,W] uint8."""
    size, full = (pixels.shape[1], pixels.shape[2]), padded(pixels, multiple_px)
    geometry = Geometry(size, size, (0, 0), size, (full.shape[1], full.shape[2]))
    as_read = torch.from_numpy(np.ascontiguousarray(full.transpose(1, 2, 0))).permute(2, 0, 1)
    return LoadedImage(ImageRecord(key, geometry, FileDigest.of(pixels.tobytes())), as_read)


def noise(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return pixels [3,H,W] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8)


def photograph(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the corner of a photograph, [3,H,W]."""
    with Image.open(min(PHOTO.rglob("*.jpg"))) as photo:
        return np.asarray(photo.convert("RGB").crop((0, 0, size[1], size[0]))).transpose(2, 0, 1)


def opened(data: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a file as Pillow reads it, [3,H,W]."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def versions(contender: Contender, given: Given) -> list[Version]:
    """Return what comes back of images, all of which can be kept."""
    back = contender.reconstruct(given)
    assert not [one for one in back if isinstance(one, Failure)]
    return [one for one in back if isinstance(one, Version)]
