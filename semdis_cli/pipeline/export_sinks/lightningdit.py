"""Exports as LightningDiT, VA-VAE and VTP read them: `lightningdit`, safetensors of thousands of images each.

Layout: https://github.com/hustvl/LightningDiT, `datasets/img_latent_dataset.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import torch
from torch import Tensor

from semdis_cli.files.atomic import publish
from semdis_cli.pipeline.export_sinks.raw import (
    check_twins,
    describe_raw,
    latent_bytes,
    raw_latents,
    twin_latents,
    twin_parts,
)
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink, cut_files
from semdis_cli.store.exchange.arrays import Shapes, holds_tensors, tensor_chunks, torch_bytes
from semdis_cli.store.exchange.export import UnfitError
from semdis_cli.store.reader import StoredShard
from semdis_cli.store.shards import STORE_DTYPES, Shard
from semdis_cli.store.whitening import raw_moments
from semdis_cli.tensors import is_finite

STATISTICS_FILE = "latents_stats.pt"
_READER = "LightningDiT"
_FILE_IMAGES, _FILE_BYTES = 10_000, 1 << 29  # at most; a file is put together in memory


@dataclass
class _File:
    """A file that is being put together: room for all its rows, of which there are `num_rows` so far."""

    name: str
    tensors: dict[str, Tensor]
    num_rows: int = 0

    @classmethod
    def empty(cls, name: str, shapes: Shapes) -> Self:
        """Make room for rows."""
        return cls(name, {each: torch.empty(tuple(shape), dtype=dtype) for each, (dtype, shape) in shapes.items()})

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a row."""
        for name, value in values.items():
            self.tensors[name][self.num_rows] = value
        self.num_rows += 1

    def publish(self, root: Path) -> None:
        """Publish the rows that there are."""
        publish(
            root / self.name, tensor_chunks({name: tensor[: self.num_rows] for name, tensor in self.tensors.items()})
        )


class LightningDiTSink(Sink):
    """`000000.safetensors`, ... of `labels` [N], `latents` and `latents_flip` [N,Z,h,w], and their statistics.

    Nothing else is in the files: that reader parses the header for each item. Which image goes where follows from the
    set and the settings alone. A file that lacks images, because of a damaged shard, is made again by the next run.
    """

    one_file_each = False
    overhead_bytes = 8  # its label

    def __init__(self, job: ExportJob, _: Mapping[str, PurePosixPath]) -> None:
        self._job, self._root = job, job.output.resolve()
        self._grid, self._dtype = job.facts.one_grid(_READER), STORE_DTYPES[job.settings.array_dtype(job.stored_dtype)]
        self.failures = job.facts.unlabelled(_READER)
        self._files_left: dict[str, tuple[str, int]] = {}  # of each key the file, and how many rows that has
        self._without = {failure.key for failure in self.failures}
        for number, keys in enumerate(self.files(), job.first_file):
            name = f"{number:06d}.safetensors"
            if not holds_tensors(self._root / name, self._shapes(len(keys))):
                self._files_left |= dict.fromkeys(keys, (name, len(keys)))
        self._file: _File | None = None

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Name nothing: no image has a file of its own."""
        job.facts.one_grid(_READER)
        job.facts.check_labels(_READER)
        check_twins(job, _READER)
        return {}

    @classmethod
    def parts(cls, job: ExportJob) -> Collection[str]:
        """Return the twins, if they are wanted."""
        return twin_parts(job)

    @classmethod
    def describe(cls, job: ExportJob) -> dict[str, object]:
        """Return mean and standard deviation of the raw latents, and the classes."""
        return describe_raw(job)

    @classmethod
    def sample_bytes(cls, job: ExportJob, stored: StoredShard) -> int:
        """Return the bytes of one image's rows."""
        num_bytes = STORE_DTYPES[job.settings.array_dtype(job.stored_dtype)].itemsize
        return 2 * latent_bytes(job, stored) * num_bytes // torch.float32.itemsize + cls.overhead_bytes

    def files(self) -> Iterator[Sequence[str]]:
        """Give the keys of each file."""
        return cut_files(self._job, self.sample_bytes, self._without, _FILE_BYTES, _FILE_IMAGES)

    def is_left(self, key: str) -> bool:
        """Tell whether the file of `key` is missing, or lacks rows."""
        return key in self._files_left

    def write(self, shard: Shard, row: int) -> None:
        """Add a row to its file; those before are complete then, and published."""
        key = shard.keys[row]
        name, num_rows = self._files_left[key]
        if self._file is None or name != self._file.name:
            self._publish()
            self._file = _File.empty(name, self._shapes(num_rows))
        latents, twin = raw_latents(self._job, shard, row), twin_latents(self._job, shard, row)
        values = {"latents": latents.to(self._dtype), "latents_flip": twin.to(self._dtype)}
        if not all(map(is_finite, values.values())):
            raise UnfitError("its latents are too large for float16")
        self._file.add({"labels": torch.tensor(self._job.facts.labels[key]), **values})

    def close(self) -> None:
        """Publish the last file."""
        self._publish()

    def conclude(self) -> None:
        """Publish the statistics."""
        moments = raw_moments(self._job.source.sums(), self._job.whitening)
        mean, std = (torch.from_numpy(values).float().view(1, -1, 1, 1) for values in moments)
        publish(self._root / STATISTICS_FILE, [torch_bytes({"mean": mean, "std": std})])

    def _publish(self) -> None:
        if self._file is not None:
            self._file.publish(self._root)
            self._file = None

    def _shapes(self, num_rows: int) -> Shapes:
        latents = self._dtype, (num_rows, self._job.source.provenance.layout.channels, *self._grid)
        return {"labels": (torch.int64, (num_rows,)), "latents": latents, "latents_flip": latents}
