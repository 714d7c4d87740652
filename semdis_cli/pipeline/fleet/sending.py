"""Planned shards on their way to another process: names, places and what comes with images; never pixels.

Readers go by numbers, so that a process has one of each, and keeps the file that it has opened. Columns and masks are
found by the process that has the plan: tables may be large, and so may lists of masks.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from multiprocessing.reduction import ForkingPickler
from operator import attrgetter
from threading import Lock
from typing import Any, NamedTuple

from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.images.loader import Loader
from semdis_cli.records import ImageReader, MadeColumns, PlannedImage, SourceImage, Stamp, View
from semdis_cli.store.writing.plan import PlannedShard

_NOTHING = MadeColumns()
_FEW_IMAGES = 8


class SentImage(NamedTuple):
    """An image by name; `reader`: the number of its reader."""

    reader: int
    key: str
    place: Any
    stamp: Stamp
    view: View


class SentReaders:
    """Numbers of the readers that other processes are sent, from 1 on."""

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[int, ImageReader]] = {}  # by their identity, as long as they live
        self._sent: list[ImageReader] = []

    def number(self, reader: ImageReader) -> int:
        """Return the number of a reader; 0 for one that no other process can have."""
        known = self._numbers.get(id(reader))
        if known is None:
            sent = reader.for_process()
            ForkingPickler.dumps(sent)  # who finds out while sending may wait for an answer for ever
            known = self._numbers[id(reader)] = (0 if sent is None else len(self._sent) + 1, reader)
            if sent is not None:
                self._sent.append(sent)
        return known[0]

    def image(self, source: SourceImage) -> SentImage:
        """Return an image as it is sent."""
        return SentImage(self.number(source.reader), source.key, source.place, source.stamp, source.view)

    def named(self, numbers: Iterable[int]) -> dict[int, ImageReader]:
        """Return readers as they are sent, by number."""
        return {number: self._sent[number - 1] for number in numbers}


class ReceivedReaders:
    """Readers by number, in a process that was sent them."""

    def __init__(self) -> None:
        self._readers: Mapping[int, ImageReader] = {}

    def take(self, readers: Mapping[int, ImageReader]) -> None:
        """Take new ones; the first of each number stays: it may have a file open."""
        self._readers = {**readers, **self._readers}

    def image(self, sent: SentImage) -> SourceImage:
        """Return an image that was sent."""
        return SourceImage(sent.key, self._readers[sent.reader], sent.place, *sent.stamp, sent.view)


class _Beside(NamedTuple):
    """Company of a file: its columns, and its mask."""

    columns: MadeColumns = _NOTHING
    mask: SentImage | None = None


class SentShard(NamedTuple):
    """A planned shard as it is sent. `beside`: what comes with its images, by the keys of their files."""

    name: str
    version: int
    bucket: tuple[int, int]
    images: list[SentImage]
    beside: dict[str, _Beside]
    readers: dict[int, ImageReader]


class ShardSender:
    """Makes planned shards ready to be sent; `loader` knows what comes with their images."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._readers = SentReaders()

    def pack(self, shard: PlannedShard, known: set[int]) -> SentShard:
        """Return a shard for a process that has the readers `known`, to which new ones are added.

        Raises `UsageError` for an image that this process alone can read.
        """
        images: list[SentImage] = []
        beside: dict[str, _Beside] = {}
        for file_key, views in groupby((image.source for image in shard.images), key=attrgetter("file_key")):
            sources = list(views)
            images += map(self._image, sources)
            if (found := self._beside(sources[0])) is not None:
                beside[file_key] = found
        masks = (found.mask.reader for found in beside.values() if found.mask is not None)
        new = {image.reader for image in images}.union(masks) - known
        known |= new
        return SentShard(shard.name, shard.version, shard.bucket, images, beside, self._readers.named(new))

    def _image(self, source: SourceImage) -> SentImage:
        image = self._readers.image(source)
        if image.reader == 0:
            what = "cannot be read by other processes (it came on stdin); leave --processes and --devices out"
            raise UsageError(what, place=source.key)
        return image

    def _beside(self, source: SourceImage) -> _Beside | None:
        """Return what comes with a file; None if nothing does."""
        made = self._loader.columns.columns_of(source.whole) if self._loader.columns is not None else _NOTHING
        mask = self._loader.mask_of(source)
        if mask is None and not made.columns and not made.troubles:
            return None
        return _Beside(made, None if mask is None else self._image(mask))


def why_unopened(sent: SentShard) -> str | None:
    """Return why none of a few images of a shard can be opened in this process; None if one can."""
    readers, reason = ReceivedReaders(), None
    readers.take(sent.readers)
    for image in sent.images[:_FEW_IMAGES]:
        try:
            source = readers.image(image)
            source.reader.open(source).close()
        except (OSError, UnreadableImageError) as error:
            reason = f"{image.place}: {getattr(error, 'strerror', None) or error}"
        else:
            return None
    return reason


class ShardReceiver:
    """Planned shards that were sent, and what comes with their images: it makes columns, and finds masks."""

    def __init__(self) -> None:
        self._readers = ReceivedReaders()
        self._beside: Mapping[str, Mapping[str, _Beside]] = {}  # of each shard under way; replaced, never changed
        self._replacing = Lock()  # shards come, and go, in several threads

    def unpack(self, sent: SentShard) -> PlannedShard:
        """Return a shard as it was planned, and know what comes with its images until it is forgotten."""
        with self._replacing:
            self._readers.take(sent.readers)
            self._beside = {**self._beside, sent.name: sent.beside}
        images = tuple(PlannedImage(self._readers.image(image), sent.bucket) for image in sent.images)
        return PlannedShard(sent.name, images, sent.version)

    def forget(self, name: str) -> None:
        """Forget what comes with the images of a shard that is done."""
        with self._replacing:
            self._beside = {other: beside for other, beside in self._beside.items() if other != name}

    def columns_of(self, image: SourceImage) -> MadeColumns:
        """Return the columns of an image, as `ColumnMaker` does."""
        return self._found(image.key).columns

    def find(self, key: str) -> Sequence[SourceImage]:
        """Return the mask of a file, as `MaskNames` does."""
        mask = self._found(key).mask
        return () if mask is None else (self._readers.image(mask),)

    def _found(self, key: str) -> _Beside:
        return next((beside[key] for beside in self._beside.values() if key in beside), _Beside())
