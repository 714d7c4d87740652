"""Rows that lie in no lines of a file, as JSON lines in a temporary one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.columns.spool import Spool


@dataclass(frozen=True)
class SpooledRows:
    """Rows in a file that is there as long as this object. `classes`: names of the numbers in a column, by its name."""

    spool: Spool
    classes: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, rows: Iterable[Any], classes: Mapping[str, tuple[str, ...]]) -> "SpooledRows":
        """Write `rows`, each a value of JSON. Raises `UsageError` and `NoSpaceError` where there is no place for it."""
        spool = Spool()
        for row in rows:
            spool.add(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass") + b"\n")
        spool.finish()
        return cls(spool, classes)

    @property
    def path(self) -> Path:
        """The path that opens the file."""
        return self.spool.path
