"""Files -> pixels: which size each image gets, and the images themselves."""

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from itertools import count, islice
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.events import Failure, LeftOut, Planning, Tell, untold
from semdis_cli.files.identity import settled
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.images.geometry import fixed_bucket, move_crop, plan_geometry, why_left_out
from semdis_cli.images.images import read_image_size
from semdis_cli.images.masks import MaskMaker, Weights
from semdis_cli.images.pixels import LoadedPixels, WaitingJpeg, load_views, waiting_jpeg
from semdis_cli.images.planning import HeaderReader, Planned, of_fixed_size, planned_by
from semdis_cli.memory import Room, room_for_images
from semdis_cli.records import (
    WHOLE,
    ColumnMaker,
    FileDigest,
    Geometry,
    ImageRecord,
    LoadedImage,
    MadeColumns,
    PlannedImage,
    SourceImage,
    Stamp,
    UndecodedImage,
    View,
    content_of,
)
from semdis_cli.settings import FilterSettings, LoadSettings
from semdis_cli.sources.files import read_bytes, try_hash
from semdis_cli.sources.masks import MaskFiles
from semdis_cli.stops import looking
from semdis_cli.threads import WatchedThreads, unless_stopped

_HASHED_AT_ONCE = 4096
_TAKE_ALL = FilterSettings()
_NO_COLUMNS = MadeColumns()
_MOST_PLANS = 4096  # kept, of sizes of files
_FAR_THREADS = 32  # that wait for a network: at 50 ms for an image, 600 images a second
_NOT_THERE = torch.empty(3, 0, 0, dtype=torch.uint8)
_MOST_EXPECTED_BYTES = 256 << 20  # of files that were fetched and not asked for yet


class Chosen(NamedTuple):
    """Sources that are to be encoded, that cannot be used, and that filters leave out, each in their order."""

    images: PlannedImages
    failures: list[Failure]
    left_out: list[LeftOut]


