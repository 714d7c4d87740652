"""Columns of one image after the other, from wherever they come."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

from semdis_cli.columns.providers import Fields, Provider
from semdis_cli.columns.table import Table
from semdis_cli.events import ColumnTrouble
from semdis_cli.records import MAX_COLUMNS_BYTES, MadeColumns, SourceImage


@dataclass(frozen=True)
class Column:
    """One column: its `name`, what it is called where it comes from, and what makes it of the value there.

    `make` raises `ValueError`. `is_needed`: an image that has none is in trouble.
    """

    name: str
    provider: Provider
    field: str
    make: Callable[[Any], Any]
    is_needed: bool = False


@dataclass(frozen=True)
class Columns:
    """Maker of the columns of a run.

    `columns`: those of one provider follow each other. `classes`: names of the labels, all of the set. `note`: what a
    person should know of where they come from, a line.
    """

    columns: tuple[Column, ...] = ()
    classes: tuple[str, ...] = ()
    note: str = ""
    tables: tuple[Table, ...] = ()

    def columns_of(self, image: SourceImage) -> MadeColumns:
        """Return the columns of an image, and why it lacks some."""
        made: dict[str, Any] = {}
        reasons, left = [], MAX_COLUMNS_BYTES
        for outcome in self._outcomes(image):
            if isinstance(outcome, ValueError):
                reasons.append(str(outcome))
                continue
            name, value = outcome
            left -= (num_bytes := _num_bytes(name, value))
            if left < 0:
                reasons.append(f"has no {name}: its columns would take more than {MAX_COLUMNS_BYTES >> 10} KiB")
                left += num_bytes
            else:
                made[name] = value
        return MadeColumns(made, tuple(ColumnTrouble(image.key, reason) for reason in reasons))

    def troubles(self, keys: Callable[[], Iterable[str]]) -> Iterator[ColumnTrouble]:
        """Yield what is wrong with tables beyond the columns of images. `keys`: gives those of all images."""
        for table in self.tables:
            try:
                yield from chain(table.bad_rows, table.repeated(), table.unused(keys()))
            except ValueError as error:
                yield ColumnTrouble(table.name, str(error))

    def _outcomes(self, image: SourceImage) -> Iterator[tuple[str, Any] | ValueError]:
        """Yield name and value of each column that an image has, and why it lacks others."""
        for provider, columns in groupby(self.columns, attrgetter("provider")):
            try:
                fields = provider.look(image)
            except ValueError as error:
                yield error
                continue
            yield from filter(None, (_outcome(column, fields) for column in columns))


def _outcome(column: Column, fields: Fields) -> tuple[str, Any] | ValueError | None:
    """Make the value of a column; None if there is none and it need not be."""
    try:
        value = fields.get(column.field)
        if value is not None:
            return column.name, column.make(value)
    except ValueError as error:
        return ValueError(f"has no {column.name}: its {column.field} {error}")
    if column.is_needed:
        return ValueError(f"has no {column.name}: there is no {column.provider.describe(column.field)}")
    return None


def _num_bytes(name: str, value: Any) -> int:
    """Count the bytes that a column takes in a row, a comma and a blank included."""
    return len(json.dumps({name: value}, ensure_ascii=False).encode())


NO_COLUMNS_MADE = Columns()
