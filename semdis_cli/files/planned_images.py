"""Images with the sizes that they are going to have, in a few bytes each."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import eq
from typing import overload

import numpy as np

from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import Images
from semdis_cli.records import PlannedImage

Bucket = tuple[int, int]  # (H, W) in px


class PlannedImages(Sequence[PlannedImage]):
    """Images and the bucket of each, made anew whenever they are asked for.

    `codes`: of each image the number of its bucket in `buckets`; None: all have the first one.
    """

    def __init__(self, images: Images, buckets: Sequence[Bucket], codes: "array[int] | None" = None) -> None:
        self.images = images
        self._buckets, self._codes = buckets, codes

    @classmethod
    def of(cls, planned: Iterable[PlannedImage]) -> "PlannedImages":
        """Return such images; what are such images already is returned as it is."""
        if isinstance(planned, PlannedImages):
            return planned
        images, numbers, codes = ImageList(), dict[Bucket, int](), array("I")
        for image in planned:
            images.append(image.source)
            codes.append(numbers.setdefault(image.bucket, len(numbers)))
        return cls(images, list(numbers), codes)

    def pick(self, places: Sequence[int]) -> "PlannedImages":
        """Return the images at those places."""
        codes = None if self._codes is None else array("I", map(self._codes.__getitem__, places))
        return PlannedImages(self.images.pick(places), self._buckets, codes)

    def by_bucket(self) -> Iterator[tuple[Bucket, Images]]:
        """Yield the images of each bucket, in their order; the smallest bucket first."""
        if self._codes is None:
            yield from [(self._buckets[0], self.images)] if self.images else []
            return
        codes = np.asarray(self._codes)
        order = np.argsort(codes, kind="stable").astype("I")
        ends = np.cumsum(np.bincount(codes, minlength=len(self._buckets))).tolist()
        places = dict(zip(self._buckets, zip([0, *ends], ends, strict=False), strict=True))
        for bucket, (start, end) in sorted(places.items()):
            if start < end:
                yield bucket, self.images.pick(array("I", order[start:end].tobytes()))

    def bucket(self, place: int) -> Bucket:
        """Return the bucket of an image, which is not made for it."""
        return self._buckets[0 if self._codes is None else self._codes[place]]

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> PlannedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedImage]: ...

    def __getitem__(self, index: int | slice) -> PlannedImage | list[PlannedImage]:
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            return [PlannedImage(image, self.bucket(at)) for at, image in zip(places, self.images[index], strict=True)]
        return PlannedImage(self.images[index], self.bucket(range(len(self))[index]))

    def __iter__(self) -> Iterator[PlannedImage]:
        return (PlannedImage(image, self.bucket(place)) for place, image in enumerate(self.images))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]
