"""Checks of single values that a plan in a file says, before they are believed. Each raises `ValueError`."""

import re
from typing import Any

_MOST = 1 << 63  # beyond all sizes, places and times
_STRAY = re.compile(r"(?:^|/)\.{0,2}(?:/|\Z)|\0")  # in a path that may lead out of a folder, or nowhere


def check_number(value: object) -> int:
    """Return a whole number from 0 on, of 63 bits."""
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError(f"{value!r:.40} is no number")
    return value


def check_integer(value: object) -> int:
    """Return a whole number of 63 bits and a sign."""
    if type(value) is not int or not -_MOST < value < _MOST:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def check_time(value: object) -> int | None:
    """Return a time in nanoseconds, or None."""
    return None if value is None else check_integer(value)


def check_text(value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")  # noqa: TRY004
    return value


def check_flag(value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is neither true nor false")  # noqa: TRY004
    return value


def check_list(value: object) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is no list")  # noqa: TRY004
    return value


def check_object(value: object) -> dict[str, Any]:
    """Return an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.40} is no object")  # noqa: TRY004
    return value


def check_key(key: str) -> str:
    """Return the key of an image: a path that leads nowhere else."""
    if not key or key.startswith("/") or "\0" in key or ".." in key.split("/"):
        raise ValueError(f"{key!r:.80} is no key")
    return key


def check_inside(path: str) -> str:
    """Return a path within a source, which leads to nothing beside it."""
    if _STRAY.search(path):
        raise ValueError(f"{path!r:.80} leads out of its source")
    return path
