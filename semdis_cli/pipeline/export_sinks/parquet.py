"""Exports as tables: `parquet`."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from semdis_cli.errors import UnreadableImageError
from semdis_cli.files.atomic import PendingFile
from semdis_cli.files.json_text import escape_name
from semdis_cli.files.parquet import OpenParquet
from semdis_cli.parts import LATENTS
from semdis_cli.pipeline.export_sinks.cut_files import RowSink
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.store.columns import CAPTION, LABEL
from semdis_cli.store.exchange.columns import written_names
from semdis_cli.store.exchange.parquet_writer import Field, ParquetWriter, check_pyarrow
from semdis_cli.store.shards import Shard

_OURS = ("key", "latents", "shape", "dtype", "record")


class ParquetSink(RowSink):
    """Parquet files with a row for each image: key, bytes, shape and dtype of its latents, parts, columns and record.

    Bytes are read some hundred times as fast as lists, and hold images of any size and bfloat16.
    """

    name_format = "{:06d}.parquet"
    overhead_bytes = 1024  # key and record

    def __init__(self, job: ExportJob, _: Mapping[str, PurePosixPath]) -> None:
        kinds = job.columns.kinds
        first = [name for name in (CAPTION, LABEL) if name in kinds]
        names = [*first, *(name for name in kinds if name not in first)]
        self._names = dict(zip(names, written_names(names, (*_OURS, *self.parts(job))), strict=True))
        self._writer: ParquetWriter | None = None
        super().__init__(job)

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Look whether pyarrow is there, and keys are paths."""
        check_pyarrow()
        return super().name_files(job)

    def begin(self, file: PendingFile) -> None:
        """Begin a table."""
        provenance = self.job.source.provenance
        self._writer = ParquetWriter(file, self._fields(), {"semdis": provenance.text})

    def write(self, shard: Shard, row: int) -> None:
        """Add an image to its table."""
        sample, key = self.sample(shard, row), shard.keys[row]
        self.file_of(key)
        assert self._writer is not None, "its file was begun"
        record = sample.record.to_bytes().decode().rstrip("\n")
        fields = {
            "key": escape_name(key),
            "latents": sample.data,
            "shape": list(shard.latents[row].shape),
            "dtype": self.dtypes[LATENTS],
            **sample.parts,
            **self._values(key),
            "record": record,
        }
        num_bytes = len(sample.data) + sum(map(len, sample.parts.values()))
        self._writer.add(fields, num_bytes + len(record) + self.job.columns.mean_bytes)

    def end(self, file: PendingFile) -> None:  # noqa: ARG002 # the writer has it
        """Write the end of a table."""
        assert self._writer is not None, "it was begun"
        self._writer.end()
        self._writer = None

    def discard(self) -> None:
        """Remove a table that is not complete."""
        if self._writer is not None:
            self._writer.abandon()
        super().discard()

    def is_whole(self, path: Path, keys: Sequence[str]) -> bool:
        """Tell whether the table has a row for each image."""
        try:
            opened = OpenParquet(path)
        except (OSError, UnreadableImageError):
            return False
        return opened.starts[-1] == len(keys) and opened.schema.names == [field.name for field in self._fields()]

    def _fields(self) -> list[Field]:
        columns = self.job.columns
        of_columns = []
        for name, written in self._names.items():
            kind = columns.kinds[name]
            classes = columns.classes if name == LABEL and kind == "int" else ()
            of_columns.append(Field(written, "text" if kind == "json" else kind, classes))
        latents = Field("latents", "bytes"), Field("shape", "shape"), Field("dtype", "text")
        parts = (Field(name, "bytes") for name in self.dtypes if name != LATENTS)
        return [Field("key", "text"), *latents, *parts, *of_columns, Field("record", "text")]

    def _values(self, key: str) -> dict[str, Any]:
        """Return the columns of an image by their names in the table."""
        values = self.job.columns.flat(key)
        return {written: values[name] for name, written in self._names.items()}
