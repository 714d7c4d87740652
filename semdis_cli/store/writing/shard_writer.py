"""One shard of a set that is being written: the outcomes of its images, and its file."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from threading import Lock

from torch import Tensor

from semdis_cli.events import ColumnTrouble, Failure, ShardPublished
from semdis_cli.files.atomic import check_free_space, publish
from semdis_cli.files.set_names import SHARD_FOLDER
from semdis_cli.parts import LATENTS, SCALE
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import EncodedImage, FileDigest, ImageRecord
from semdis_cli.store.index import IndexRow, image_line
from semdis_cli.store.shard_header import render_header, stored_tensors
from semdis_cli.store.shards import memory_of
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.entry_text import render_entry
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.seen import SeenFile, seen_failure

_PIECE_BYTES = 1 << 20  # written and hashed at a time: it stays in the cache, and the interpreter's lock is let go
# Beyond the latents, each image's key is written four times (shard, journal, index, modification times), with figures.
_COPIES_OF_KEY = 4
_FIGURES_BYTES = 1600
Rows = Mapping[str, Tensor]  # tensors of some images by name, a row of each for each image


@dataclass(frozen=True)
class EncodedShard:
    """The outcome of every image of a planned shard, without a trace of the others.

    `blocks`: its tensors, some rows at a time, in the stored dtypes, all finite; with as many `records` and `seen` (the
    files that they were made from) as there are rows, in key order; `failures`: the images that could not be used.
    There may be no rows. `latents_sha256` (hex): of all tensors as they lie in the file. `sums`: of the latents.
    `troubles`: with the columns of images.
    """

    planned: PlannedShard
    blocks: tuple[Rows, ...]
    records: tuple[ImageRecord, ...]
    seen: tuple[SeenFile, ...]
    failures: tuple[Failure, ...]
    latents_sha256: str
    sums: ChannelSums
    troubles: tuple[ColumnTrouble, ...] = ()


class ShardRows:
    """Collects the outcomes of a shard's images while these are encoded, in key order.

    One thread adds them; `fold` may be called in others meanwhile. Tensors are kept as they are given until the shard
    is on disk.
    """

    def __init__(self, planned: PlannedShard, layout: LatentLayout) -> None:
        self._planned = planned
        tensors = layout.tensors(layout.grid(planned.bucket))
        self.num_bytes = len(planned.images) * sum(tensor.num_bytes for tensor in tensors)
        self._first, *self._others = [tensor.name for tensor in tensors]  # in the order of the file
        self._blocks: list[Rows] = []
        self._records: list[ImageRecord] = []
        self._seen: list[SeenFile] = []
        self._failures: list[Failure] = []
        self._folding, self._num_folded = Lock(), 0
        self._sums, self._digest = ChannelSums.zero(layout.channels), hashlib.sha256()

    def add(self, image: EncodedImage) -> None:
        """Append one image."""
        self.add_call([image], {name: tensor[None] for name, tensor in image.tensors.items()})

    def add_call(self, images: Sequence[EncodedImage], rows: Rows | None) -> None:
        """Append images; `rows`: their tensors by name, a row of each for each image, where they lie in one piece."""
        if rows is None:
            for image in images:
                self.add(image)
            return
        self._records += [image.record for image in images]
        self._seen += [
            SeenFile(one.record.key, one.record.source.num_bytes, one.mtime_ns, one.ctime_ns) for one in images
        ]
        self._blocks.append(rows)

    def add_failure(self, failure: Failure) -> None:
        """Note an image that could not be used."""
        self._failures.append(failure)

    @property
    def is_full(self) -> bool:
        """True if the outcome of each image is there."""
        return len(self._records) + len(self._failures) == len(self._planned.images)

    def fold(self) -> None:
        """Sum up and hash what was added since the last time, unless another thread is at it."""
        if self._folding.acquire(blocking=False):
            try:
                self._fold_all()
            finally:
                self._folding.release()

    def _fold_all(self) -> None:
        while self._num_folded < len(self._blocks):
            block = self._blocks[self._num_folded]
            self._sums = self._sums.plus_all(block[LATENTS], block.get(SCALE))
            self._digest.update(memory_of(block[self._first].contiguous()))
            self._num_folded += 1

    def finish(self) -> EncodedShard:
        """Return what was collected, once it is all there."""
        assert self.is_full, "a shard is complete when each of its images has a row"
        with self._folding:
            self._fold_all()
        for data in _payload(self._blocks, self._others):
            self._digest.update(data)
        outcomes = tuple(self._records), tuple(self._seen), tuple(self._failures)
        return EncodedShard(self._planned, tuple(self._blocks), *outcomes, self._digest.hexdigest(), self._sums)


def _payload(blocks: Sequence[Rows], names: Sequence[str]) -> Iterator[memoryview]:
    """Yield the bytes of tensors, one after the other, in pieces."""
    for name in names:
        for block in blocks:
            data = memory_of(block[name].contiguous())
            for start in range(0, len(data), _PIECE_BYTES):
                yield data[start : start + _PIECE_BYTES]


@dataclass(frozen=True)
class WrittenShard:
    """A shard on disk: its `file` (None without latents), and what the journal is to note of it, `content`.

    `first_key`: of its rows. `header_sha256`: of all in its file that comes before the latents.
    """

    name: str
    file: FileDigest | None
    first_key: str
    num_ok: int
    num_failed: int
    content: bytes
    header_sha256: bytes

    @property
    def published(self) -> ShardPublished | None:
        """The event that tells of it; None of a shard of failures alone."""
        return None if self.file is None else ShardPublished(self.name, self.num_ok, self.file.num_bytes)


@dataclass(frozen=True)
class ShardFolder:
    """Folder of the set at `root` in which any process writes shards; `records`: the settings, by shards' versions."""

    root: Path
    records: tuple[Provenance, ...]

    def open_shard(self, planned: PlannedShard) -> ShardRows:
        """Begin to collect one planned shard.

        Raises `NoSpaceError` where the disk has become too full for it; one that is being published is not counted.
        """
        layout = self.records[0].layout
        check_free_space(self.root, written_bytes(planned, layout))
        return ShardRows(planned, layout)

    def write(self, shard: EncodedShard) -> WrittenShard:
        """Write a shard. It may be called in several threads at once. Raises what `publish_shard` raises."""
        return publish_shard(shard, self.root / SHARD_FOLDER, self.records[shard.planned.version])


