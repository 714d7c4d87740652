"""The formats of an export. Each is a sink for samples: to add one, write its class here and name it in `SINKS`."""

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import PendingFile, publish_below
from semdis_cli.files.tar import TAR_END, read_members, tar_member
from semdis_cli.provenance import BYTES_PER_VALUE
from semdis_cli.settings import ExportFormat, ExportSettings
from semdis_cli.stops import looking
from semdis_cli.store.exchange.export import (
    STEM_RECORD,
    TABLE_FILE,
    Sample,
    SampleRecord,
    alike_names,
    impossible_names,
    nameless_samples,
    sample_name,
)
from semdis_cli.store.reader import LatentSource, StoredShard

_RECORD_BYTES = 1024  # about what an image's key, geometry and source take


@dataclass(frozen=True)
class ExportJob:
    """An export: its source, settings and folder. `names`: the file of each key, where it has one of its own."""

    source: LatentSource
    settings: ExportSettings
    output: Path
    names: Mapping[str, PurePosixPath]

    @property
    def stored_dtype(self) -> str:
        """Return the dtype that the latents are stored in."""
        return self.source.provenance.layout.dtype

    def sample_bytes(self, stored: StoredShard) -> int:
        """Estimate the bytes of one image of a shard once it is exported, the same for each run."""
        num_bytes = stored.expected.num_bytes // max(1, stored.num_images) + _RECORD_BYTES
        if self.settings.member == "npy":
            array_dtype = self.settings.array_dtype(self.stored_dtype)
            num_bytes = num_bytes * BYTES_PER_VALUE[array_dtype] // BYTES_PER_VALUE[self.stored_dtype]
        else:
            num_bytes += len(self.source.provenance.text) + 1  # as a line of JSON; tars are cut by this
        return num_bytes + SINKS[self.settings.format].overhead_bytes


class Sink(ABC):
    """Takes the samples of an export, in the order of the shards; what an earlier run finished is not asked for again.

    `one_file_each`: each image has a file of its own, named by its key, and these may be written by many threads at
    once, in any order. `overhead_bytes`: what the format adds to a sample, about. `failures`: the images that the
    format cannot name.
    """

    one_file_each: ClassVar[bool]
    overhead_bytes: ClassVar[int] = 0
    failures: Sequence[Failure]

    @abstractmethod
    def __init__(self, job: ExportJob) -> None:
        """Look at what is there. The output folder exists, and is locked."""

    @abstractmethod
    def is_left(self, key: str) -> bool:
        """Tell whether the sample of `key` is still to be written."""

    def needs(self, key: str) -> bool:
        """Tell whether the sample of `key` is to be made: also of one that is there, if a table lists it."""
        return self.is_left(key)

    @abstractmethod
    def write(self, sample: Sample) -> None:
        """Write one sample. Raises `RefusedNameError` for a name that the disk does not take, and as `publish`."""

    @abstractmethod
    def close(self) -> None:
        """Publish what is not published yet, after the last sample."""

    def add_record(self, record: SampleRecord) -> None:  # noqa: B027 # most have no table
        """Note a sample that was needed and is on its way, in order."""

    def discard(self) -> None:  # noqa: B027 # most have nothing open
        """Remove what is not published."""


class FileSink(Sink):
    """A file for each image, named by its key."""

    one_file_each = True

    def __init__(self, job: ExportJob) -> None:
        self._root = job.output.resolve()
        self._suffix = job.settings.member
        impossible = impossible_names(job.names, job.output)
        self.failures = impossible + alike_names(job.names, job.output, impossible)
        self._impossible = {failure.key for failure in self.failures}
        keys = (key for key in job.source.keys if key not in self._impossible)
        self._done = {key for key in looking(keys) if os.path.isfile(self._path(key))}  # noqa: PTH113 # no OSError

    def is_left(self, key: str) -> bool:
        """Tell whether `key` can have a file, and has none."""
        return key not in self._done and key not in self._impossible

    def write(self, sample: Sample) -> None:
        """Write the file of an image, unless it is there. Raises `UsageError` where a link leads out of the folder."""
        if sample.record.image.key in self._done:
            return
        path = self._path(sample.record.image.key)
        if not path.parent.resolve().is_relative_to(self._root):
            raise UsageError(f"a link leads out of {self._root}; remove it", place=path)
        publish_below(self._root, path, [sample.data])

    def close(self) -> None:
        """Do nothing: each file is published as soon as it is written."""

    def _path(self, key: str) -> Path:
        return self._root / f"{key}.{self._suffix}"


