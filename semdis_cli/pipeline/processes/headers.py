"""Processes that read headers while a run is planned: threads would take turns at the interpreter's lock for that.

A process is given some images by name, and sends back the size that each is to have, or why it has none.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from semdis_cli.events import Failure, LeftOut
from semdis_cli.images.loader import HeaderReader, Loader, Planned
from semdis_cli.pipeline.fleet.sending import ReceivedReaders, SentImage, SentReaders
from semdis_cli.pipeline.processes.shared import Processes, SharedMemory, or_threads, pays
from semdis_cli.records import ImageReader, PlannedImage, SourceImage
from semdis_cli.settings import FilterSettings, LoadSettings
from semdis_cli.stops import wait_for

_LEAST_IMAGES = 2048  # below, the processes take longer to start than threads to read
_Found = tuple[int, int] | Failure | LeftOut


class _Task(NamedTuple):
    """Images whose headers are to be read; `readers`: theirs, by number."""

    images: list[SentImage]
    readers: dict[int, ImageReader]
    filters: FilterSettings


@dataclass(frozen=True)
class _Setup:
    """All that a process needs to plan images as this one does, and what makes it plan."""

    settings: LoadSettings
    multiple_px: int

    def __call__(self, memory: SharedMemory) -> Callable[[_Task], list[_Found]]:
        """Return what reads headers; `memory` is not needed."""
        del memory
        return _Planner(Loader(self.settings, self.multiple_px, 1)).plan


# --- In a process that reads headers ---


class _Planner:
    """Plans images in a process of its own."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._readers = ReceivedReaders()

    def plan(self, task: _Task) -> list[_Found]:
        """Return the size that each image is to have, or why there is none."""
        self._readers.take(task.readers)
        found = self._loader.plan_some(task.filters, [self._readers.image(image) for image in task.images])
        return [one.bucket if isinstance(one, PlannedImage) else one for one in found]


# --- In the process that plans ---


class ProcessHeaders:
    """Reads headers in processes of their own; use as a context manager.

    Images that no other process can read are left to the threads of `loader`. Raises `OSError` where there is no
    process to be had.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._readers = SentReaders()
        setup = _Setup(loader.settings, loader.multiple_px)
        self._processes: Processes[_Task, list[_Found]] = Processes(loader.num_workers, 1, setup)

    def __enter__(self) -> "ProcessHeaders":
        self._processes.__enter__()
        return self

    def __exit__(self, *reasons: object) -> None:
        self._processes.__exit__(*reasons)

    def plan_each(self, filters: FilterSettings, some: Sequence[Sequence[SourceImage]]) -> Iterator[Sequence[Planned]]:
        """Plan images, some at a time, in order. Raises `KilledProcessError` where a process has died."""
        waiting = deque(self._begin(filters, images) for images in some)
        while waiting:
            yield waiting.popleft()()

    def _begin(self, filters: FilterSettings, images: Sequence[SourceImage]) -> Callable[[], Sequence[Planned]]:
        """Have images planned; return what waits for that."""
        if not all(map(self._can_send, images)):
            return partial(wait_for, self._loader.begin_to_plan(filters, images))
        named = [self._readers.image(image) for image in images]
        readers = self._readers.named({image.reader for image in named})
        return partial(_planned, images, self._processes.submit(_Task(named, readers, filters)))

    def _can_send(self, image: SourceImage) -> bool:
        """Tell whether a process reads an image; threads wait for a network as well."""
        return not image.reader.is_far and self._readers.number(image.reader) > 0


def _planned(images: Sequence[SourceImage], reading: "Future[list[_Found]]") -> Sequence[Planned]:
    found = wait_for(reading)
    return [
        PlannedImage(image, one) if isinstance(one, tuple) else one for image, one in zip(images, found, strict=True)
    ]


@contextmanager
def header_reading(loader: Loader, num_images: int, *, is_on_cpu: bool) -> Iterator[HeaderReader]:
    """Read so many headers by processes where that pays, beside an accelerator, else by threads."""
    if num_images < _LEAST_IMAGES or not pays(num_images, is_on_cpu=is_on_cpu):
        yield loader
        return
    threads: HeaderReader = loader
    with or_threads(threads, partial(ProcessHeaders, loader), "read") as (reader, _):  # it is said once images are read
        yield reader
