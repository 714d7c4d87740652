"""Processes that write images while an accelerator computes: whole calls of them.

The pixels of a call are copied into a slot of the memory that all share; a process makes the files of them and puts
these on disk. The process that feeds the device touches no file.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np

from semdis_cli.pipeline.images_out import NOTHING_WRITTEN, ImageWriter, Pictures, Writing, Written
from semdis_cli.pipeline.processes.shared import Processes, SharedMemory, or_threads, pays
from semdis_cli.pipeline.workers import Workers
from semdis_cli.settings import WriteSettings


class PictureSink(Protocol):
    """Writes the images of model calls, several calls at once."""

    def submit(self, images: Pictures, workers: Workers) -> Writing:
        """Have the images of a call written soon; to be called in the thread of that call."""


class _Task(NamedTuple):
    """Images that lie in a slot, one behind the other: the key, the name and the shape [3,H,W] of each."""

    slot: int
    images: list[tuple[str, PurePosixPath, tuple[int, ...]]]


@dataclass(frozen=True)
class _Setup:
    """All that a process needs to write images as this one does, and what makes it write."""

    root: Path
    settings: WriteSettings

    def __call__(self, memory: SharedMemory) -> Callable[[_Task], Written]:
        """Return what writes a call from `memory`."""
        return _Writer(memory, self).write


# --- In a process that writes ---


class _Writer:
    """Writes calls in a process of its own."""

    def __init__(self, memory: SharedMemory, setup: _Setup) -> None:
        self._memory = memory
        self._names: dict[str, PurePosixPath] = {}  # of the images of one call
        self._writer = ImageWriter(setup.root, self._names, setup.settings)

    def write(self, task: _Task) -> Written:
        """Write the images of a call. Raises `UsageError` and `NoSpaceError`."""
        self._names.clear()
        images: list[tuple[str, np.ndarray]] = []
        left = self._memory.flat(task.slot)
        for key, name, shape in task.images:
            num_bytes = int(np.prod(shape))
            self._names[key] = name
            images.append((key, left[:num_bytes].reshape(shape)))
            left = left[num_bytes:]
        return self._writer.write(images)


# --- In the process that feeds the device ---


class ProcessWriter:
    """Writes in processes of their own what `writer` would write in threads; use as a context manager.

    Calls that no slot holds are left to `writer`. Raises `OSError` where there is no memory or no process to be had.
    """

    def __init__(self, writer: ImageWriter, workers: Workers, call_bytes: int) -> None:
        self._writer = writer
        setup, sharing = _Setup(writer.root, writer.settings), workers.num_processes
        self._processes: Processes[_Task, Written] = Processes(workers.num_threads, call_bytes, setup, sharing)

    def __enter__(self) -> "ProcessWriter":
        self._processes.__enter__()
        return self

    def __exit__(self, *reasons: object) -> None:
        self._processes.__exit__(*reasons)

    def submit(self, images: Pictures, workers: Workers) -> Writing:
        """Have the images of a call written soon, as `ImageWriter.submit` does; waits for a slot.

        The result is `KilledProcessError` where a process has died.
        """
        if not images:
            return NOTHING_WRITTEN
        if sum(pixels.nbytes for _, pixels in images) > self._processes.memory.slot_bytes:
            return self._writer.submit(images, workers)
        slot = self._processes.take_slot()
        task = _Task(slot, [(key, self._writer.names[key], pixels.shape) for key, pixels in images])
        left = self._processes.memory.flat(slot)
        for _, pixels in images:
            left[: pixels.size].reshape(pixels.shape)[...] = pixels
            left = left[pixels.size :]
        writing = self._processes.submit(task)
        writing.add_done_callback(lambda _: self._processes.free_slot(slot))
        return writing


def writing_ahead(
    writer: ImageWriter, workers: Workers, num_images: int, call_bytes: int, *, is_on_cpu: bool
) -> AbstractContextManager[tuple[PictureSink, str]]:
    """Write by processes where that pays, beside an accelerator, else by threads; also a note where it cannot be.

    `num_images` that are to be written, `call_bytes` of the pixels of the largest call.
    """
    if not pays(num_images, is_on_cpu=is_on_cpu):
        return nullcontext((writer, ""))
    return or_threads(writer, lambda: ProcessWriter(writer, workers, call_bytes), "written")
