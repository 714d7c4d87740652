"""Exports with a file for each image: `safetensors` and `npy`."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import PendingFile, publish_below
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink
from semdis_cli.stops import looking
from semdis_cli.store.exchange.arrays import npy_bytes
from semdis_cli.store.exchange.export import (
    TABLE_FILE,
    SampleRecord,
    alike_names,
    array_suffix,
    impossible_names,
    make_arrays,
    make_shard_file,
)
from semdis_cli.store.shards import Shard


class FileSink(Sink):
    """A file for each image, named by its key."""

    one_file_each = True

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        self._root = job.output.resolve()
        self._names = names
        self.failures = self._check_names(job.output)
        self._impossible = {failure.key for failure in self.failures}
        keys = (key for key in names if key not in self._impossible)
        self._done = {key for key in looking(keys) if self._is_there(key)}

    def is_left(self, key: str) -> bool:
        """Tell whether `key` can have a file, and has none."""
        return key in self._names and key not in self._done and key not in self._impossible

    def write(self, shard: Shard, row: int) -> SampleRecord | None:
        """Write the file of an image, unless it is there. Raises `UsageError` where a link leads out of the folder."""
        sample = make_shard_file(shard, row)
        self._publish(shard.keys[row], sample.data)
        return sample.record

    def _check_names(self, output: Path) -> list[Failure]:
        """List the keys whose file cannot be made."""
        return _impossible(self._names, output)

    def _is_there(self, key: str) -> bool:
        return os.path.isfile(self._root / self._names[key])  # noqa: PTH113 # no OSError

    def _publish(self, key: str, data: bytes) -> None:
        if key not in self._done:
            self._publish_as(self._names[key], data)

    def _publish_as(self, name: PurePosixPath, data: bytes) -> None:
        """Publish a file below the output folder. Raises `UsageError` where a link leads out of it."""
        path = self._root / name
        if not path.parent.resolve().is_relative_to(self._root):
            raise UsageError(f"a link leads out of {self._root}; remove it", place=path)
        publish_below(self._root, path, [data])


class ArraySink(FileSink):
    """A file for each array of an image, and behind the last one a table of what they are: arrays do not say it.

    What lies beside the latents in `a.jpg.npy` is in `a.jpg.<part>.npy`.
    """

    has_table = True

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        self._parts = self.parts(job)
        self._dtypes = job.array_dtypes(job.settings.array_dtype(job.stored_dtype), self._parts)
        super().__init__(job, names)
        self._columns = job.columns
        self._table = PendingFile(self._root / TABLE_FILE)

    def needs(self, key: str) -> bool:
        """Tell whether `key` can have a file: the table lists those of earlier runs too."""
        return key not in self._impossible

    def write(self, shard: Shard, row: int) -> SampleRecord:
        """Write the files of an image, unless all are there."""
        sample, key = make_arrays(shard, row, self._dtypes, npy_bytes), shard.keys[row]
        if key not in self._done:
            for part, data in sample.parts.items():
                self._publish_as(self._beside(key, part), data)
        self._publish(key, sample.data)
        return sample.record

    def add_record(self, record: SampleRecord) -> None:
        """Add a line to the table."""
        self._table.write(record.to_bytes(self._columns.of_image(record.image.key)))

    def conclude(self) -> None:
        """Publish the table."""
        self._table.publish()

    def discard(self) -> None:
        """Remove a table that lacks lines."""
        self._table.discard()

    def _beside(self, key: str, part: str) -> PurePosixPath:
        """Name the file of an array beside the latents."""
        name = self._names[key]
        return name.with_name(f"{name.stem}.{array_suffix(part)}")

    def _check_names(self, output: Path) -> list[Failure]:
        """List the keys of which a file cannot be made, or would have the name of another's part."""
        failures = {failure.key: failure for failure in super()._check_names(output)}
        ends = tuple(f".{array_suffix(part)}" for part in self._parts)
        reason = "its file's name is kept for a part of another image; export it as webdataset"
        for key in (key for key, name in self._names.items() if name.name.lower().endswith(ends)):
            failures.setdefault(key, Failure(key, reason))
        for part in self._parts:
            for failure in _impossible({key: self._beside(key, part) for key in self._names}, output):
                failures.setdefault(failure.key, failure)
        return list(failures.values())

    def _is_there(self, key: str) -> bool:
        parts = (self._beside(key, part) for part in self._parts)
        return super()._is_there(key) and all(os.path.isfile(self._root / name) for name in parts)  # noqa: PTH113 # same


def _impossible(names: Mapping[str, PurePosixPath], output: Path) -> list[Failure]:
    """List the keys whose file cannot have its name in a folder."""
    failures = impossible_names(names, output)
    return failures + alike_names(names, output, failures)
