"""The images to measure with: some of a folder, or made for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import make_folder
from semdis_cli.images.loader import Loader
from semdis_cli.images.synthetic import write_synthetic_jpegs
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.sources.find import FoundImages, find_images
from semdis_cli.stops import look, looking


@dataclass(frozen=True)
class Sample:
    """Images that can all be used; their files have just been read, so that they are in the system's cache.

    `num_unusable`: images of the folder that were passed over. `size`: (H, W) px of the one in the middle, by pixels.
    """

    found: FoundImages
    num_unusable: int
    num_bytes: int
    size: tuple[int, int]


def gather_images(data: Path | None, num_images: int, loader: Loader, folder: Path) -> Sample:
    """Take at most `num_images` from all over `data`, or write as many synthetic JPEGs into `folder`.

    Raises `UsageError` if no image of `data` can be used.
    """
    if data is None:
        make_folder(folder)
        write_synthetic_jpegs(folder, num_images)
    found = find_images([data or folder], tell=lambda _: look())
    chosen = spread_out(found.images, num_images)
    planned, failures = loader.plan(chosen)
    reasons = [failure.reason for failure in (*found.failures, *failures)]
    usable = []
    for image in looking(planned):
        outcome = loader.load(image)
        if isinstance(outcome, Failure):
            reasons.append(outcome.reason)
        else:
            usable.append(image)
    if not usable:
        raise UsageError(f"no image that can be used ({reasons[0] if reasons else 'none was found'})", place=data)
    return Sample(
        found=replace(found, images=tuple(image.source for image in usable), failures=(), passed_over={}),
        num_unusable=len(chosen) - len(usable),
        num_bytes=sum(image.source.num_bytes for image in usable),
        size=middle_size(usable),
    )


def spread_out(images: Sequence[SourceImage], count: int) -> list[SourceImage]:
    """Choose at most `count` of `images`, evenly from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[number * len(images) // count] for number in range(count)]


def middle_size(images: list[PlannedImage]) -> tuple[int, int]:
    """Return (H, W) px of the image that has as many larger as smaller ones beside it."""
    return sorted((image.bucket for image in images), key=lambda size: (size[0] * size[1], size))[len(images) // 2]


def repeated(found: FoundImages, times: int) -> FoundImages:
    """Repeat the images of `found` under keys that differ."""
    images = [replace(image, key=f"{number:04d}/{image.key}") for number in range(times) for image in found.images]
    return replace(found, images=tuple(images))