def written_bytes(shard: PlannedShard, layout: LatentLayout) -> int:
    """Return the bytes of a shard and of what is noted of its images: the latents exactly, the rest generously."""
    keys = sum(_COPIES_OF_KEY * 6 * len(key) for key, *_ in shard.facts())  # 6: a character as \\uXXXX
    return len(shard.images) * (layout.latent_bytes(shard.bucket) + _FIGURES_BYTES) + keys


def publish_shard(shard: EncodedShard, folder: Path, provenance: Provenance) -> WrittenShard:
    """Write a shard into `folder` of a set made with `provenance`, and return what the set is to note of it.

    No file is written without latents. Raises `NoSpaceError`, or `UsageError` where the folder cannot be written.
    """
    name, file, header = shard.planned.name, None, b""
    if shard.records:
        assert shard.sums.are_finite, f"{name}: latents that cannot be stored are a failure"
        _, Z, h, w = shard.blocks[0][LATENTS].shape
        tensors = stored_tensors(provenance.layout, (len(shard.records), Z, h, w))
        header = render_header(tensors, shard.latents_sha256, shard.records, provenance)
        payload = _payload(shard.blocks, [tensor.name for tensor in tensors])
        file = publish(folder / name, chain([header], payload))
    content = render_entry(name, file, _lines(shard), shard.sums, shard.planned.version)
    first_key = shard.planned.images[0].source.key
    numbers = len(shard.records), len(shard.failures)
    return WrittenShard(name, file, first_key, *numbers, content, hashlib.sha256(header).digest())


def _lines(shard: EncodedShard) -> list[tuple[bytes, SeenFile | None]]:
    """Return the line of each image for the index, and its file, in key order."""
    name, images = shard.planned.name, zip(shard.records, shard.seen, strict=True)
    lines: list[tuple[str, bytes, SeenFile | None]] = [
        (record.key, image_line(record, name, row), seen) for row, (record, seen) in enumerate(images)
    ]
    lines += [(one.key, IndexRow.of_failure(one).to_line().data, seen_failure(one)) for one in shard.failures]
    lines.sort(key=itemgetter(0))
    return [(line, seen) for _, line, seen in lines]
