"""The job of an export, and the protocol of what takes its samples."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from semdis_cli.events import Failure
from semdis_cli.provenance import BYTES_PER_VALUE
from semdis_cli.settings import ExportSettings
from semdis_cli.store.exchange.export import SampleRecord, file_names
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard

_RECORD_BYTES = 1024  # about what an image's key, geometry and source take


@dataclass(frozen=True)
class ExportJob:
    """An export: its source, settings and folder."""

    source: LatentSource
    settings: ExportSettings
    output: Path

    @property
    def stored_dtype(self) -> str:
        """Return the dtype that the latents are stored in."""
        return self.source.provenance.layout.dtype


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
    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        """Look at what is there. The output folder exists, and is locked. `names`: what `name_files` gave."""

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Name the file of each key, before anything is written.

        Raises `UsageError` for latents that the format cannot take, and `StoreError` for a key that is no path.
        """
        return file_names(job.source.keys, job.settings.member)

    @classmethod
    def describe(cls, job: ExportJob) -> dict[str, object]:  # noqa: ARG003 # most have nothing to say
        """Return what the record of the export says beside the settings: what readers need to know of the whole set."""
        return {}

    def sample_bytes(self, job: ExportJob, stored: StoredShard) -> int:
        """Estimate the bytes of one image of a shard once it is exported, the same for each run."""
        num_bytes = stored.expected.num_bytes // max(1, stored.num_images) + _RECORD_BYTES
        if job.settings.member == "npy":
            array_dtype = job.settings.array_dtype(job.stored_dtype)
            num_bytes = num_bytes * BYTES_PER_VALUE[array_dtype] // BYTES_PER_VALUE[job.stored_dtype]
        else:
            num_bytes += len(job.source.provenance.text) + 1  # as a line of JSON; tars are cut by this
        return num_bytes + self.overhead_bytes

    @abstractmethod
    def is_left(self, key: str) -> bool:
        """Tell whether the sample of `key` is still to be written."""

    def needs(self, key: str) -> bool:
        """Tell whether the sample of `key` is to be made: also of one that is there, if a table lists it."""
        return self.is_left(key)

    @abstractmethod
    def write(self, shard: Shard, row: int) -> SampleRecord | None:
        """Write the sample of a row; return its record, if there is a table of these.

        Raises `UnfitError` for latents that the format does not hold, `RefusedNameError` for a name
        that the disk does not take, and as `publish`.
        """

    @abstractmethod
    def close(self) -> None:
        """Publish what is not published yet, after the last sample."""

    def add_record(self, record: SampleRecord) -> None:  # noqa: B027 # most have no table
        """Note the record of a sample, in order."""

    def discard(self) -> None:  # noqa: B027 # most have nothing open
        """Remove what is not published."""
