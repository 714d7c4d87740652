"""A setting as an option: how a field of a group says what it may be, and how the command line offers it.

A group of settings is a frozen dataclass. A field that is annotated with an `Option` is an option of every command that
takes the group; `cli.options` makes it one. Fields without an `Option` are for programs alone.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_type_hints

from semdis_cli.errors import UsageError

INPUT, COLUMNS, GEOMETRY, MODEL, DECODING, QUALITY, LATENTS, GENERATOR, OUTPUT = (  # panels of the help
    "Input",
    "Columns",
    "Geometry",
    "Model",
    "Decoding",
    "Quality",
    "Latents",
    "Generator",
    "Output",
)


@dataclass(frozen=True)
class Option:
    """Option of the command line for a setting, and the numbers that this may be.

    `flags`: its spellings, separated by spaces; empty: the field's name. `min`, `max` are shown with the option;
    `within` (least, most) replaces them where the group is checked, and is not shown. `parse` reads the text; it raises
    `UsageError`, or `ValueError` with what is wrong about it. `spell` writes the default. `is_argument`: no flag.
    """

    help: str
    panel: str | None = None
    flags: str = ""
    min: float | None = None
    max: float | None = None
    within: tuple[float, float] | None = None
    metavar: str | None = None
    envvar: str | None = None
    show_default: bool = True
    is_argument: bool = False
    parse: Callable[[str], Any] | None = None
    spell: Callable[[Any], str] = str

    def spellings(self, name: str) -> tuple[str, ...]:
        """Return the flags of the field `name`, long one first."""
        return tuple(self.flags.split()) or ("--" + name.replace("_", "-"),)

    def check(self, flag: str, value: float) -> None:
        """Raise `UsageError` for a number out of range."""
        least, most = self.within or (self.min, self.max)
        if most not in {None, math.inf} and not (least or 0) <= value <= most:
            raise UsageError(f"{flag} must be in {least or 0:g}..{most:g}, not {value:g}")
        if least is not None and not least <= value:
            raise UsageError(f"{flag} must be at least {least:g}, not {value:g}")


class OptionError(UsageError):
    """Options that do not go together. `flag`: the one that is not wanted; `why`: what is wrong with it."""

    def __init__(self, flag: str, why: str) -> None:
        super().__init__(f"{flag} {why}")
        self.flag, self.why = flag, why


def offered(group: type[Any]) -> dict[str, tuple[Any, Option]]:
    """Return the type and the `Option` of every field of `group` that has one, by the field's name."""
    hints = get_type_hints(group, include_extras=True)
    return {one.name: found for one in fields(group) if (found := option_of(hints[one.name])) is not None}


def option_of(hint: Any) -> tuple[Any, Option] | None:
    """Split an annotation into type and `Option`; None if it holds no option."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Option):
            return hint.__origin__, extra
    return None


def default_of(one: "Field[Any]") -> Any:
    """Return the default of a field; None where it is made anew for each group."""
    return None if one.default is MISSING else one.default


def check_limits(group: Any) -> None:
    """Raise `UsageError` if a number in `group` is out of the range of its `Option`."""
    for name, (_, option) in offered(type(group)).items():
        value = getattr(group, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            option.check(option.spellings(name)[0], value)


class Group:
    """Base of the groups that have limits: checks them when one is made. Raises `UsageError`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_limits(self)
