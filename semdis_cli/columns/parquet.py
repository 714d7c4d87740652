"""Tables in Parquet, as JSON lines in a temporary file: a row group would have to be unpacked whole for each row."""

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.files.atomic import explain_write_error
from semdis_cli.files.disk import spool_file, temporary_folder
from semdis_cli.files.parquet import class_names, holds_bytes, plain
from semdis_cli.stops import looking
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
            names = [field.name for field in schema if not holds_bytes(field.type)]
            spool = _Spool()
            for batch in looking(file.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False)):
                spool.write(b"".join(map(_line, batch.to_pylist())))
            return ParquetRows(spool, class_names(schema.metadata))
    except pa.ArrowException as error:
        raise UsageError(f"cannot be read as Parquet ({first_line(error)})", place=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({first_line(error)})", place=path) from error


def _line(row: Mapping[str, Any]) -> bytes:
    fields = {name: value for name, cell in row.items() if (value := plain(cell)) is not None}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"
