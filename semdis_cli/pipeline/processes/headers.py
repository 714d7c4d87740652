"""Processes that read headers while a run is planned: threads would take turns at the interpreter's lock for that.

A process is given some images by name, and sends back the size that each is to have, or why it has none.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from semdis_cli.events import Failure, LeftOut
from semdis_cli.images.loader import Loader
from semdis_cli.images.planning import HeaderReader, Planned
from semdis_cli.pipeline.fleet.sending import ReceivedReaders, SentImage, SentReaders
from semdis_cli.pipeline.processes.shared import Processes, SharedMemory, pays
from semdis_cli.records import ImageReader, PlannedImage, SourceImage
from semdis_cli.settings import FilterSettings, LoadSettings
from semdis_cli.stops import wait_for

_LEAST_IMAGES = 2048  # below, the processes take longer to start than threads to read
_FLAG = 0  # slot of the memory, whose only byte says whether to stop
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
        """Return what reads headers, unless `memory` says that nobody wants them any more."""
        return _Planner(Loader(self.settings, self.multiple_px, 1), memory.flat(_FLAG)).plan


# --- In a process that reads headers ---


class _Planner:
    """Plans images in a process of its own."""

    def __init__(self, loader: Loader, flag: np.ndarray) -> None:
        self._loader, self._flag = loader, flag
        self._readers = ReceivedReaders()

    def plan(self, task: _Task) -> list[_Found]:
        """Return the size that each image is to have, or why there is none."""
        self._readers.take(task.readers)
        found = self._loader.plan_some(task.filters, self._images(task))
        return [one.bucket if isinstance(one, PlannedImage) else one for one in found]

    def _images(self, task: _Task) -> Iterator[SourceImage]:
        for image in task.images:
            if self._flag[0]:
                raise CancelledError
            yield self._readers.image(image)


# --- In the process that plans ---


class ProcessHeaders:
    """Reads headers in processes of their own, which begin with the first that they can read; use as a context manager.

    The others are left to the threads of `loader`; all of them where there is no process to be had.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._readers = SentReaders()
        self._leaving = ExitStack()
        self._begun: Processes[_Task, list[_Found]] | None = None
        self._has_none = False

    def __enter__(self) -> "ProcessHeaders":
        return self

    def __exit__(self, *reasons: object) -> None:
        if self._begun is not None:
            self._begun.memory.flat(_FLAG)[0] = 1
        self._leaving.close()

    def plan_each(self, filters: FilterSettings, some: Sequence[Sequence[SourceImage]]) -> Iterator[Sequence[Planned]]:
        """Plan images, some at a time, in order. Raises `KilledProcessError` where a process has died."""
        waiting = deque(self._begin(filters, images) for images in some)
        while waiting:
            yield waiting.popleft()()

    def _begin(self, filters: FilterSettings, images: Sequence[SourceImage]) -> Callable[[], Sequence[Planned]]:
        """Have images planned; return what waits for that."""
        processes = self._processes if all(map(self._can_send, images)) else None
        if processes is None:
            return partial(wait_for, self._loader.begin_to_plan(filters, images))
        named = [self._readers.image(image) for image in images]
        readers = self._readers.named({image.reader for image in named})
        return partial(_planned, images, processes.submit(_Task(named, readers, filters)))

    @property
    def _processes(self) -> Processes[_Task, list[_Found]] | None:
        """The processes, begun when they are asked for; None where there are none to be had."""
        if self._begun is None and not self._has_none:
            setup = _Setup(self._loader.settings, self._loader.multiple_px)
            try:
                self._begun = self._leaving.enter_context(Processes(self._loader.num_workers, 1, setup))
            except (EOFError, OSError):  # it is said once images are read
                self._has_none = True
        return self._begun

    def _can_send(self, image: SourceImage) -> bool:
        """Tell whether a process reads an image; threads wait for a network as well."""
        return not image.reader.is_far and self._readers.number(image.reader) > 0


def _planned(images: Sequence[SourceImage], reading: "Future[list[_Found]]") -> Sequence[Planned]:
    found = wait_for(reading)
    return [
        PlannedImage(image, one) if isinstance(one, tuple) else one for image, one in zip(images, found, strict=True)
    ]


def header_reading(loader: Loader, num_images: int, *, is_on_cpu: bool) -> AbstractContextManager[HeaderReader]:
    """Read so many headers by processes where that pays, beside an accelerator, else by threads."""
    is_worth_it = num_images >= _LEAST_IMAGES and pays(num_images, is_on_cpu=is_on_cpu)
    return ProcessHeaders(loader) if is_worth_it else nullcontext(loader)
