"""The rows of one shard, collected while its images are encoded."""

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from semdis_cli.events import Failure
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.provenance import Provenance
from semdis_cli.records import EncodedImage, ImageRecord
from semdis_cli.store.index import IndexRow
from semdis_cli.store.shards import Shard, write_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.journal import JournalEntry
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.seen import SeenFile, seen_failure


class ShardWriter:
    """Collects the rows of one shard. `publish`, or leaving its `with` normally, writes it; until then nothing appears.

    `check` is called before anything is written, and may raise; `record` with what the shard came to, once it is on
    disk.
    """

    def __init__(
        self,
        folder: Path,
        planned: PlannedShard,
        provenance: Provenance,
        channels: int,
        check: Callable[[], None],
        record: Callable[[JournalEntry], None],
    ) -> None:
        self._path = folder / planned.name
        self._planned = planned
        self._provenance = provenance
        self._check = check
        self._record = record
        self._rows: dict[str, tuple[IndexRow, SeenFile | None]] = {}
        self._records: list[ImageRecord] = []
        self._latents: list[Tensor] = []
        self._num_images = 0  # latents that are written
        self._channels = channels
        self.published: PublishedFile | None = None
        self.publish_s = 0.0

    def __enter__(self) -> Self:
        return self

    def add(self, image: EncodedImage) -> None:
        """Append one image; they come in key order."""
        record = image.record
        seen = SeenFile(record.key, record.source.num_bytes, image.mtime_ns, image.ctime_ns)
        self._rows[record.key] = IndexRow.of_image(record, self._planned.name, len(self._latents)), seen
        self._records.append(record)
        self._latents.append(image.latents)

    def add_failure(self, failure: Failure) -> None:
        """Note an image of this shard that could not be used."""
        self._rows[failure.key] = IndexRow.of_failure(failure), seen_failure(failure)

    @property
    def is_full(self) -> bool:
        """Whether each of its images has a row: then it can be published."""
        return len(self._rows) == len(self._planned.images)

    @property
    def num_bytes(self) -> int:
        """Of the latents that are held."""
        return sum(latents.nbytes for latents in self._latents)

    @property
    def num_images(self) -> int:
        """Latents added so far."""
        return self._num_images + len(self._latents)

    @property
    def name(self) -> str:
        """Of the shard's file."""
        return self._planned.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.publish()

    def publish(self) -> None:
        """Write the shard. It may be called from another thread than `add`, once all rows are there."""
        assert self.is_full, "a shard is complete when each of its images has a row"
        started = time.perf_counter()
        self._check()
        sums = ChannelSums.zero(self._channels)
        if self._latents:
            collected = self._collect()
            sums = ChannelSums.of_all(collected.latents)
            assert sums.are_finite, f"{self.name}: latents that cannot be stored are a failure"
            self.published = write_shard(self._path, collected)
        rows, seen = zip(*(self._rows[key] for key in sorted(self._rows)), strict=True)
        self._record(JournalEntry(self.name, self.published, rows, seen, sums, self._planned.version))
        self.publish_s = time.perf_counter() - started

    def _collect(self) -> Shard:
        latents = torch.stack(self._latents)
        self._num_images, self._latents = len(self._latents), []  # not held twice while it is written
        return Shard(latents, tuple(self._records), self._provenance)
