"""Labels: class numbers of images. A set keeps the number of each class for ever; new classes come at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from semdis_cli.columns.values import is_unicode, label_number
from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import escape_text
from semdis_cli.store.columns import LABEL, SetColumns

MAX_CLASSES = 1 << 20
_MAX_NAME = 1000  # characters


@dataclass(frozen=True)
class Labels:
    """Makes labels of values, as a function. `classes`: all names of the set; none where labels are numbers alone.

    `places`: of numbers into other names than these, where each of those is among them. `are_names`: values are names.
    """

    classes: tuple[str, ...] = ()
    places: tuple[int, ...] | None = None
    are_names: bool = False

    def __call__(self, value: Any) -> int:
        """Return the label that a value is. Raises `ValueError`."""
        if self.are_names:
            return _named(self._number_of, value)
        return _within(len(self.classes), value) if self.places is None else _renumbered(self.places, value)

    @cached_property
    def _number_of(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.classes)}


def numbers(known: SetColumns) -> Labels:
    """Take numbers for labels as they are, within the classes of a set that has them."""
    return Labels(known.classes)


def _within(num_classes: int, value: Any) -> int:
    number = label_number(value)
    if number is None:
        raise ValueError(f"is {value!r:.60}, which is no number as other labels are")
    if num_classes and number >= num_classes:
        raise ValueError(f"is {number}, and the set has {num_classes} classes")
    return number


def named_numbers(names: Sequence[str], known: SetColumns) -> Labels:
    """Take numbers into `names` for labels, in the order of these in a new set."""
    classes = grown(known, names)
    number_of = {name: number for number, name in enumerate(classes)}
    return Labels(classes, tuple(number_of[name] for name in names))


def _renumbered(places: Sequence[int], value: Any) -> int:
    number = label_number(value)
    if number is None or number >= len(places):
        raise ValueError(f"is {value!r:.60}, outside its {len(places)} names")
    return places[number]


def texts(values: Iterable[Any], known: SetColumns) -> Labels:
    """Take names for labels, of which `values` are all: in a new set each has the number of its place, sorted.

    Values that are no names are passed over; calling it says of each what is wrong with it.
    """
    return Labels(grown(known, sorted(set(filter(None, map(_try_name, values))))), are_names=True)


def _named(number_of: Mapping[str, int], value: Any) -> int:
    name = _name_of(value)
    if name not in number_of:
        raise ValueError(f"is {name!r:.60}, which is no class")
    return number_of[name]


def grown(known: SetColumns, names: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of a set with `names` among them. Raises `UsageError` where these cannot be added."""
    if known.num_images.get(LABEL) and not known.classes:
        raise UsageError(
            "labels of this set are numbers without names: names cannot be added; --labels none leaves out new ones"
        )
    if len(set(names)) < len(names):
        raise UsageError("two classes have one name; --labels none does without")
    there = set(known.classes)
    classes = (*known.classes, *(name for name in names if name not in there))
    if len(classes) > MAX_CLASSES:
        raise UsageError(f"more than {MAX_CLASSES:,} different labels: are these classes?")
    return classes


def _name_of(value: Any) -> str:
    """Return the name of a class. Raises `ValueError` for what is none."""
    name = str(value) if type(value) is int else value
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME:
        raise ValueError(f"is {value!r:.60}, which is no name of a class")
    return name if is_unicode(name) else escape_text(name)


def _try_name(value: Any) -> str | None:
    try:
        return _name_of(value)
    except ValueError:
        return None
