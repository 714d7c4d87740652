"""Tables in Parquet, as JSON lines in a temporary file: a row group would have to be unpacked whole for each row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semdis_cli.columns.spooled import SpooledRows
from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.files.parquet import class_names, holds_bytes, plain
from semdis_cli.stops import looking
from semdis_cli.wording import first_line

_ROWS_AT_ONCE = 4096


def spool_parquet(path: Path) -> SpooledRows:
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
            spooled = SpooledRows(class_names(schema.metadata))
            for batch in looking(file.iter_batches(_ROWS_AT_ONCE, columns=names, use_threads=False)):
                spooled.add(map(_row, batch.to_pylist()))
            return spooled
    except pa.ArrowException as error:
        raise UsageError(f"cannot be read as Parquet ({first_line(error)})", place=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({first_line(error)})", place=path) from error


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, cell in row.items() if (value := plain(cell)) is not None}
