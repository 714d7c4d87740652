"""Reading the images of model calls: by the threads of a run, or by processes where an accelerator waits for them."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from semdis_cli.events import ColumnTrouble, Failure
from semdis_cli.images.geometry import mirror
from semdis_cli.images.loader import Loader
from semdis_cli.memory import Room
from semdis_cli.pipeline.workers import Timed, Workers, timed
from semdis_cli.records import LoadedImage, PlannedImage

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class LoadedCall:
    """The images of a model call that could be read, in order, why the others could not, and the seconds of both.

    `pixels`: of the images, uint8 [B,H,W,3], where they lie in one piece; None: in as many pieces as there are.
    """

    images: Sequence[LoadedImage]
    failures: Sequence[Failure] = ()
    read_s: float = 0.0
    pixels: Tensor | None = None

    @classmethod
    def of(cls, loaded: Iterable[Timed[LoadedImage | Failure]]) -> "LoadedCall":
        """Return what was read image by image."""
        outcomes = [*loaded]
        images = [one.value for one in outcomes if isinstance(one.value, LoadedImage)]
        failures = [one.value for one in outcomes if isinstance(one.value, Failure)]
        return cls(images, failures, sum(one.seconds for one in outcomes))

    @property
    def keys(self) -> list[str]:
        """Of the images."""
        return [image.record.key for image in self.images]

    @property
    def troubles(self) -> tuple[ColumnTrouble, ...]:
        """Those of the images' columns."""
        return tuple(trouble for image in self.images for trouble in image.troubles)

    def lasting(self) -> "LoadedCall":
        """Return the same, with pixels in memory of this process that last longer than the model call."""
        return self if self.pixels is None else self.lying_in(self.pixels.to("cpu", copy=True))

    def lying_in(self, pixels: Tensor) -> "LoadedCall":
        """Return the same, but that the images lie in `pixels`, in one piece."""
        rows = pixels.permute(0, 3, 1, 2).unbind()
        images = [replace(image, pixels=row) for image, row in zip(self.images, rows, strict=True)]
        return replace(self, images=images, pixels=pixels)

    def batch(self, *, are_mirrored: bool = False) -> Tensor:
        """uint8 [B,3,H,W], which lie as [B,H,W,3] in memory, as those of each image do: the other order takes long."""
        if self.pixels is not None and not are_mirrored:
            return self.pixels.permute(0, 3, 1, 2)
        pixels = [
            mirror(image.pixels, image.record.geometry) if are_mirrored else image.pixels for image in self.images
        ]
        return torch.stack([one.permute(1, 2, 0) for one in pixels]).permute(0, 3, 1, 2)


class Reading(Protocol):
    """Reads the images of model calls, several calls at once."""

    @property
    def room(self) -> Room:
        """Memory for images that are read in this process."""

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have `compute`, a model call, called with what reading `images`, all of one size, has given.

        Their pixels last until it returns.
        """

    def share(self, share_of_room: float) -> float:
        """Return the share that a call takes of what may be under way, of which it takes `share_of_room` in threads."""

    def report(self) -> dict[str, Any]:
        """Return what the closing report says of it."""


@dataclass(frozen=True)
class ThreadReading:
    """Reads in the threads of a run."""

    loader: Loader
    workers: Workers

    @property
    def room(self) -> Room:
        """Memory for images that are read."""
        return self.loader.room

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have a model call made, as `Reading` says."""

        def call(loaded: list[list[Timed[LoadedImage | Failure]]]) -> R:
            return compute(LoadedCall.of(chain.from_iterable(loaded)))

        self.loader.expect(images)
        return self.workers.submit_call(partial(read_views, self.loader), by_file(images), call)

    def share(self, share_of_room: float) -> float:
        """Return it as it is."""
        return share_of_room

    def report(self) -> dict[str, Any]:
        """Return nothing that the closing report would not say of a run anyway."""
        return {}


def by_file(images: Iterable[PlannedImage]) -> list[list[PlannedImage]]:
    """Group images that are views of one file; these follow one another."""
    return [list(views) for _, views in groupby(images, key=lambda image: image.source.file)]


def read_views(loader: Loader, images: Sequence[PlannedImage]) -> list[Timed[LoadedImage | Failure]]:
    """Read views of one file, with the seconds that each took."""
    loaded, seconds = timed(loader.load_views, images)
    return [Timed(image, seconds / len(images)) for image in loaded]
