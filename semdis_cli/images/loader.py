"""Files -> pixels: which size each image gets, and the images themselves."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from copy import copy
from itertools import count, islice
from threading import Lock

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.files.identity import settled
from semdis_cli.images.geometry import fixed_bucket, plan_geometry
from semdis_cli.images.images import read_image_size
from semdis_cli.images.pixels import load_pixels
from semdis_cli.memory import Room, room_for_images
from semdis_cli.records import (
    ColumnMaker,
    FileDigest,
    ImageRecord,
    LoadedImage,
    MadeColumns,
    PlannedImage,
    SourceImage,
)
from semdis_cli.settings import LoadSettings
from semdis_cli.sources.files import read_bytes, try_hash
from semdis_cli.stops import looking
from semdis_cli.threads import WatchedThreads

_PLANNED_AT_ONCE = 4096
_CHUNK = 64  # headers read by one call of a thread: less is all overhead
_FAR_THREADS = 32  # that wait for a network: at 50 ms for an image, 600 images a second
_MOST_EXPECTED_BYTES = 256 << 20  # of files that were fetched and not asked for yet


class Loader:
    """Plans and hashes images with `num_workers` threads of its own; use as a context manager.

    `multiple_px`: what image sides become multiples of, the model's patch. `load` works in whichever thread calls it.
    `room`: for what reading takes at a time, all threads together; None: all that images may take in this process.
    `columns`: makes those of the images' records; None: they have none.
    """

    def __init__(
        self,
        settings: LoadSettings,
        multiple_px: int,
        num_workers: int,
        room: Room | None = None,
        columns: ColumnMaker | None = None,
    ) -> None:
        self.room = room_for_images() if room is None else room
        self.settings = settings
        self.multiple_px = multiple_px
        self.columns = columns
        self._num_workers = num_workers
        self._pool = WatchedThreads(num_workers, "semdis-read")
        self._far_pool = WatchedThreads(_FAR_THREADS, "semdis-far")  # begun when they are needed
        self._expected: dict[SourceImage, Future[bytes]] = {}
        self._expected_bytes, self._lock = 0, Lock()

    def __enter__(self) -> "Loader":
        self._pool.__enter__()
        self._far_pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._far_pool.__exit__(None, None, None)
        self._pool.__exit__(None, None, None)

    def with_columns(self, columns: ColumnMaker) -> "Loader":
        """Return the same loader, with the same threads, whose images get these columns."""
        loader = copy(self)
        loader.columns = columns
        return loader

    def plan(self, sources: Sequence[SourceImage], tell: Tell = untold) -> tuple[list[PlannedImage], list[Failure]]:
        """Plan the bucket of every source, in order; headers are read only where the settings leave the size open.

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
            for some in self._pool_for(group).each(self._plan_some, chunks):
                num_read += len(some)
                tell(Planning("reading headers", num_read, len(sources)))
                yield from some

    def load_all(self, images: Sequence[PlannedImage]) -> list[LoadedImage | Failure]:
        """Read images, in order, while the caller waits; all of them are held at a time."""
        return list(self._pool.each(self.load, images))

    def expect(self, images: Sequence[PlannedImage]) -> None:
        """Begin to fetch those of `images` that are far away, as `load` is going to be asked for them.

        What would be too much to hold is left to be fetched then.
        """
        for source in (image.source for image in images if image.source.reader.is_far):
            if self._expected_bytes + source.num_bytes <= _MOST_EXPECTED_BYTES:
                self._count(source.num_bytes)
                self._expected[source] = self._far_pool.submit(read_bytes, source)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._expected_bytes += num_bytes

    def _read(self, source: SourceImage) -> bytes:
        """Return the bytes of an image. Raises `OSError` and `UnreadableImageError`."""
        fetched = self._expected.pop(source, None)
        if fetched is None:
            return read_bytes(source)
        self._count(-source.num_bytes)
        return fetched.result()

    def _pool_for(self, sources: Sequence[SourceImage]) -> WatchedThreads:
        return self._far_pool if any(source.reader.is_far for source in sources) else self._pool

    def load(self, planned: PlannedImage) -> LoadedImage | Failure:
        """Read one image in the calling thread, or say why it cannot be used. Safe to call from several threads."""
        source = planned.source
        try:
            stamp = source.reader.stamp(source)  # before its bytes: a change between the two shows the next time
            data = self._read(source)
            how = self.settings
            image = load_pixels(data, how.read, how.geometry, self.multiple_px, self.room.reading)
            if image.geometry.bucket != planned.bucket:
                raise PassingReadError("changed its size while the run was going on; run again")
        except (UnreadableImageError, MemoryError, OSError) as error:
            return _failure_of(source, error)
        digest = FileDigest.of(data)
        columns, troubles = MadeColumns() if self.columns is None else self.columns.columns_of(source)
        record = ImageRecord(source.key, image.geometry, digest, image.notes, columns)
        _, mtime_ns, ctime_ns = settled(stamp, time.time_ns())
        return LoadedImage(record, image.pixels, mtime_ns, ctime_ns, troubles)

    def hashes(self, sources: Sequence[SourceImage], tell: Tell = untold) -> Iterator[str | None]:
        """Yield the sha256 (hex) of every source's bytes, in order; None where they cannot be read.

        `tell` hears how many were read.
        """
        remaining, num_done = iter(sources), count(1)
        while group := list(islice(remaining, _PLANNED_AT_ONCE)):
            for digest in self._pool_for(group).each(try_hash, group):
                tell(Planning("hashing files in doubt", next(num_done), len(sources)))
                yield digest

    def _plan_some(self, sources: Sequence[SourceImage]) -> list[PlannedImage | Failure]:
        return [self._plan_one(source) for source in looking(sources)]

    def _plan_one(self, source: SourceImage) -> PlannedImage | Failure:
        try:
            with source.reader.open(source) as file:
                size = read_image_size(file, self.settings.read)
            geometry = plan_geometry(size, self.settings.geometry, self.multiple_px)
        except (UnreadableImageError, MemoryError, OSError) as error:
            return _failure_of(source, error)
        return PlannedImage(source, geometry.bucket)


def _failure_of(source: SourceImage, error: UnreadableImageError | MemoryError | OSError) -> Failure:
    """Make a failure: with the file whose content is the reason, so that it is not tried again, unless it may pass."""
    if isinstance(error, MemoryError):
        return Failure(source.key, "not enough memory to read it")
    if isinstance(error, OSError):
        return Failure(source.key, f"cannot be read ({error.strerror or error})")
    if isinstance(error, PassingReadError):
        return Failure(source.key, str(error))
    return Failure(source.key, str(error), *settled(source.stamp, time.time_ns()))
