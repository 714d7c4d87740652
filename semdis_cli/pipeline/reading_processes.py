"""Processes that read images while an accelerator computes: whole calls of them, in memory that all processes share.

Threads would share one interpreter, whose lock is what a fast device waits for. A process decodes the images of a call
into a slot of the shared memory, one behind the other, and sends back what is known of each: of the pixels nothing is
copied, and this process touches calls, not images. The memory is no file: how large /dev/shm is does not matter.
"""

import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, reduction
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from semdis_cli.errors import DeadReaderError
from semdis_cli.events import Failure
from semdis_cli.images.loader import Loader
from semdis_cli.images.masks import MaskMaker
from semdis_cli.memory import Room, keep_freed_blocks
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
    Stamp,
    View,
)
from semdis_cli.settings import LoadSettings

R = TypeVar("R")
_CHANNELS = 3
_SPARE_SLOTS = 2  # beside two for each process: one it fills, one that waits for the model
_MOST_BYTES = 1 << 30  # of all slots
_LEAST_IMAGES = 256  # below, the processes take longer to start than to read
_KILLED = (
    "a process that reads images was killed, perhaps for its memory; what is encoded is kept: run the same command "
    "again, with fewer --workers"
)
_START_METHOD = "forkserver"  # a fork of this process would have its threads' locks, and a context of the device


class _Image(NamedTuple):
    """An image that a process is to read; `reader`: the number of its reader."""

    reader: int
    key: str
    place: Any
    stamp: Stamp
    view: View


class _Task(NamedTuple):
    """A call that a process is to read into a slot. `readers`: those of its images, by number."""

    slot: int
    bucket: tuple[int, int]
    images: list[_Image]
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


@dataclass(frozen=True)
class _Setup:
    """All that a process needs to read images as this one does."""

    settings: LoadSettings
    multiple_px: int
    room_bytes: int
    masks: MaskMaker | None


