"""Columns for formats whose fields are the same for all images, and never without a value."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from semdis_cli.store.columns import CAPTION, LABEL
from semdis_cli.store.exchange.columns import ExportColumns, Kind, caption_of, label_of, written_names


class FlatField(NamedTuple):
    """A field of all images: its `name`, the `column` that it is of, and the kind of its values."""

    name: str
    column: str
    kind: Kind

    def value(self, columns: Mapping[str, Any]) -> Any:
        """Return its value for an image with `columns`: of `json`, None if there is none."""
        if self.column == CAPTION and self.kind == "text":
            return caption_of(columns)
        return label_of(columns) if self.column == LABEL else columns[self.column]


def flat_fields(columns: ExportColumns, taken: Collection[str]) -> list[FlatField]:
    """Return the fields that hold all columns, beside others whose names are `taken`.

    A caption is a text, empty where there is none; if some images have several, it is the first one, and `captions`
    has all of them. A label is -1 where there is none. Another column is JSON unless each image has a value of one
    kind.
    """
    fields = []
    for name in sorted(columns.kinds, key=lambda name: (name != CAPTION, name != LABEL, name)):
        kind = columns.kinds[name]
        if name == CAPTION:
            fields.append(FlatField(CAPTION, name, "text"))
            fields += [] if kind == "text" else [FlatField("captions", name, "json")]
        elif name == LABEL:
            fields.append(FlatField(LABEL, name, "int"))
        else:
            is_plain = kind != "texts" and columns.is_complete(name)
            fields.append(FlatField(name, name, kind if is_plain else "json"))
    names = written_names([field.name for field in fields], taken)
    return [field._replace(name=name) for field, name in zip(fields, names, strict=True)]
