"""Files -> pixels: which size each image gets, and the images themselves."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from typing import BinaryIO

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.images.geometry import fixed_bucket, plan_geometry
from semdis_cli.images.images import read_image_size
from semdis_cli.images.pixels import load_pixels
from semdis_cli.memory import Room, room_for_images
from semdis_cli.records import (
    FileDigest,
    ImageBatch,
    ImageRecord,
    LoadedImage,
    PlannedImage,
    SourceImage,
    settled_mtime,
)
from semdis_cli.settings import LoadSettings
from semdis_cli.sources.source_bytes import hash_source, open_source, read_source
from semdis_cli.stops import look

_PLANNED_AT_ONCE = 4096
_CHUNK = 64  # headers read by one call of a thread: less is all overhead
_GROUP_PIXELS = 1 << 27  # of loaded images held at a time: 0.4 GB


class Loader:
    """Plans and hashes images with `num_workers` threads of its own; use as a context manager.

    `multiple_px`: what image sides become multiples of, the model's patch. `load` works in whichever thread calls it.
    `room`: for what reading takes at a time, all threads together; None: all that images may take in this process.
    """

    def __init__(self, settings: LoadSettings, multiple_px: int, num_workers: int, room: Room | None = None) -> None:
        self.room = room_for_images() if room is None else room
        self.settings = settings
        self.multiple_px = multiple_px
        self._num_workers = num_workers
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="semdis-read")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def plan(self, sources: Sequence[SourceImage], tell: Tell = untold) -> tuple[list[PlannedImage], list[Failure]]:
        """The bucket of every source, in order; headers are read only where the settings leave the size open.

        `tell` hears how many were read.
        """
        bucket = fixed_bucket(self.settings.geometry, self.multiple_px)
        if bucket is not None:
            return [PlannedImage(source, bucket) for source in sources], []
        planned: list[PlannedImage] = []
        failures: list[Failure] = []
        shared: dict[tuple[int, int], tuple[int, int]] = {}  # a million images have a few sizes
        for found in self._headers(sources, tell):
            if isinstance(found, PlannedImage):
                planned.append(PlannedImage(found.source, shared.setdefault(found.bucket, found.bucket)))
            else:
                failures.append(found)
        return planned, failures

    def _headers(self, sources: Sequence[SourceImage], tell: Tell) -> Iterator[PlannedImage | Failure]:
        num_read = 0
        for start in range(0, len(sources), _PLANNED_AT_ONCE):  # futures for a million files would not be small
            group = sources[start : start + _PLANNED_AT_ONCE]
            chunks = [group[first : first + _CHUNK] for first in range(0, len(group), _CHUNK)]
            for some in self._pool.map(self._plan_some, chunks):
                num_read += len(some)
                look()
                tell(Planning("reading headers", num_read, len(sources)))
                yield from some

    def batches(self, images: Sequence[PlannedImage], batch_size: int) -> Iterator[ImageBatch]:
        """Batches of up to `batch_size` images of one bucket, in the order given, failures among them set apart.

        A few images are read at a time, while the caller waits.
        """
        if not images:
            return
        height, width = images[0].bucket
        wanted = min(4 * self._num_workers, _GROUP_PIXELS // (height * width))
        group_size = max(1, wanted // batch_size) * batch_size
        remaining = iter(images)
        while group := list(islice(remaining, group_size)):
            started = time.perf_counter()
            loaded = list(self._pool.map(self.load, group))
            yield from _cut(loaded, batch_size, time.perf_counter() - started)

    def load(self, planned: PlannedImage) -> LoadedImage | Failure:
        """One image, read in the calling thread, or why it cannot be used. Safe to call from several threads."""
        source = planned.source
        try:
            with open_source(source) as file:
                mtime_ns, ctime_ns = _times_of(source, file)
                data = read_source(file, source)
            read, geometry = self.settings.read, self.settings.geometry
            image = load_pixels(data, read, geometry, self.multiple_px, self.room.reading)
            if image.geometry.bucket != planned.bucket:
                raise PassingReadError("changed its size while the run was going on; run again")
        except (UnreadableImageError, MemoryError, OSError) as error:
            return _failure_of(source, error)
        digest = FileDigest(len(data), hashlib.sha256(data).hexdigest())
        record = ImageRecord(source.key, image.geometry, digest, image.notes)
        return LoadedImage(record, image.pixels, mtime_ns, ctime_ns)

    def hashes(self, sources: Sequence[SourceImage], tell: Tell = untold) -> Iterator[str | None]:
        """The sha256 (hex) of every source's bytes, in order; None where they cannot be read.

        `tell` hears how many were read.
        """
        remaining, num_done = iter(sources), count(1)
        while group := list(islice(remaining, _PLANNED_AT_ONCE)):
            for digest in self._pool.map(hash_source, group):
                look()
                tell(Planning("hashing files in doubt", next(num_done), len(sources)))
                yield digest

    def _plan_some(self, sources: Sequence[SourceImage]) -> list[PlannedImage | Failure]:
        return [self._plan_one(source) for source in sources]

    def _plan_one(self, source: SourceImage) -> PlannedImage | Failure:
        try:
            with open_source(source) as file:
                size = read_image_size(file, self.settings.read)
            geometry = plan_geometry(size, self.settings.geometry, self.multiple_px)
        except (UnreadableImageError, MemoryError, OSError) as error:
            return _failure_of(source, error)
        return PlannedImage(source, geometry.bucket)


def _times_of(source: SourceImage, file: BinaryIO) -> tuple[int | None, int | None]:
    """Return what to note of the times of an image that was opened."""
    if source.offset is not None and source.mtime_ns is None:  # from stdin: the times of its copy say nothing
        return None, None
    status = os.fstat(file.fileno())
    return settled_mtime(status.st_mtime_ns, status.st_ctime_ns, time.time_ns()), status.st_ctime_ns


def _failure_of(source: SourceImage, error: UnreadableImageError | MemoryError | OSError) -> Failure:
    """A failure with the file whose content is the reason, so that it is not tried again; without if it may pass."""
    if isinstance(error, MemoryError):
        return Failure(source.key, "not enough memory to read it")
    if isinstance(error, OSError):
        return Failure(source.key, f"cannot be read ({error.strerror or error})")
    if isinstance(error, PassingReadError):
        return Failure(source.key, str(error))
    mtime_ns = settled_mtime(source.mtime_ns, source.ctime_ns, time.time_ns())
    return Failure(source.key, str(error), source.num_bytes, mtime_ns, source.ctime_ns)


def _cut(loaded: list[LoadedImage | Failure], batch_size: int, read_s: float) -> Iterator[ImageBatch]:
    """One group into batches; the group's reading time goes to its first batch."""
    for start in range(0, len(loaded), batch_size):
        part = loaded[start : start + batch_size]
        yield ImageBatch(
            images=tuple(image for image in part if isinstance(image, LoadedImage)),
            failures=tuple(failure for failure in part if isinstance(failure, Failure)),
            read_s=0.0 if start else read_s,
        )
