"""Tables in Parquet, as JSON lines in a temporary file: a row group would have to be unpacked whole for each row."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from semdis_cli.columns.spooled import SpooledRows
from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.files.parquet import OpenParquet, class_names, holds_bytes, plain
from semdis_cli.stops import looking
from semdis_cli.wording import first_line


def spool_parquet(path: Path) -> SpooledRows:
    """Copy the rows of a Parquet file; columns that hold bytes, as pictures do, are left out.

    Raises `MissingExtraError` without pyarrow, `UsageError` for what is no Parquet, `NoSpaceError` for a full disk.
    """
    try:
        opened = OpenParquet(path)
        names = [field.name for field in opened.schema if not holds_bytes(field.type)]
        batches = chain.from_iterable(opened.batches(group, names) for group in range(opened.num_groups))
        rows = chain.from_iterable(map(_rows, looking(batches)))
        return SpooledRows.of(rows, class_names(opened.schema.metadata))
    except UnreadableImageError as error:
        raise UsageError(f"cannot be read as Parquet ({error.reason})", place=path) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror or first_line(error)})", place=path) from error


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # some cell is no value of Python
        names = batch.schema.names
        rows = [{name: _cell(batch.column(name)[row]) for name in names} for row in range(batch.num_rows)]
    return ({name: value for name, cell in row.items() if (value := plain(cell)) is not None} for row in rows)


def _cell(cell: Any) -> Any:
    """Return the value of a cell: of text that is no UTF-8 so that whoever reads the row sees it, of odd dates none."""
    try:
        return cell.as_py()
    except OverflowError:
        return None
    except ValueError:
        return cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape") if hasattr(cell, "as_buffer") else None