class Loader:
    """Plans and hashes images with `num_workers` threads of its own; use as a context manager.

    `multiple_px`: what image sides become multiples of, the model's patch. `load` works in whichever thread calls it.
    `room`: for what reading takes at a time, all threads together; None: all that images may take in this process.
    `columns`: makes those of the images' records; None: they have none. `masks`: makes what is stored of which pixels
    count; None: nothing is.
    """

    def __init__(
        self,
        settings: LoadSettings,
        multiple_px: int,
        num_workers: int,
        room: Room | None = None,
        columns: ColumnMaker | None = None,
        masks: MaskMaker | None = None,
    ) -> None:
        self.room = room_for_images() if room is None else room
        self.settings = settings
        self.multiple_px = multiple_px
        self.columns = columns
        self.masks = masks
        self._geometries = {view: settings.geometry_of(view) for view in (WHOLE, *settings.views)}
        self._first_size = settings.views[0].size
        self._plans: dict[tuple[tuple[int, int], View], Geometry] = {}
        self.num_workers = num_workers
        self.header_reading: HeaderReading = _by_threads
        self._pool = WatchedThreads(num_workers, "semdis-read")
        self._far_pool = WatchedThreads(_FAR_THREADS, "semdis-far")  # begun when they are needed
        self._expected: dict[object, Future[bytes]] = {}  # by files: views of one share its bytes
        self._expected_bytes, self._lock = 0, Lock()

    def __enter__(self) -> "Loader":
        self._pool.__enter__()
        self._far_pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._far_pool.__exit__(None, None, None)
        self._pool.__exit__(None, None, None)

    def reading_headers_by(self, reading: "HeaderReading") -> "Loader":
        """Return the same loader, with the same threads, of which `reading` has so many headers read while it plans."""
        loader = copy(self)
        loader.header_reading = reading
        return loader

    def with_columns(self, columns: ColumnMaker) -> "Loader":
        """Return the same loader, with the same threads, whose images get these columns."""
        loader = copy(self)
        loader.columns = columns
        return loader

    def plan(self, sources: Sequence[SourceImage], tell: Tell = untold) -> tuple[PlannedImages, list[Failure]]:
        """Plan the bucket of every source, in order; headers are read only where the settings leave the size open.

        `tell` hears how many were read.
        """
        chosen = self.choose(sources, _TAKE_ALL, tell)
        return chosen.images, chosen.failures

    def choose(self, sources: Sequence[SourceImage], filters: FilterSettings, tell: Tell = untold) -> Chosen:
        """Plan as `plan` does those sources that `filters`, which may have to know sizes too, do not leave out."""
        sources = ImageList.of(sources)
        fixed = {view: fixed_bucket(self._geometries[view], self.multiple_px) for view in self.settings.views}
        buckets = {view: bucket for view, bucket in fixed.items() if bucket is not None}
        if len(buckets) == len(fixed) and not filters.need_sizes:
            return Chosen(of_fixed_size(sources, buckets), [], [])
        failures, left_out = list[Failure](), list[LeftOut]()
        places, codes, numbers = array("I"), array("I"), dict[tuple[int, int], int]()
        with self.header_reading(self, len(sources)) as reader:
            for place, found in enumerate(planned_by(reader, sources, tell, filters)):
                match found:
                    case PlannedImage():
                        places.append(place)
                        codes.append(numbers.setdefault(found.bucket, len(numbers)))
                    case Failure():
                        failures.append(found)
                    case LeftOut():
                        left_out.append(found)
        images = sources if len(places) == len(sources) else sources.pick(places)
        return Chosen(PlannedImages(images, list(numbers), codes), failures, left_out)

    def plan_each(self, filters: FilterSettings, some: Sequence[Sequence[SourceImage]]) -> Iterator[Sequence[Planned]]:
        """Plan images in threads, as a `HeaderReader`."""
        pool = self._pool_for([image for images in some for image in images])
        return pool.each(partial(self.plan_some, filters), some)

    def begin_to_plan(self, filters: FilterSettings, images: Sequence[SourceImage]) -> Future[Sequence[Planned]]:
        """Have images planned by one of the threads."""
        return self._pool_for(images).submit(unless_stopped, partial(self.plan_some, filters), images)

    def load_all(self, images: Sequence[PlannedImage]) -> list[LoadedImage | Failure]:
        """Read images, in order, while the caller waits; all of them are held at a time."""
        return list(self._pool.each(self.load, images))

    def expect(self, images: Sequence[PlannedImage]) -> None:
        """Begin to fetch those of `images` that are far away, as `load` is going to be asked for them.

        What would be too much to hold is left to be fetched then.
        """
        for source in (image.source for image in images if image.source.reader.is_far):
            is_new = source.file not in self._expected
            if is_new and self._expected_bytes + source.num_bytes <= _MOST_EXPECTED_BYTES:
                self._count(source.num_bytes)
                self._expected[source.file] = self._far_pool.submit(read_bytes, source)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self._expected_bytes += num_bytes

    def _read(self, source: SourceImage) -> bytes:
        """Return the bytes of an image. Raises `OSError` and `UnreadableImageError`."""
        fetched = self._expected.pop(source.file, None)
        if fetched is None:
            return read_bytes(source)
        self._count(-source.num_bytes)
        return fetched.result()

    def _pool_for(self, sources: Sequence[SourceImage]) -> WatchedThreads:
        return self._far_pool if any(source.reader.is_far for source in sources) else self._pool

    def load(self, planned: PlannedImage) -> LoadedImage | Failure:
        """Read one image in the calling thread, or say why it cannot be used. Safe to call from several threads."""
        return self.load_views([planned])[0]

    def load_views(
        self, planned: Sequence[PlannedImage], memory: np.ndarray | None = None
    ) -> list[LoadedImage | Failure]:
        """Read views of one size of one file, which is read and decoded once; otherwise as `load`.

        `memory`: uint8 [H,W,3], contiguous, in which the pixels of the first one may come to lie.
        """
        return self._views(planned, lambda data: self._decoded(data, planned, memory))

    def read_views(self, planned: Sequence[PlannedImage]) -> list[LoadedImage | UndecodedImage | Failure]:
        """Read views as `load_views` does, but leave it to a device to decode the JPEGs that it can."""
        waiting: list[WaitingJpeg] = []

        def decoded_or_not(data: bytes) -> list[LoadedPixels]:
            one = waiting_jpeg(data, self.settings.read)
            if one is None:
                return self._decoded(data, planned)
            waiting.append(one)
            plans = (self._plan(one.size, image.source) for image in planned)
            return [LoadedPixels(_NOT_THERE, plan, one.notes) for plan in plans]

        images = self._views(planned, decoded_or_not)
        if not waiting:
            return [*images]
        data, orientation = waiting[0].data, waiting[0].orientation
        return [
            image if isinstance(image, Failure) else UndecodedImage(image, one, data, orientation)
            for image, one in zip(images, planned, strict=True)
        ]

    def _decoded(
        self, data: bytes, planned: Sequence[PlannedImage], memory: np.ndarray | None = None
    ) -> list[LoadedPixels]:
        return load_views(
            data,
            self.settings.read,
            lambda size: [self._plan(size, image.source) for image in planned],
            self.room.reading,
            is_adm=self.settings.geometry.resize == "adm",
            memory=memory,
        )

    def _views(
        self, planned: Sequence[PlannedImage], pixels_of: Callable[[bytes], list[LoadedPixels]]
    ) -> list[LoadedImage | Failure]:
        """Read views of one file, of whose bytes `pixels_of` makes them."""
        source = planned[0].source
        try:
            stamp = self._stamp(source)  # before its bytes: a change between the two shows the next time
            data = self._read(source)
            weights = None if self.masks is None else self.masks.read(source, self.settings.read, self.room.reading)
            images = pixels_of(data)
            if any(image.geometry.bucket != one.bucket for image, one in zip(images, planned, strict=True)):
                raise PassingReadError("changed its size while the run was going on; run again")
            parts = [self._parts(image, weights) for image in images]
        except (UnreadableImageError, MemoryError, OSError) as error:
            return [_failure_of(image.source, error) for image in planned]
        digest = FileDigest.of(data)
        columns, troubles = self.columns_of(source)
        _, mtime_ns, ctime_ns = settled(stamp, time.time_ns())
        loaded: list[LoadedImage | Failure] = []
        mask_sha256 = None if weights is None else weights.sha256
        for image, one, masks in zip(images, planned, parts, strict=True):
            record = ImageRecord(one.source.key, image.geometry, digest, image.notes, columns, mask_sha256)
            loaded.append(LoadedImage(record, image.pixels, mtime_ns, ctime_ns, troubles, masks))
            troubles = ()  # are told once of a file
        return loaded

    def columns_of(self, source: SourceImage) -> MadeColumns:
        """Make the columns of an image. What is wrong with them is told once of a file."""
        if self.columns is None:
            return _NO_COLUMNS
        made = self.columns.columns_of(source.whole)
        return made if source.view.size == self._first_size else made._replace(troubles=())

    def _parts(self, image: LoadedPixels, weights: Weights | None) -> Mapping[str, Tensor]:
        if self.masks is None:
            return {}
        return self.masks.make(weights, image.alpha, image.geometry, self.multiple_px)

    @property
    def _mask_files(self) -> MaskFiles | None:
        return None if self.masks is None else self.masks.files

    @property
    def note(self) -> str:
        """A line on the masks for a person to read before the run goes on; empty if there is nothing to say."""
        return "" if self._mask_files is None else self._mask_files.note

    def stamped(self, images: Sequence[SourceImage]) -> Sequence[SourceImage]:
        """Return images, listed now, whose times change with all that they are made from: their masks too."""
        return images if self._mask_files is None else self._mask_files.stamped(images)

    def mask_of(self, source: SourceImage) -> SourceImage | None:
        """Return the picture that is the mask of an image; None if it has none."""
        return None if self._mask_files is None else self._mask_files.of(source)

    def _stamp(self, source: SourceImage) -> Stamp:
        """Return size and times as in `stamped`, as they are now. Raises `OSError`."""
        return source.reader.stamp(source) if self._mask_files is None else self._mask_files.stamp(source)

    def _try_hash(self, source: SourceImage) -> str | None:
        digest, mask = try_hash(source), self.mask_of(source)
        if digest is None or mask is None:
            return digest
        mask_sha256 = try_hash(mask)
        return None if mask_sha256 is None else content_of(digest, mask_sha256)

    def _plan(self, size: tuple[int, int], source: SourceImage) -> Geometry:
        """Plan the geometry of a view of a picture of `size` (H, W) px."""
        plan = self._plans.get((size, source.view))  # one object for all that are alike
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = plan_geometry(size, self._geometries[source.view], self.multiple_px)
            self._plans[size, source.view] = plan
        if source.view.crop is None:
            return plan
        return move_crop(plan, self.settings.crops.seed, source.file_key, source.view.crop)

    def hashes(self, sources: Sequence[SourceImage], tell: Tell = untold) -> Iterator[str | None]:
        """Yield what every source is made from, in order, as `content_of` gives it; None where that cannot be read.

        `tell` hears how many were read.
        """
        remaining, num_done = iter(sources), count(1)
        while group := list(islice(remaining, _HASHED_AT_ONCE)):
            files = {source.file: source for source in group}  # views of one lie near each other
            hashed = zip(files, self._pool_for(group).each(self._try_hash, files.values()), strict=True)
            digests: dict[object, str | None] = {}
            for source in group:
                if source.file not in digests:
                    file, digests[source.file] = next(hashed)
                    assert file == source.file, "files come in the order of their first views"
                tell(Planning("hashing files in doubt", next(num_done), len(sources)))
                yield digests[source.file]

    def why_left_out(self, view: View, size: tuple[int, int], filters: FilterSettings) -> str | None:
        """Return the filter that leaves out a view of an image of `size` (H, W) px; None: it is taken."""
        return why_left_out(size, filters, self._geometries[view], self.multiple_px)

    def plan_some(self, filters: FilterSettings, sources: Iterable[SourceImage]) -> Sequence[Planned]:
        """Plan images in the calling thread, by what their headers say."""
        sizes: dict[tuple[int, object], tuple[int, int]] = {}  # views of a file lie near each other
        return [self._plan_one(source, filters, sizes) for source in looking(sources)]

    def _plan_one(
        self, source: SourceImage, filters: FilterSettings, sizes: dict[tuple[int, object], tuple[int, int]]
    ) -> Planned:
        try:
            if source.file not in sizes:
                with source.reader.open(source) as file:
                    sizes[source.file] = read_image_size(file, self.settings.read)
            size = sizes[source.file]
            reason = self.why_left_out(source.view, size, filters)
            if reason is not None:
                return LeftOut(source.key, reason, *settled(source.stamp, time.time_ns()), size)
            geometry = self._plan(size, source)
        except (UnreadableImageError, MemoryError, OSError) as error:
            return _failure_of(source, error)
        return PlannedImage(source, geometry.bucket)


HeaderReading = Callable[[Loader, int], AbstractContextManager[HeaderReader]]  # of so many headers


def _by_threads(loader: Loader, num_images: int) -> AbstractContextManager[HeaderReader]:
    del num_images
    return nullcontext(loader)


def _failure_of(source: SourceImage, error: UnreadableImageError | MemoryError | OSError) -> Failure:
    """Make a failure: with the file whose content is the reason, so that it is not tried again, unless it may pass."""
    if isinstance(error, MemoryError):
        return Failure(source.key, "not enough memory to read it")
    if isinstance(error, OSError):
        return Failure(source.key, f"cannot be read ({error.strerror or error})")
    if isinstance(error, PassingReadError):
        return Failure(source.key, str(error))
    return Failure(source.key, str(error), *settled(source.stamp, time.time_ns()))
