"""Parquet as Hugging Face's `datasets` reads it: rows, a group at a time, with what it notes of each column."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, Literal

from semdis_cli.errors import MissingExtraError
from semdis_cli.files.atomic import PendingFile

_GROUP_BYTES = 16 << 20  # of a row group, which is held in memory

FieldKind = Literal["bytes", "shape", "bool", "int", "float", "text", "texts"]
_VALUES = {"bytes": "binary", "bool": "bool", "int": "int64", "float": "float64", "text": "string"}
_LISTS = {"shape": "int32", "texts": "string"}


@dataclass(frozen=True)
class Field:
    """A column of a Parquet. `classes`: the names of the numbers in it."""

    name: str
    kind: FieldKind
    classes: tuple[str, ...] = ()

    @property
    def feature(self) -> dict[str, Any]:
        """Return what `datasets` notes of it. Lists are called as all of its versions know them."""
        if self.classes:
            return {"names": list(self.classes), "_type": "ClassLabel"}
        if self.kind in _LISTS:
            return {"feature": {"dtype": _LISTS[self.kind], "_type": "Value"}, "_type": "Sequence"}
        return {"dtype": _VALUES[self.kind], "_type": "Value"}


class ParquetWriter:
    """Writes rows into a file that somebody else publishes. Equal rows give equal bytes, of one version of pyarrow."""

    def __init__(self, file: PendingFile, fields: Sequence[Field], metadata: Mapping[str, str]) -> None:
        """Begin a file. `metadata`: notes beside the schema."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        features = {"info": {"features": {field.name: field.feature for field in fields}}}
        notes = {"huggingface": json.dumps(features), **metadata}
        self._schema = pa.schema([(field.name, _arrow_type(field.kind)) for field in fields], notes)
        self._out = _Out(file)
        plain = [field.name for field in fields if field.kind != "bytes"]  # latents do not get smaller
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._out, mode="w"),
            self._schema,
            compression={field.name: "none" if field.kind == "bytes" else "snappy" for field in fields},
            use_dictionary=plain,
            write_statistics=plain,
            write_page_checksum=True,
        )
        self._rows: list[Mapping[str, Any]] = []
        self._num_bytes = 0

    def add(self, row: Mapping[str, Any], num_bytes: int) -> None:
        """Add a row of about `num_bytes`."""
        self._rows.append(row)
        self._num_bytes += num_bytes
        if self._num_bytes >= _GROUP_BYTES:
            self._write_group()

    def end(self) -> None:
        """Write what is left, and the end of the file."""
        self._write_group()
        self._writer.close()

    def abandon(self) -> None:
        """Write nothing any more."""
        self._out.file = None
        self._writer.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._num_bytes = [], 0


class _Out(RawIOBase):
    """A file as pyarrow writes to it."""

    def __init__(self, file: PendingFile) -> None:
        super().__init__()
        self.file: PendingFile | None = file
        self._position = 0

    def writable(self) -> bool:
        """Say that it takes bytes."""
        return True

    def write(self, data: Any) -> int:
        """Write all of some bytes."""
        if self.file is not None:
            self.file.write(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._position


def check_pyarrow() -> None:
    """Raise `MissingExtraError` if Parquet cannot be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        what = f"a Parquet needs pyarrow: pip install 'semdis[parquet]' ({error!s:.200})"
        raise MissingExtraError(what) from error


def _arrow_type(kind: FieldKind) -> Any:
    import pyarrow as pa

    if kind in _LISTS:
        return pa.list_(pa.type_for_alias(_LISTS[kind]))
    return pa.type_for_alias(_VALUES[kind])
