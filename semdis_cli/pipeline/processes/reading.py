"""Processes that read images while an accelerator computes: whole calls of them.

A process decodes the images of a call into a slot of the memory that all share, one behind the other, and sends back
what is known of each: of the pixels nothing is copied, and the process that feeds the device touches calls, not images.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from semdis_cli.events import Failure
from semdis_cli.images.loader import Loader
from semdis_cli.images.masks import MaskMaker
from semdis_cli.memory import Room
from semdis_cli.pipeline.fleet.sending import ReceivedReaders, SentImage, SentReaders
from semdis_cli.pipeline.processes.shared import Processes, SharedMemory, or_threads, pays
from semdis_cli.pipeline.reading import LoadedCall, Reading, ThreadReading, by_file
from semdis_cli.pipeline.workers import Workers
from semdis_cli.records import (
    FileDigest,
    Geometry,
    ImageReader,
    ImageRecord,
    LoadedImage,
    PlannedImage,
    SourceImage,
)
from semdis_cli.settings import LoadSettings

R = TypeVar("R")
_CHANNELS = 3


class _Task(NamedTuple):
    """A call that a process is to read into a slot. `readers`: those of its images, by number."""

    slot: int
    bucket: tuple[int, int]
    images: list[SentImage]
    readers: dict[int, ImageReader]


class _Outcome(NamedTuple):
    """An image as it was read: number in its call, and what the record and `LoadedImage` say of it, in plain values."""

    number: int
    geometry: Geometry
    source: tuple[int, str]
    notes: tuple[str, ...]
    mask_sha256: str | None
    mtime_ns: int | None
    ctime_ns: int | None
    parts: dict[str, np.ndarray]


_Read = tuple[list["_Outcome | tuple[int, Failure]"], float]  # number and reason of a failure; seconds


@dataclass(frozen=True)
class _Setup:
    """All that a process needs to read images as this one does, and what makes it read."""

    settings: LoadSettings
    multiple_px: int
    room_bytes: int
    masks: MaskMaker | None

    def __call__(self, memory: SharedMemory) -> "Callable[[_Task], _Read]":
        """Return what reads a call into `memory`."""
        return _Reader(memory, self).read


# --- In a process that reads ---


class _Reader:
    """Reads calls in a process of its own."""

    def __init__(self, memory: SharedMemory, setup: _Setup) -> None:
        self._memory = memory
        self._loader = Loader(
            setup.settings, setup.multiple_px, 1, Room(setup.room_bytes), columns=None, masks=setup.masks
        )
        self._readers = ReceivedReaders()

    def read(self, task: _Task) -> _Read:
        """Read the images of a call, those that can be read one behind the other; also the seconds that it took."""
        started = time.perf_counter()
        self._readers.take(task.readers)
        rows = self._memory.rows(task.slot, task.bucket)
        outcomes: list[_Outcome | tuple[int, Failure]] = []
        num_read = 0
        for number, image in self._read(task, rows):
            if isinstance(image, Failure):
                outcomes.append((number, image))
                continue
            pixels = image.pixels.permute(1, 2, 0).numpy()
            if pixels.ctypes.data != rows[num_read].ctypes.data:
                rows[num_read] = pixels
            num_read += 1
            outcomes.append(_outcome(number, image))
        return outcomes, time.perf_counter() - started

    def _read(self, task: _Task, rows: np.ndarray) -> Iterator[tuple[int, LoadedImage | Failure]]:
        """Yield the outcome of each image; its pixels may lie in the first of `rows` that holds no image yet."""
        planned = [PlannedImage(self._readers.image(image), task.bucket) for image in task.images]
        number = num_read = 0
        for views in by_file(planned):
            for outcome in self._loader.load_views(views, rows[num_read]):
                yield number, outcome
                number += 1
                num_read += isinstance(outcome, LoadedImage)


def _outcome(number: int, image: LoadedImage) -> _Outcome:
    record, source = image.record, image.record.source
    facts = (source.num_bytes, source.sha256), record.notes, record.mask_sha256, image.mtime_ns, image.ctime_ns
    parts = {name: tensor.numpy() for name, tensor in image.parts.items()}  # torch would send them as files
    return _Outcome(number, record.geometry, *facts, parts)


# --- In the process that feeds the device ---


class ProcessReading:
    """Reads in processes of their own what `threads` would read; use as a context manager.

    Images that no other process can read are left to `threads`, and so are calls that no slot holds. Columns are made
    here: tables may be large. Raises `OSError` where there is no memory or no process to be had.
    """

    def __init__(self, threads: ThreadReading, num_processes: int, call_bytes: int) -> None:
        self._threads, self._loader, self._workers = threads, threads.loader, threads.workers
        self._readers = SentReaders()
        loader = self._loader
        setup = _Setup(loader.settings, loader.multiple_px, loader.room.total_bytes // num_processes, loader.masks)
        sharing = self._workers.num_processes
        self._processes: Processes[_Task, _Read] = Processes(num_processes, call_bytes, setup, sharing)

    def __enter__(self) -> "ProcessReading":
        self._processes.__enter__()
        return self

    def __exit__(self, *reasons: object) -> None:
        self._processes.__exit__(*reasons)

    @property
    def room(self) -> Room:
        """Memory for images that are read by threads."""
        return self._threads.room

    @property
    def decoded_on(self) -> None:
        """None: CPUs decode."""

    def share(self, images: Sequence[PlannedImage], share_of_room: float) -> float:
        """Return the share of a slot: a call that waits for its turn holds one."""
        del images, share_of_room
        return 1 / self._processes.num_slots

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have a model call made, as `Reading` says. Its result is `KilledProcessError` where a process has died."""
        height, width = images[0].bucket
        fits = _CHANNELS * len(images) * height * width <= self._processes.memory.slot_bytes
        if not fits or not all(map(self._can_send, images)):
            return self._threads.submit(images, compute)
        slot = self._processes.take_slot()
        reading = self._processes.submit(self._task(slot, images))

        def call() -> R:
            try:
                outcomes, read_s = self._workers.result(reading)
                return compute(self._loaded(slot, images, outcomes, read_s))
            finally:
                self._processes.free_slot(slot)

        return self._workers.submit_model(call)

    def _can_send(self, image: PlannedImage) -> bool:
        """Tell whether a process reads an image; threads wait for a network as well."""
        reader = image.source.reader
        return not reader.is_far and self._readers.number(reader) > 0

    def _task(self, slot: int, images: Sequence[PlannedImage]) -> _Task:
        named = [self._readers.image(image.source) for image in images]
        return _Task(slot, images[0].bucket, named, self._readers.named({image.reader for image in named}))

    def _loaded(
        self,
        slot: int,
        images: Sequence[PlannedImage],
        outcomes: Sequence[_Outcome | tuple[int, Failure]],
        read_s: float,
    ) -> LoadedCall:
        """Put together what a process has read."""
        read = [outcome for outcome in outcomes if isinstance(outcome, _Outcome)]
        failures = [outcome[1] for outcome in outcomes if not isinstance(outcome, _Outcome)]
        pixels = torch.from_numpy(self._processes.memory.rows(slot, images[0].bucket)[: len(read)])
        rows = pixels.permute(0, 3, 1, 2).unbind()
        loaded = [self._image(images[one.number].source, one, row) for one, row in zip(read, rows, strict=True)]
        return LoadedCall(loaded, failures, read_s, pixels)

    def _image(self, source: SourceImage, outcome: _Outcome, pixels: torch.Tensor) -> LoadedImage:
        columns, troubles = self._loader.columns_of(source)
        record = ImageRecord(
            source.key, outcome.geometry, FileDigest(*outcome.source), outcome.notes, columns, outcome.mask_sha256
        )
        parts = {name: torch.from_numpy(values) for name, values in outcome.parts.items()}
        return LoadedImage(record, pixels, outcome.mtime_ns, outcome.ctime_ns, troubles, parts)


def reading_ahead(
    loader: Loader, workers: Workers, num_images: int, call_bytes: int, *, is_on_cpu: bool
) -> AbstractContextManager[tuple[Reading, str]]:
    """Read by processes where that pays, beside an accelerator, else by threads; also a note where it cannot be.

    `num_images` that are to be read, `call_bytes` of the pixels of the largest call.
    """
    threads = ThreadReading(loader, workers)
    if not pays(num_images, is_on_cpu=is_on_cpu) or (loader.masks is not None and loader.masks.files is not None):
        return nullcontext((threads, ""))
    return or_threads(threads, lambda: ProcessReading(threads, workers.num_threads, call_bytes), "read")
