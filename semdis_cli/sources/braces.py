"""Brace notation in the names of sources, as shells and WebDataset have it: `{00000..01023}.tar`, `{train,val}`."""

import re
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from semdis_cli.errors import UsageError
from semdis_cli.files.url import Location, Url, parse_location

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_MOST = 1 << 20  # names that one source may stand for


def expand_braces(sources: Sequence[Location]) -> tuple[Location, ...]:
    """Return the sources that names with braces stand for; those that exist as they are stay.

    Numbers have the digits of the first one if that begins with 0. Raises `UsageError` for too many of them.
    """
    return tuple(path for source in sources for path in _expanded(source))


def _expanded(source: Location) -> Iterator[Location]:
    texts = _BRACES.split(source.text if isinstance(source, Url) else str(source))
    choices = [_choices(text, source) if number % 2 else [text] for number, text in enumerate(texts)]
    if all(len(each) == 1 for each in choices) or _exists(source):
        yield source
        return
    _check(prod(map(len, choices)), source)
    for parts in product(*choices):
        yield parse_location("".join(parts))


def _choices(inside: str, source: Location) -> Sequence[str]:
    """Return what stands for the text between two braces: itself with them if it is no notation."""
    found = _RANGE.fullmatch(inside)
    if found is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(found[1]), int(found[2])
    _check(abs(last - first) + 1, source)
    width = len(found[1]) if found[1].startswith("0") else 1
    numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return [f"{number:0{width}d}" for number in numbers]


def _check(number: int, source: Location) -> None:
    if number > _MOST:
        raise UsageError(f"stands for {number:,} sources; name a folder instead", place=source)


def _exists(path: Location) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
