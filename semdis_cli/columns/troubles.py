"""Troubles that are told once a run is through, in a temporary file until then: there may be as many as images."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from semdis_cli.columns.spool import Spool
from semdis_cli.events import ColumnTrouble


@dataclass
class SpooledTroubles:
    """Troubles in the order in which they were added."""

    _spool: Spool = field(default_factory=Spool)

    def add(self, key: str, reason: str) -> None:
        """Append one. Raises `NoSpaceError` for a full disk."""
        self._spool.add(json.dumps([key, reason]).encode() + b"\n")

    def all(self) -> Iterator[ColumnTrouble]:
        """Give them all."""
        self._spool.finish()
        yield from (ColumnTrouble(*json.loads(line)) for line in self._spool.lines())
