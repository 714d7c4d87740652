"""One shard of a set that is being written: the outcomes of its images, and its file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from semdis_cli.events import ColumnTrouble, Failure
from semdis_cli.parts import LATENTS, SCALE
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import EncodedImage, ImageRecord
from semdis_cli.store.index import IndexRow
from semdis_cli.store.shards import STORE_DTYPES, Shard, write_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.journal import JournalEntry, JournalRow
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.seen import SeenFile, seen_failure


@dataclass(frozen=True)
class EncodedShard:
    """The outcome of every image of a planned shard, without a trace of the others.

    `latents` [N,Z,h,w] in the stored dtype, all finite, with `records` and `seen` (the files that they were made from)
    in key order; `failures`: the images that could not be used. N may be 0. `troubles`: with the columns of images.
    `parts`: the other tensors, by name.
    """

    planned: PlannedShard
    latents: Tensor
    records: tuple[ImageRecord, ...]
    seen: tuple[SeenFile, ...]
    failures: tuple[Failure, ...]
    troubles: tuple[ColumnTrouble, ...] = ()
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of all its tensors."""
        return self.latents.nbytes + sum(tensor.nbytes for tensor in self.parts.values())


class ShardRows:
    """Collects the outcomes of a shard's images while these are encoded, in key order."""

    def __init__(self, planned: PlannedShard, layout: LatentLayout) -> None:
        self._planned = planned
        self._tensors = {  # once: a shard is not held twice
            tensor.name: torch.empty((len(planned.images), *tensor.shape), dtype=STORE_DTYPES[tensor.dtype])
            for tensor in layout.tensors(layout.grid(planned.bucket))
        }
        self._records: list[ImageRecord] = []
        self._seen: list[SeenFile] = []
        self._failures: list[Failure] = []

    def add(self, image: EncodedImage) -> None:
        """Append one image."""
        record, tensors = image.record, image.tensors
        for name, rows in self._tensors.items():
            rows[len(self._records)] = tensors[name]
        self._seen.append(SeenFile(record.key, record.source.num_bytes, image.mtime_ns, image.ctime_ns))
        self._records.append(record)

    def add_failure(self, failure: Failure) -> None:
        """Note an image that could not be used."""
        self._failures.append(failure)

    @property
    def is_full(self) -> bool:
        """True if the outcome of each image is there."""
        return len(self._records) + len(self._failures) == len(self._planned.images)

    def finish(self) -> EncodedShard:
        """Return what was collected, once it is all there."""
        assert self.is_full, "a shard is complete when each of its images has a row"
        parts = {name: rows[: len(self._records)] for name, rows in self._tensors.items()}
        latents, outcomes = parts.pop(LATENTS), (tuple(self._records), tuple(self._seen), tuple(self._failures))
        return EncodedShard(self._planned, latents, *outcomes, parts=parts)


def publish_shard(shard: EncodedShard, folder: Path, provenance: Provenance) -> JournalEntry:
    """Write a shard into `folder` of a set made with `provenance`, and return what the set is to note of it.

    No file is written without latents. Raises `NoSpaceError`, or `UsageError` where the folder cannot be written.
    """
    name, file, sums = shard.planned.name, None, ChannelSums.zero(shard.latents.shape[1])
    if shard.records:
        sums = ChannelSums.of_all(shard.latents, shard.parts.get(SCALE))
        assert sums.are_finite, f"{name}: latents that cannot be stored are a failure"
        file = write_shard(folder / name, Shard(shard.latents, shard.records, provenance, shard.parts))
    images = zip(shard.records, shard.seen, strict=True)
    rows = [JournalRow(IndexRow.of_image(record, name, row), seen) for row, (record, seen) in enumerate(images)]
    rows += [JournalRow(IndexRow.of_failure(failure), seen_failure(failure)) for failure in shard.failures]
    rows.sort(key=lambda each: each.row.key)
    return JournalEntry(name, file, tuple(rows), sums, shard.planned.version)