class SharedMemory:
    """Memory of `num_slots` slots, for this process and those to which it is sent when they start.

    Raises `OSError` where there is not as much, or the system has no such memory.
    """

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        self.num_slots, self.slot_bytes = num_slots, slot_bytes
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memory without a name")
        self._descriptor = os.memfd_create("semdis")
        try:
            os.posix_fallocate(self._descriptor, 0, num_slots * slot_bytes)  # now: later, who touches it is killed
            self._map()
        except OSError:
            os.close(self._descriptor)
            raise

    def _map(self) -> None:
        self._mapped = mmap.mmap(self._descriptor, self.num_slots * self.slot_bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process gets when it is started; at other times it cannot be sent."""
        shared = reduction.DupFd(self._descriptor)
        return {"num_slots": self.num_slots, "slot_bytes": self.slot_bytes, "descriptor": shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.num_slots, self.slot_bytes = state["num_slots"], state["slot_bytes"]
        self._descriptor = state["descriptor"].detach()
        self._map()

    def rows(self, slot: int, bucket: tuple[int, int]) -> np.ndarray:
        """Return a slot as pixels, uint8 [N,H,W,3] with as many images of size `bucket` (H, W) as go in."""
        row_bytes = _CHANNELS * bucket[0] * bucket[1]
        num_rows = self.slot_bytes // row_bytes
        flat = np.frombuffer(self._mapped, np.uint8, num_rows * row_bytes, slot * self.slot_bytes)
        return flat.reshape(num_rows, *bucket, _CHANNELS)

    def close(self) -> None:
        """Let go of it; what is mapped stays until nobody has a view of it."""
        os.close(self._descriptor)


# --- In a process that reads ---


class _Reader:
    """Reads calls in a process of its own."""

    def __init__(self, memory: SharedMemory, setup: _Setup) -> None:
        self._memory = memory
        self._loader = Loader(
            setup.settings, setup.multiple_px, 1, Room(setup.room_bytes), columns=None, masks=setup.masks
        )
        self._readers: dict[int, ImageReader] = {}

    def read(self, task: _Task) -> tuple[list[_Outcome | tuple[int, Failure]], float]:
        """Read the images of a call, those that can be read one behind the other; also the seconds that it took."""
        started = time.perf_counter()
        self._readers = task.readers | self._readers  # the first of each number stays: it may have a file open
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
        planned = [PlannedImage(self._source(image), task.bucket) for image in task.images]
        number = num_read = 0
        for views in by_file(planned):
            for outcome in self._loader.load_views(views, rows[num_read]):
                yield number, outcome
                number += 1
                num_read += isinstance(outcome, LoadedImage)

    def _source(self, image: _Image) -> SourceImage:
        return SourceImage(image.key, self._readers[image.reader], image.place, *image.stamp, image.view)


def _outcome(number: int, image: LoadedImage) -> _Outcome:
    record, source = image.record, image.record.source
    facts = (source.num_bytes, source.sha256), record.notes, record.mask_sha256, image.mtime_ns, image.ctime_ns
    parts = {name: tensor.numpy() for name, tensor in image.parts.items()}  # torch would send them as files
    return _Outcome(number, record.geometry, *facts, parts)


class _Process:
    """State of a process that reads."""

    reader: _Reader


def _begin(memory: SharedMemory, setup: _Setup) -> None:
    """Prepare a process: it ends when the one that started it ends or says so, and hears of no other signal.

    Batch systems and terminals send theirs to all processes; what is to be read still is known by one alone.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in the threads that are begun here, too
    for wait in (_wait_for_end_of_parent, _wait_for_word_of_parent):
        threading.Thread(target=_end_after, args=(wait,), daemon=True).start()
    keep_freed_blocks()
    torch.set_num_threads(1)
    _Process.reader = _Reader(memory, setup)


def _end_after(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)


def _wait_for_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was started by another process"
    parent.join()


def _wait_for_word_of_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass


def _read(task: _Task) -> tuple[list[_Outcome | tuple[int, Failure]], float]:
    return _Process.reader.read(task)


def _nothing() -> None:
    """Do nothing: a process starts for it."""


# --- In the process that feeds the device ---


def pays(num_images: int, *, is_on_cpu: bool) -> bool:
    """Tell whether processes are to read so many images: not on the cores that the model computes on."""
    return not is_on_cpu and num_images >= _LEAST_IMAGES and sys.platform == "linux"


def start_early() -> None:
    """Begin to load what processes that read need, in one from which they are forked: it takes as long as a model.

    Nothing happens the second time.
    """
    forkserver.set_forkserver_preload([__name__])
    forkserver.ensure_running()


class ProcessReading:
    """Reads in processes of their own what `threads` would read; use as a context manager.

    Images that no other process can read are left to `threads`, and so are calls that no slot holds. Columns are made
    here: tables may be large. Raises `OSError` where there is no memory or no process to be had.
    """

    def __init__(self, threads: ThreadReading, num_processes: int, call_bytes: int) -> None:
        self._threads, self._loader, self._workers = threads, threads.loader, threads.workers
        self._num_slots = 2 * num_processes + _SPARE_SLOTS
        self._memory = SharedMemory(self._num_slots, min(call_bytes, _MOST_BYTES // self._num_slots))
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(self._num_slots):
            self._free.put(slot)
        self._numbers: dict[int, int] = {}  # of readers, by their identity
        self._readers: dict[int, ImageReader] = {}  # by number, as they are sent
        loader = self._loader
        setup = _Setup(loader.settings, loader.multiple_px, loader.room.total_bytes // num_processes, loader.masks)
        start_early()
        context = multiprocessing.get_context(_START_METHOD)
        try:
            self._pool = ProcessPoolExecutor(num_processes, context, _begin, (self._memory, setup))
        except OSError:
            self._memory.close()
            raise

    def __enter__(self) -> "ProcessReading":
        for _ in range(self._num_slots):
            self._pool.submit(_nothing)  # so that all of them start now
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._memory.close()

    @property
    def room(self) -> Room:
        """Memory for images that are read by threads."""
        return self._threads.room

    def share(self, share_of_room: float) -> float:
        """Return the share of a slot: a call that waits for its turn holds one."""
        del share_of_room
        return 1 / self._num_slots

    def submit(self, images: Sequence[PlannedImage], compute: Callable[[LoadedCall], R]) -> "Future[R]":
        """Have a model call made, as `Reading` says. Its result is `DeadReaderError` where a process has died."""
        height, width = images[0].bucket
        fits = _CHANNELS * len(images) * height * width <= self._memory.slot_bytes
        if not fits or not all(self._number(image.source.reader) for image in images):
            return self._threads.submit(images, compute)
        slot = self._free.get()
        with _explained():
            reading = self._pool.submit(_read, self._task(slot, images))

        def call() -> R:
            try:
                with _explained():
                    outcomes, read_s = self._workers.result(reading)
                return compute(self._loaded(slot, images, outcomes, read_s))
            finally:
                self._free.put(slot)

        return self._workers.submit_model(call)

    def _task(self, slot: int, images: Sequence[PlannedImage]) -> _Task:
        sources = [image.source for image in images]
        named = [
            _Image(self._number(source.reader), source.key, source.place, source.stamp, source.view)
            for source in sources
        ]
        readers = {number: self._readers[number] for number in {image.reader for image in named}}
        return _Task(slot, images[0].bucket, named, readers)

    def _number(self, reader: ImageReader) -> int:
        """Return the number of a reader, from 1 on; 0 for one that no other process can have."""
        if id(reader) not in self._numbers:
            sent = reader.for_process()
            reduction.ForkingPickler.dumps(sent)  # a pool that finds out by itself may never end
            self._numbers[id(reader)] = 0 if sent is None else len(self._readers) + 1
            if sent is not None:
                self._readers[len(self._readers) + 1] = sent
        return self._numbers[id(reader)]

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
        pixels = torch.from_numpy(self._memory.rows(slot, images[0].bucket)[: len(read)])
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


@contextmanager
def _explained() -> Iterator[None]:
    """Say what a pool that broke means."""
    try:
        yield
    except BrokenProcessPool as error:
        raise DeadReaderError(_KILLED) from error


@contextmanager
def reading_ahead(
    loader: Loader, workers: Workers, num_images: int, call_bytes: int, *, is_on_cpu: bool
) -> Iterator[tuple[Reading, str]]:
    """Read by processes where that pays, beside an accelerator, else by threads; also a note where it cannot be.

    `num_images` that are to be read, `call_bytes` of the pixels of the largest call.
    """
    threads = ThreadReading(loader, workers)
    if not pays(num_images, is_on_cpu=is_on_cpu) or (loader.masks is not None and loader.masks.files is not None):
        yield threads, ""
        return
    try:
        processes = ProcessReading(threads, workers.num_threads, call_bytes)
    except OSError as error:
        yield threads, f"images are read by threads, not by processes ({error.strerror or error})"
        return
    with processes:
        yield processes, ""