class ArraySink(FileSink):
    """A file for each image, and behind the last one a table of what they are: arrays do not say it themselves."""

    def __init__(self, job: ExportJob) -> None:
        super().__init__(job)
        self._table = PendingFile(self._root / TABLE_FILE)

    def needs(self, key: str) -> bool:
        """Tell whether `key` can have a file: the table lists those of earlier runs too."""
        return key not in self._impossible

    def add_record(self, record: SampleRecord) -> None:
        """Add a line to the table."""
        self._table.write(record.to_bytes())

    def close(self) -> None:
        """Publish the table."""
        self._table.publish()

    def discard(self) -> None:
        """Remove a table that lacks lines."""
        self._table.discard()


class TarSink(Sink):
    """Tars of samples as WebDataset has them: a pair of members for each image, and tars of about `tar_mib`.

    Which image goes where follows from the set and the settings alone. A tar that lacks images, because of a damaged
    shard, is made again by the next run.
    """

    one_file_each = False
    overhead_bytes = 2048  # headers and padding of two members

    def __init__(self, job: ExportJob) -> None:
        self._root = job.output.resolve()
        self._names = job.settings.sample_names
        self._suffixes = job.settings.member, "json" if self._names == "key" else STEM_RECORD
        self.failures = nameless_samples(job.source.keys, self._names)
        self._tars_left: dict[str, str] = {}  # by key
        for number, keys in enumerate(looking(_cut(job, {failure.key for failure in self.failures}))):
            name = f"{number:06d}.tar"
            if not self._is_whole(self._root / name, keys):
                self._tars_left |= dict.fromkeys(keys, name)
        self._name = ""
        self._file: PendingFile | None = None

    def is_left(self, key: str) -> bool:
        """Tell whether the tar of `key` is missing, or not whole."""
        return key in self._tars_left

    def write(self, sample: Sample) -> None:
        """Add a sample to its tar; those before are complete then, and published."""
        name = self._tars_left[sample.record.image.key]
        if self._file is None or name != self._name:
            self.close()
            self._name, self._file = name, PendingFile(self._root / name)
        contents = sample.data, sample.record.to_bytes()
        for member, data in zip(self._members(sample.record.image.key), contents, strict=True):
            self._file.write(tar_member(member, data))

    def close(self) -> None:
        """Publish the tar that is being written."""
        if self._file is not None:
            self._file.write(TAR_END)
            self._file.publish()
            self._file = None

    def discard(self) -> None:
        """Remove a tar that is not complete."""
        if self._file is not None:
            self._file.discard()

    def _members(self, key: str) -> list[str]:
        name = sample_name(key, self._names)
        return [f"{name}.{suffix}" for suffix in self._suffixes]

    def _is_whole(self, path: Path, keys: Iterable[str]) -> bool:
        """Tell whether the tar is there with all its images, as an earlier run left it."""
        if not path.is_file():
            return False
        try:
            return [member.name for member in read_members(path)] == [
                name for key in keys for name in self._members(key)
            ]
        except StoreError:
            return False


def _cut(job: ExportJob, left_out: Collection[str]) -> Iterator[list[str]]:
    """Fill tar after tar with the keys of shard after shard, but for those `left_out`; yield the keys of each tar."""
    limit = job.settings.tar_mib * 2**20
    tar: list[str] = []
    num_bytes = 0
    for stored in job.source.shards:
        sample_bytes = job.sample_bytes(stored)
        for key in stored.rows:
            if key in left_out:
                continue
            if tar and num_bytes + sample_bytes > limit:
                yield tar
                tar, num_bytes = [], 0
            tar.append(key)
            num_bytes += sample_bytes
    if tar:
        yield tar


SINKS: dict[ExportFormat, type[Sink]] = {"webdataset": TarSink, "safetensors": FileSink, "npy": ArraySink}
