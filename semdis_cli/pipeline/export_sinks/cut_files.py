"""Exports with many images a file: which of the files are left, and how one after the other is written."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from semdis_cli.events import Failure
from semdis_cli.files.atomic import PendingFile
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink, cut_files
from semdis_cli.stops import looking
from semdis_cli.store.exchange.export import Sample, make_arrays
from semdis_cli.store.reader import StoredShard
from semdis_cli.store.shards import Shard

_PART_RECORD_BYTES = 192  # what the record says of a part


class CutSink(Sink):
    """Files of about `tar_mib` with the images of shard after shard, numbered; each is published when it is complete.

    Which image goes where follows from the set and the settings alone. A file that lacks images, because of a damaged
    shard, is made again by the next run.
    """

    one_file_each = False
    name_format: ClassVar[str]  # of a file, from its number

    def __init__(self, job: ExportJob, failures: Sequence[Failure] = ()) -> None:
        self.job, self.root, self.failures = job, job.output.resolve(), failures
        self.names: list[str] = []  # of all files
        self._left: dict[str, str] = {}  # the file of each key
        self._name = ""
        self._file: PendingFile | None = None
        self._without = {failure.key for failure in failures}
        for number, keys in enumerate(looking(self.files()), job.first_file):
            name = self.name_format.format(number)
            self.names.append(name)
            if not self.is_whole(self.root / name, keys):
                self._left |= dict.fromkeys(keys, name)

    @classmethod
    def sample_bytes(cls, job: ExportJob, stored: StoredShard) -> int:
        """Estimate the bytes of one image, with its columns."""
        return super().sample_bytes(job, stored) + cls.columns_bytes(job)

    @classmethod
    def columns_bytes(cls, job: ExportJob) -> int:
        """Estimate what the columns of an image take."""
        return job.columns.mean_bytes

    def files(self) -> Iterator[Sequence[str]]:
        """Give the keys of each file."""
        return cut_files(self.job, self.sample_bytes, self._without, self.job.settings.tar_mib * 2**20)

    @abstractmethod
    def is_whole(self, path: Path, keys: Sequence[str]) -> bool:
        """Tell whether a file is there with all its images, as an earlier run left it."""

    @abstractmethod
    def end(self, file: PendingFile) -> None:
        """Write what comes behind the last image of a file."""

    def begin(self, file: PendingFile) -> None:  # most begin with the first image
        """Write what comes before the first image of a file."""

    def is_left(self, key: str) -> bool:
        """Tell whether the file of `key` is missing, or not whole."""
        return key in self._left

    @property
    def has_left(self) -> bool:
        """Tell whether any file is missing, or not whole."""
        return bool(self._left)

    def file_of(self, key: str) -> PendingFile:
        """Return the open file of an image; the one before is complete then, and published."""
        name = self._left[key]
        if self._file is None or name != self._name:
            self._publish()
            self._name, self._file = name, PendingFile(self.root / name)
            self.begin(self._file)
        return self._file

    def close(self) -> None:
        """Publish the file that is being written."""
        self._publish()

    def discard(self) -> None:
        """Remove a file that is not complete."""
        if self._file is not None:
            self._file.discard()

    def _publish(self) -> None:
        if self._file is not None:
            self.end(self._file)
            self._file.publish()
            self._file = None


class RowSink(CutSink):
    """Files of rows: the latents of an image and its parts as they lie in memory, its columns, and its record as JSON.

    `dtypes`: of each of these arrays, the latents first.
    """

    def __init__(self, job: ExportJob) -> None:
        self.dtypes = self.array_dtypes(job)
        super().__init__(job)

    @classmethod
    def sample_bytes(cls, job: ExportJob, stored: StoredShard) -> int:
        """Estimate the bytes of one image."""
        of_parts = _PART_RECORD_BYTES * len(cls.parts(job))
        num_bytes = job.array_bytes(stored, cls.array_dtypes(job)) + of_parts
        return num_bytes + cls.overhead_bytes + cls.columns_bytes(job)

    @classmethod
    def array_dtypes(cls, job: ExportJob) -> dict[str, str]:
        """Return the dtype that each array is written in, by name."""
        return job.array_dtypes(job.settings.row_dtype(job.stored_dtype), cls.parts(job))

    def sample(self, shard: Shard, row: int) -> Sample:
        """Return the arrays of a row, and their record. Raises `UnfitError`."""
        return make_arrays(shard, row, self.dtypes)
