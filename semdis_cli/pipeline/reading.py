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


@dataclass(frozen=True, slots=True)
class DecodedOn:
    """Images that were decoded beside a device that decodes: by it, by a CPU, and how close some are to a CPU's."""

    devices: tuple[str, ...]
    decoder: str
    by_device: int = 0
    by_cpu: int = 0
    closeness_db: tuple[float, ...] = ()

    def plus(self, by_device: int = 0, by_cpu: int = 0, closeness_db: tuple[float, ...] = ()) -> "DecodedOn":
        """Return the same with more images."""
        closeness = self.closeness_db + closeness_db
        return replace(self, by_device=self.by_device + by_device, by_cpu=self.by_cpu + by_cpu, closeness_db=closeness)


def beside(one: DecodedOn | None, other: DecodedOn | None) -> DecodedOn | None:
    """Return what two processes have decoded together."""
    if one is None or other is None:
        return one or other
    both = one.plus(other.by_device, other.by_cpu, other.closeness_db)
    return replace(both, devices=tuple(sorted({*one.devices, *other.devices})))


def decoding_report(decoded: DecodedOn | None) -> dict[str, Any]:
    """Return what the closing report says of who decoded; nothing where CPUs did."""
    if decoded is None:
        return {}
    found = decoded.closeness_db
    closeness = {"mean": sum(found) / len(found), "min": min(found), "num_images": len(found)} if found else None
    record = {"devices": [*decoded.devices], "decoder": decoded.decoder, "psnr_db_to_cpu": closeness}
    return {"decode_on": record | {"images_by_device": decoded.by_device, "images_by_cpu": decoded.by_cpu}}


class Reading(Protocol):
    """Reads the images of model calls, several calls at once."""

    @property
    def room(self) -> Room:
        """Memory for images that are read in this process."""

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have `compute`, a model call, called with what reading `images`, all of one size, has given.

        Their pixels last until it returns.
        """

    def share(self, images: Sequence[PlannedImage], share_of_room: float) -> float:
        """Return the share that a call takes of what may be under way, of which it takes `share_of_room` in threads."""

    @property
    def decoded_on(self) -> "DecodedOn | None":
        """Images by who has decoded them; None where no device is to decode."""


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

    @property
    def decoded_on(self) -> None:
        """None: CPUs decode."""

    def share(self, images: Sequence[PlannedImage], share_of_room: float) -> float:
        """Return it as it is."""
        del images
        return share_of_room


def by_file(images: Iterable[PlannedImage]) -> list[list[PlannedImage]]:
    """Group images that are views of one file; these follow one another."""
    return [list(views) for _, views in groupby(images, key=lambda image: image.source.file)]


def read_views(loader: Loader, images: Sequence[PlannedImage]) -> list[Timed[LoadedImage | Failure]]:
    """Read views of one file, with the seconds that each took."""
    loaded, seconds = timed(loader.load_views, images)
    return [Timed(image, seconds / len(images)) for image in loaded]
