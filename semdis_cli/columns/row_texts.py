"""Fields of a table's row -> the text of columns as a line of an index holds it; quick, for there may be millions."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from semdis_cli.columns.find import CAPTION_NAMES, LABEL_NAMES
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.columns.table_file import KEY_COLUMNS
from semdis_cli.columns.values import as_caption, check_value
from semdis_cli.records import MAX_COLUMNS_BYTES
from semdis_cli.settings import AUTO, NONE
from semdis_cli.store.columns import CAPTION, LABEL, check_column_name
from semdis_cli.store.index_columns import columns_text

_PLAIN = 1 << 15  # characters: no doubt that a text is small enough
_MOST_SHAPES = 1000  # of rows with other names of fields, which are remembered


# What a row says of its image: the text of its columns before the label, the label as the table has it (None if there
# is none), the columns after it, the names of both, and why others are not taken. A plain tuple: there may be millions.
RowText = tuple[str, Any, str, tuple[str, ...], Sequence[str]]


class _Taken(NamedTuple):
    """A field that becomes a column: the name of that, this as JSON, what checks a value, and the field's name."""

    name: str
    text: str
    check: Callable[[Any], Any]
    field: str


class _Shape(NamedTuple):
    """Parts of rows whose fields have the same names: the text before a label, the label, and the text after it.

    `names`: of the columns, less the label. `reasons`: why others are not taken.
    """

    before: Sequence[_Taken]
    label: str | None
    after: Sequence[_Taken]
    names: tuple[str, ...]
    reasons: Sequence[str]


@dataclass
class RowTexts:
    """Takes columns from the rows of one table, whose keys are in `key_column`.

    `found`: the fields that were taken; `label_field`: the last one of them that holds labels.
    """

    settings: AttachSettings
    key_column: str
    found: set[str] = field(default_factory=set)
    label_field: str | None = None
    _shapes: dict[tuple[str, ...], _Shape] = field(default_factory=dict)

    def take(self, rows: Sequence[Mapping[str, Any]]) -> list[RowText]:
        """Return what each of some rows says."""
        names = set(map(tuple, rows))
        if len(names) == 1:  # as nearly always
            shape = self._shapes.get(names.pop()) or self._add_shape(rows[0])
            before, after = _plain_texts(shape.before, rows), _plain_texts(shape.after, rows)
            if before is not None and after is not None:
                labels = repeat(None) if shape.label is None else [row[shape.label] for row in rows]
                return list(zip(before, labels, after, repeat(shape.names), repeat(shape.reasons), strict=False))
        return list(map(self._take, rows))

    def _take(self, fields: Mapping[str, Any]) -> RowText:
        """Return what a row says."""
        before, label, after, names, reasons = self._shapes.get(tuple(fields)) or self._add_shape(fields)
        lacking: dict[str, str] = {}
        text, rest = _text(before, fields, lacking), _text(after, fields, lacking)
        if lacking:
            names = tuple(name for name in names if name not in lacking)
            reasons = [*reasons, *filter(None, lacking.values())]
        return text, None if label is None else fields[label], rest, names, reasons

    def _add_shape(self, fields: Mapping[str, Any]) -> _Shape:
        taken, label, reasons = [], None, []
        for name, wanted in self._wanted(fields):
            self.found.add(name)
            if wanted == LABEL:
                self.label_field = label = name
                continue
            try:
                check = as_caption if wanted == CAPTION else check_value
                taken.append(_Taken(check_column_name(wanted), f"{encode_basestring_ascii(wanted)}:", check, name))
            except ValueError as error:
                reasons.append(f"has a column that cannot have its name ({error})")
        taken.sort()
        names = tuple(one.name for one in taken)
        before = [one for one in taken if one.name < LABEL]
        shape = _Shape(before, label, taken[len(before) :], names, reasons)
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes[tuple(fields)] = shape
        return shape

    def _wanted(self, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Give the fields that are taken, each with the name of its column."""
        used = {self.key_column, *KEY_COLUMNS, CAPTION, LABEL}
        for wanted, setting, known in (
            (CAPTION, self.settings.captions, CAPTION_NAMES),
            (LABEL, self.settings.labels, LABEL_NAMES),
        ):
            names = () if setting == NONE else known if setting == AUTO else (setting,)
            name = next((name for name in names if name in fields), None)
            if name is not None:
                used.add(name)
                yield name, wanted
        if self.settings.columns == AUTO:
            yield from ((name, name) for name in fields if name not in used)
        yield from ((name, name) for name in self.settings.column_names if name in fields)


def _plain_texts(taken: Sequence[_Taken], rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the same columns of some rows as texts, if they are texts that need no closer look; else None."""
    columns = []
    for _, text, _, source in taken:
        values = [row[source] for row in rows]
        if set(map(type, values)) != {str}:
            return None
        quoted = list(map(encode_basestring_ascii, values))
        if max(map(len, quoted)) > _PLAIN or any("\\ud" in one for one in quoted):
            return None
        columns.append([text + one for one in quoted])
    return list(map(",".join, zip(*columns, strict=True))) if columns else [""] * len(rows)


def _text(taken: Sequence[_Taken], fields: Mapping[str, Any], lacking: dict[str, str]) -> str:
    """Return columns of a row as text. Those that it lacks are added to `lacking`, with the reason if there is one."""
    texts = []
    for name, text, check, source in taken:
        value = fields[source]
        if value is None:
            lacking[name] = ""
            continue
        try:
            texts.append(text + _value_text(value, check))
        except ValueError as error:
            lacking[name] = f"has no {name}: its {source} {error}"
    return ",".join(texts)


def _value_text(value: Any, check: Callable[[Any], Any]) -> str:
    """Return any value as a line holds it. Raises `ValueError` for one that cannot be kept."""
    text = columns_text(check(value))
    if len(text) > MAX_COLUMNS_BYTES:
        num_bytes = len(json.dumps(value, ensure_ascii=False).encode())
        if num_bytes > MAX_COLUMNS_BYTES:
            raise ValueError(f"takes {num_bytes:,} bytes, and all columns of an image at most {MAX_COLUMNS_BYTES:,}")
    return text
