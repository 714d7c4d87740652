"""Numbers, sizes, settings and other errors in messages."""

import json
from collections.abc import Iterator
from typing import Any

_UNITS = {1: "KiB", 2: "MiB", 3: "GiB"}
_LONG_LIST = 4
_FIRST_WHOLE = 100  # from here on, decimals say nothing


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 image`, `1,200 images`; `plural`: where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def size(num_bytes: int) -> str:
    """Say a size in its unit: `0.5 KiB`, `12.0 MiB`, `205 MiB`, `1.4 GiB`."""
    power = min(3, max(1, (num_bytes.bit_length() - 1) // 10))
    number = num_bytes / 2 ** (10 * power)
    return f"{number:.1f} {_UNITS[power]}" if number < _FIRST_WHOLE else f"{number:,.0f} {_UNITS[power]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or what kind of error it is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield `a.b` and its value as text for all that is in nested settings; long lists by their length."""
    if isinstance(value, dict):
        for inner in sorted(value):
            yield from flatten(value[inner], f"{name}.{inner}" if name else inner)
    elif isinstance(value, list) and len(value) > _LONG_LIST:
        yield name, f"{len(value):,} values"
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
