"""Exports with a file for each image: `safetensors` and `npy`."""

import os
from collections.abc import Mapping
from pathlib import PurePosixPath

from semdis_cli.errors import UsageError
from semdis_cli.files.atomic import PendingFile, publish_below
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink
from semdis_cli.stops import looking
from semdis_cli.store.exchange.export import TABLE_FILE, SampleRecord, alike_names, impossible_names, make_sample
from semdis_cli.store.shards import Shard


class FileSink(Sink):
    """A file for each image, named by its key."""

    one_file_each = True

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        self._root = job.output.resolve()
        self._settings, self._array_dtype = job.settings, job.settings.array_dtype(job.stored_dtype)
        self._names = names
        impossible = impossible_names(names, job.output)
        self.failures = impossible + alike_names(names, job.output, impossible)
        self._impossible = {failure.key for failure in self.failures}
        keys = (key for key in names if key not in self._impossible)
        self._done = {key for key in looking(keys) if os.path.isfile(self._root / names[key])}  # noqa: PTH113 # no OSError

    def is_left(self, key: str) -> bool:
        """Tell whether `key` can have a file, and has none."""
        return key in self._names and key not in self._done and key not in self._impossible

    def write(self, shard: Shard, row: int) -> SampleRecord | None:
        """Write the file of an image, unless it is there. Raises `UsageError` where a link leads out of the folder."""
        sample = make_sample(shard, row, self._settings.member, self._array_dtype)
        self._publish(sample.record.image.key, sample.data)
        return sample.record

    def close(self) -> None:
        """Do nothing: each file is published as soon as it is written."""

    def _publish(self, key: str, data: bytes) -> None:
        if key in self._done:
            return
        path = self._root / self._names[key]
        if not path.parent.resolve().is_relative_to(self._root):
            raise UsageError(f"a link leads out of {self._root}; remove it", place=path)
        publish_below(self._root, path, [data])


class ArraySink(FileSink):
    """A file for each image, and behind the last one a table of what they are: arrays do not say it themselves."""

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        super().__init__(job, names)
        self._columns = job.columns
        self._table = PendingFile(self._root / TABLE_FILE)

    def needs(self, key: str) -> bool:
        """Tell whether `key` can have a file: the table lists those of earlier runs too."""
        return key not in self._impossible

    def add_record(self, record: SampleRecord) -> None:
        """Add a line to the table."""
        self._table.write(record.to_bytes(self._columns.of_image(record.image.key)))

    def close(self) -> None:
        """Publish the table."""
        self._table.publish()

    def discard(self) -> None:
        """Remove a table that lacks lines."""
        self._table.discard()
