"""Rows that lie in no lines of a file, as JSON lines in a temporary one."""

import json
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from semdis_cli.files.atomic import explain_write_error
from semdis_cli.files.disk import spool_file, temporary_folder


class SpooledRows:
    """Rows in a temporary file, which is there as long as this object lives.

    `classes`: names of the numbers in a column, by its name.
    """

    def __init__(self, classes: Mapping[str, tuple[str, ...]]) -> None:
        """Make the file. Raises `UsageError` where there is no place for it."""
        self.classes = classes
        self._folder = temporary_folder()
        try:
            self._spool = spool_file(self._folder)
        except OSError as error:
            raise explain_write_error(self._folder or Path("memory"), error) from error
        weakref.finalize(self, self._spool.file.close)

    @property
    def path(self) -> Path:
        """The path that opens it."""
        return self._spool.path

    def add(self, rows: Iterable[Any]) -> None:
        """Append rows, each a value of JSON. Raises `NoSpaceError` for a full disk."""
        left = memoryview(b"".join(map(_line, rows)))
        try:
            while left:  # a nearly full disk takes less at a time
                left = left[self._spool.file.write(left) :]
        except OSError as error:
            raise explain_write_error(self._folder or Path("memory"), error) from error


def _line(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n"
