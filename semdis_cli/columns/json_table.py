"""Tables in one JSON value, as several programs write them. They are read whole, and so have to be small."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semdis_cli.columns.spooled import SpooledRows
from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.files.json_text import parse_json
from semdis_cli.sources.files import open_regular

MAX_BYTES = 64 << 20  # the labels of ImageNet, as EDM2 lists them, are 45 MB
_NAME = "file_name"


def spool_json(path: Path) -> SpooledRows:
    """Copy the rows of a JSON file, so that each can be found without the others.

    It is a list of rows; or `{"labels": [[name, label], ...]}`, as EDM2 has it; or an object that gives each name its
    caption, a list of several, or a row. Raises `UsageError` for anything else, and `NoSpaceError` for a full disk.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, UnreadableImageError) as error:
        what = error.strerror if isinstance(error, OSError) else error.reason
        raise UsageError(f"cannot be read ({what})", place=path) from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"is larger than {MAX_BYTES >> 20} MiB: write it as JSON lines (.jsonl)", place=path)
    try:
        data.decode()  # strictly, as that of our own files is not
        rows = _rows(parse_json(data.removeprefix(b"\xef\xbb\xbf")))
    except ValueError as error:
        raise UsageError(f"is no table ({error})", place=path) from error
    return SpooledRows.of(rows, {})


def _rows(value: Any) -> Iterator[Any]:
    """Return the rows of a table; whoever reads them says of each what is wrong with it. Raises `ValueError`."""
    if isinstance(value, list):
        return iter(value)
    if not isinstance(value, dict):
        raise ValueError("neither a list nor an object")  # noqa: TRY004 (one kind of error)
    if value.keys() == {"labels"} and (value["labels"] is None or isinstance(value["labels"], list)):
        return (_labelled(pair) for pair in value["labels"] or ())
    return (_named(name, row) for name, row in value.items())


def _labelled(pair: Any) -> Any:
    is_pair = isinstance(pair, list) and len(pair) == 2
    return {_NAME: pair[0], "label": pair[1]} if is_pair else pair


def _named(name: str, row: Any) -> Any:
    return {_NAME: name, **row} if isinstance(row, dict) else {_NAME: name, "caption": row}
