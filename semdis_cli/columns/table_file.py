"""A table as a file: opened by its suffix, with its format, and the column of keys."""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from posixpath import normpath
from typing import Any, BinaryIO

from semdis_cli.columns.json_table import spool_json
from semdis_cli.columns.parquet import spool_parquet
from semdis_cli.columns.spooled import SpooledRows
from semdis_cli.columns.table_formats import DelimitedText, JsonLines, TableFormat
from semdis_cli.errors import UsageError
from semdis_cli.files.disk import open_at_once

KEY_COLUMNS = ("key", "file_name")
_TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json", ".parquet")
_SPOOLED = {".json": spool_json, ".parquet": spool_parquet}  # of those whose rows lie in no lines, how they get there
_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # parts that no key has
_MAYBE_ODD = re.compile(r"(?:^|[/\n])\.{0,2}(?:[/\n]|$)")  # the same in one of many lines


def spool_rows(path: Path) -> SpooledRows | None:
    """Copy the rows of a table that lie in no lines there into a file of lines; None for others."""
    spool = _SPOOLED.get(path.suffix.lower())
    return None if spool is None else spool(path)


@contextmanager
def open_rows_of(path: Path, spooled: SpooledRows | None) -> Iterator[tuple[BinaryIO, TableFormat]]:
    """Open the file with the rows of the table at `path`, which are in their format.

    Raises `UsageError` for all that is wrong with it, inside too.
    """
    try:
        with _open_regular(path if spooled is None else spooled.path, path) as file:
            yield file, _format_of(path, file) if spooled is None else JsonLines()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", place=path) from error
    except ValueError as error:
        raise UsageError(str(error), place=path) from error


def _open_regular(path: Path, shown: Path) -> BinaryIO:
    """Open a file that can be read from any place. Raises `OSError`, and `UsageError` for what is no regular file."""
    descriptor = open_at_once(path)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        is_folder = "is a folder; name the tables in it"
        is_odd = "is no regular file; a table is read from several places"
        raise UsageError(is_folder if stat.S_ISDIR(mode) else is_odd, place=shown)
    return os.fdopen(descriptor, "rb")


def _format_of(path: Path, file: BinaryIO) -> TableFormat:
    """Return the format of a table by its suffix. Raises `UsageError` for another, `ValueError` for a bad first row."""
    suffix = path.suffix.lower()
    if suffix in {".jsonl", ".ndjson"}:
        return JsonLines()
    if suffix not in {".csv", ".tsv"}:
        raise UsageError(f"is no table by its suffix; known are {', '.join(_TABLE_SUFFIXES)}", place=path)
    form = DelimitedText("," if suffix == ".csv" else "\t").opened(file)
    file.seek(0)
    return form


def find_key_column(path: Path, form: TableFormat, wanted: str | None, fields: Mapping[str, Any]) -> str:
    """Return the name of the column of keys: the `wanted` one, or the first of `KEY_COLUMNS` that there is.

    `fields`: of its first row that can be read. Raises `UsageError` if the table has none.
    """
    names = form.names if isinstance(form, DelimitedText) else tuple(fields)
    for name in (wanted,) if wanted else KEY_COLUMNS:
        if name in names:
            return name
    shown = repr(wanted) if wanted else " or ".join(map(repr, KEY_COLUMNS))
    told = ", ".join(map(repr, names))
    raise UsageError(f"has no column {shown:.80} (but {told:.200}); --on says which names the images", place=path)


def key_in(fields: Mapping[str, Any], column: str) -> str:
    """Return the key in a column of a row. Raises `ValueError` if there is none."""
    name = fields.get(column)
    if not isinstance(name, str) or not name:
        raise ValueError(f"has no {column}")
    return normpath(name).lstrip("/") if _ODD.search(name) else name


def are_plain(names: Iterable[str]) -> bool:
    """Tell whether `key_in` surely gives names as they are, at once for many. Raises `TypeError` for no texts."""
    return not _MAYBE_ODD.search("\n".join(names))
