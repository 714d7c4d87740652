"""Table of a tar, as img2dataset leaves it: a Parquet of the tar's name, whose `key` is the name of a sample."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semdis_cli.errors import UnreadableImageError
from semdis_cli.files.parquet import OpenParquet, RowReader, arrow_errors, holds_bytes
from semdis_cli.files.recent import Recent
from semdis_cli.files.url import Location, Url
from semdis_cli.sources.members import split_sample
from semdis_cli.sources.names import split_suffix
from semdis_cli.sources.parquet import PARQUET_SUFFIX, Row

_KEY = "key"
_OPEN_TABLES = 8  # a dictionary of 10,000 samples each


class TarTable:
    """Rows of the table of one tar, by sample."""

    def __init__(self, path: Path) -> None:
        """Open it, and read its keys. Raises `OSError`, and `UnreadableImageError` for what is no Parquet."""
        opened = OpenParquet(path)
        names = [field.name for field in opened.schema if not holds_bytes(field.type)]
        self._rows: dict[object, int] = {}
        if _KEY in names:
            groups = (opened.batches(group, [_KEY]) for group in range(opened.num_groups))
            keys = (key for batches in groups for batch in batches for key in batch.column(0).to_pylist())
            with arrow_errors():
                for row, key in enumerate(keys):
                    self._rows.setdefault(key, row)
        self._reader = RowReader(opened, names)

    def row(self, sample: str) -> Mapping[str, Any]:
        """Return the row of a sample; an empty one if it has none. Raises `OSError`, and `UnreadableImageError`."""
        row = self._rows.get(sample)
        return {} if row is None else Row(*self._reader.find(row))


_TABLES: Recent[Path, TarTable] = Recent(TarTable, _OPEN_TABLES)


def table_path(tar: Location) -> Location:
    """Return the path that the table of a tar has, if there is one."""
    return tar.parent / f"{split_suffix(tar.name)[0]}{PARQUET_SUFFIX}"


def table_of(tar: Location) -> TarTable | None:
    """Return the table of a tar; None if it has none, in stores, or without pyarrow. Raises what `TarTable` raises."""
    path = table_path(tar)
    if isinstance(path, Url):  # looking for it would be a request for each image
        return None
    return _TABLES.get(path) if _has_pyarrow() and path.is_file() else None


def with_table(members: Mapping[str, object], tar: Location, key: str) -> Mapping[str, object]:
    """Return the members beside an image, and what the table of its tar says where they say nothing.

    A table that cannot be read is missed only where there are no members. Raises `OSError`, `UnreadableImageError`.
    """
    try:
        table = table_of(tar)
        row = {} if table is None else table.row(split_sample(key)[0].rpartition("/")[2])
    except (OSError, UnreadableImageError):
        if not members:
            raise
        return members
    return {**row, **members}


@cache
def _has_pyarrow() -> bool:
    return find_spec("pyarrow") is not None
