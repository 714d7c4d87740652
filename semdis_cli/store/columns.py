"""Columns of a set as its manifest knows them: how many images have each, and the names of the labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeGuard

from semdis_cli.store.checks import check_count, check_object, check_text, check_texts

CAPTION = "caption"  # the column of a text, or of several
LABEL = "label"  # the column of class numbers


@dataclass(frozen=True)
class SetColumns:
    """Columns of a set. `num_images`: by name, how many of the images that are to be used have it.

    `classes`: the names of labels 0, 1, ...; a set keeps the number of each for ever, new ones are appended. None:
    labels are numbers without names.
    """

    num_images: Mapping[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.num_images or self.classes)

    def to_json(self) -> dict[str, Any]:
        """As plain values: an object for each column."""
        fields: dict[str, Any] = {name: {"images": number} for name, number in sorted(self.num_images.items())}
        if self.classes:
            fields[LABEL] = {"images": self.num_images.get(LABEL, 0), "classes": list(self.classes)}
        return fields

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse what `to_json` gave. Raises one of `MALFORMED`."""
        fields = check_object(value)
        num_images = {check_column_name(name): check_count(facts["images"]) for name, facts in fields.items()}
        classes = check_classes(fields[LABEL].get("classes", [])) if LABEL in fields else ()
        return cls({name: number for name, number in num_images.items() if number}, classes)


NO_SET_COLUMNS = SetColumns()


def check_column_name(name: object) -> str:
    """Return `name` if a column can have it: text that is Unicode, and not empty. Raises `ValueError`."""
    text = check_text(name)
    text.encode()  # a lone surrogate is a `ValueError`
    if not text:
        raise ValueError("a column has no name")
    return text


def check_classes(value: object) -> tuple[str, ...]:
    """Return `value` as names of classes if it is a list of them, no two alike. Raises `ValueError`."""
    classes = check_texts(value)
    for name in classes:
        name.encode()
    if len(set(classes)) != len(classes):
        raise ValueError("two classes have one name")
    return classes


def is_label(value: object) -> TypeGuard[int]:
    """Tell whether `value` can be the number of a class."""
    return type(value) is int and value >= 0


def grown_classes(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of a set that had those of `before`: `now`, which begin with them, or else `before`.

    Raises `ValueError` if a class would change its number.
    """
    if now[: len(before)] != before[: len(now)]:
        raise ValueError("a class would change its number")
    return max(before, now, key=len)
