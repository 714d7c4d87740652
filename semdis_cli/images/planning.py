"""Sizes of images as a run is planned: from headers that somebody reads, or fixed by the settings."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from semdis_cli.events import Failure, LeftOut, Planning, Tell
from semdis_cli.files.images import Images
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.records import PlannedImage, SourceImage, View
from semdis_cli.settings import FilterSettings

_PLANNED_AT_ONCE = 4096
_CHUNK = 64  # headers read by one call of a thread: less is all overhead

Planned = PlannedImage | Failure | LeftOut


class HeaderReader(Protocol):
    """Plans images by what their headers say."""

    def plan_each(self, filters: FilterSettings, some: Sequence[Sequence[SourceImage]]) -> Iterator[Sequence[Planned]]:
        """Plan images, some at a time, which are read beside one another; in order."""


def planned_by(
    reader: HeaderReader, sources: Sequence[SourceImage], tell: Tell, filters: FilterSettings
) -> Iterator[Planned]:
    """Yield what `reader` plans of each image, in order; `tell` hears how many were read."""
    num_read = 0
    for start in range(0, len(sources), _PLANNED_AT_ONCE):  # futures for a million files would not be small
        group = sources[start : start + _PLANNED_AT_ONCE]
        chunks = [group[first : first + _CHUNK] for first in range(0, len(group), _CHUNK)]
        for some in reader.plan_each(filters, chunks):
            num_read += len(some)
            tell(Planning("reading headers", num_read, len(sources)))
            yield from some


def of_fixed_size(images: Images, buckets: Mapping[View, tuple[int, int]]) -> PlannedImages:
    """Plan images of which each view has a bucket of its own, whatever size they are."""
    sizes = sorted({*buckets.values()})
    if len(sizes) == 1:
        return PlannedImages(images, sizes)
    codes = {view: sizes.index(bucket) for view, bucket in buckets.items()}
    return PlannedImages(images, sizes, array("I", (codes[image.view] for image in images)))
