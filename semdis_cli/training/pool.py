"""Photographs held in memory as uint8, and random crops cut from them: what training reads from."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import Failure
from semdis_cli.images.images import read_image, read_image_size
from semdis_cli.memory import Room, room_for_images
from semdis_cli.records import SourceImage
from semdis_cli.settings import ReadSettings
from semdis_cli.sources.files import read_bytes
from semdis_cli.threads import WatchedThreads

_BYTES_PER_PX = 24  # that reading takes at its peak, measured: Pillow, whatever the format, and a copy
_READ_AT_ONCE = 64


def in_random_order(images: Sequence[SourceImage], seed: int) -> list[SourceImage]:
    """Shuffle `images` by a hash of `seed` and key: the place of an image does not depend on the others."""

    def rank(image: SourceImage) -> bytes:
        return hashlib.sha256(f"{seed}\0{image.key}".encode(errors="surrogatepass")).digest()

    return sorted(images, key=rank)


@dataclass(frozen=True, slots=True)
class ImagePool:
    """Whole images in memory: `keys`, and `images` uint8 [3,H,W] in the same order."""

    keys: list[str] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that the pixels take."""
        return sum(image.numel() for image in self.images)

    def add(self, key: str, image: Tensor) -> None:
        """Take one image."""
        self.keys.append(key)
        self.images.append(image)


@dataclass(frozen=True, slots=True)
class CropPlaces:
    """Places of crops: [count] each, int64 `image`, `top`, `left`, and bool `mirrored` (left to right)."""

    image: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor


def draw_places(shapes: Tensor, crop_px: int, count: int, generator: torch.Generator) -> CropPlaces:
    """Draw `count` crops of `crop_px` from images of `shapes` [N,2] (height, width), none shorter than a crop.

    Every pixel of every image is as likely to be in a crop as any other, but for those near an image's border; half of
    the crops are mirrored. `generator` is a CPU one, and alone decides.
    """
    draws = torch.rand(4, count, generator=generator, dtype=torch.float64)
    areas = shapes.prod(dim=1)
    share = areas.double().cumsum(0) / areas.sum()
    image = torch.searchsorted(share, draws[0], right=True).clamp_max(len(shapes) - 1)
    top, left = (draws[1:3] * (shapes[image].T - crop_px + 1)).long()
    return CropPlaces(image, top, left, draws[3] < 0.5)


class CropSampler:
    """Cuts random crops out of images in memory.

    `images`: uint8 [3,H,W] each, no side shorter than `crop_px`. They are copied to an accelerator, so that nothing has
    to travel while training.
    """

    def __init__(self, images: Sequence[Tensor], crop_px: int, device: torch.device) -> None:
        self._crop_px = crop_px
        self._shapes = torch.tensor([image.shape[1:] for image in images])
        self._images = images if device.type == "cpu" else packed(images, device)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` crops, uint8 [count,3,S,S] on the device."""
        return self.cut(draw_places(self._shapes, self._crop_px, count, generator))

    def cut(self, places: CropPlaces) -> Tensor:
        """Cut the crops at `places`, uint8 [count,3,S,S] on the device; nothing is copied but them."""
        side, crops = self._crop_px, []
        rows = zip(places.image.tolist(), places.top.tolist(), places.left.tolist(), strict=True)
        for (image, top, left), mirrored in zip(rows, places.mirrored.tolist(), strict=True):
            crop = self._images[image][:, top : top + side, left : left + side]
            crops.append(crop.flip(2) if mirrored else crop)
        return torch.stack(crops)


def packed(images: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy uint8 `images` [3,H,W] to `device`, one behind the other in one piece of its memory."""
    pixels = torch.empty(sum(image.numel() for image in images), dtype=torch.uint8, device=device)
    parts = pixels.split([image.numel() for image in images])
    return [part.view(image.shape).copy_(image) for part, image in zip(parts, images, strict=True)]


def read_all(
    images: Sequence[SourceImage], settings: ReadSettings, num_workers: int
) -> Iterator[tuple[SourceImage, Tensor | Failure]]:
    """Yield every image as uint8 [3,H,W], or why not, in the order given; `num_workers` threads read ahead a little."""
    remaining, room = iter(images), room_for_images()
    with WatchedThreads(num_workers, "semdis-read") as pool:
        while group := list(islice(remaining, _READ_AT_ONCE)):
            yield from zip(group, pool.each(lambda image: _read_one(image, settings, room), group), strict=True)


def _read_one(image: SourceImage, settings: ReadSettings, room: Room) -> Tensor | Failure:
    try:
        data = read_bytes(image)
        height, width = read_image_size(data, settings)
        with room.reading(len(data) + _BYTES_PER_PX * height * width):
            pixels = np.asarray(read_image(data, settings).pixels)
    except UnreadableImageError as error:
        return Failure(image.key, str(error))
    except OSError as error:
        return Failure(image.key, f"cannot be read ({error.strerror or error})")
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
