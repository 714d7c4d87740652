"""Tables in Parquet, as JSON lines in a temporary file: a row group would have to be unpacked whole for each row."""

import json
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.files.atomic import explain_write_error
from semdis_cli.files.disk import spool_file, temporary_folder
from semdis_cli.stops import looking
from semdis_cli.store.checks import MALFORMED, check_texts, parse_json
from semdis_cli.wording import first_line

_ROWS_AT_ONCE = 4096


class _Spool:
    """Temporary file that is there as long as this object lives."""

    def __init__(self) -> None:
        """Make it. Raises `UsageError` where there is no place for it."""
        self._folder = temporary_folder() or Path("memory")
        try:
            self._spool = spool_file(temporary_folder())
        except OSError as error:
            raise explain_write_error(self._folder, error) from error
        weakref.finalize(self, self._spool.file.close)

    @property
    def path(self) -> Path:
        """The path that opens it."""
        return self._spool.path

    def write(self, data: bytes) -> None:
        """Append `data`. Raises `NoSpaceError` for a full disk."""
        left = memoryview(data)
        try:
            while left:  # a nearly full disk takes less at a time
                left = left[self._spool.file.write(left) :]
        except OSError as error:
            raise explain_write_error(self._folder, error) from error


@dataclass(frozen=True)
class ParquetRows:
    """Rows of a Parquet file as JSON lines in `spool`. `classes`: names of the numbers in a column, by its name."""

    spool: _Spool
    classes: Mapping[str, tuple[str, ...]]

    @property
    def path(self) -> Path:
        """Path of the copy, as long as this lives."""
        return self.spool.path


def spool_parquet(path: Path) -> ParquetRows:
    """Copy the rows of a Parquet file; columns that hold bytes, as pictures do, are left out.

    Raises `MissingExtraError` without pyarrow, `UsageError` for what is no Parquet, `NoSpaceError` for a full disk.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        what = f"a Parquet table needs pyarrow: pip install 'semdis[parquet]' ({error!s:.200})"
        raise MissingExtraError(what, place=path) from error
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = [field.name for field in schema if not _holds_bytes(field.type)]
            spool = _Spool()
            for batch in looking(file.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False)):
                spool.write(b"".join(map(_line, batch.to_pylist())))
            return ParquetRows(spool, class_names(schema.metadata or {}))
    except pa.ArrowException as error:
        raise UsageError(f"cannot be read as Parquet ({first_line(error)})", place=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({first_line(error)})", place=path) from error


def class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Return the names of the numbers in each column of classes, as `datasets` notes them beside a schema."""
    try:
        features = parse_json(metadata[b"huggingface"])["info"]["features"]
        named = {name: fields["names"] for name, fields in features.items() if "names" in fields}
        return {name: check_texts(names) for name, names in named.items()}
    except MALFORMED:  # the metadata are for other programs, and prove nothing
        return {}


def _holds_bytes(kind: Any) -> bool:
    """Tell whether values of an Arrow type hold bytes that are no text."""
    storage = getattr(kind, "storage_type", kind)
    inner = [storage.field(number).type for number in range(storage.num_fields)]
    return "binary" in str(storage) if not inner else any(map(_holds_bytes, inner))


def _line(row: Mapping[str, Any]) -> bytes:
    fields = {name: value for name, cell in row.items() if (value := _plain(cell)) is not None}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: NaN, by which pandas marks what is missing, as none, times as texts."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | bool) else str(value)
