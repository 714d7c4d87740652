"""Exports with a file for each image: `safetensors` and `npy`."""

import os
from pathlib import Path

from semdis_cli.errors import UsageError
from semdis_cli.files.atomic import PendingFile, publish_below
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink
from semdis_cli.stops import looking
from semdis_cli.store.exchange.export import TABLE_FILE, Sample, SampleRecord, alike_names, impossible_names


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
