"""Checks of text in our own files, before it is believed: JSON, names, keys, hashes, counts."""

import re
from collections.abc import Sequence
from typing import Any

from semdis_cli.errors import StoreError
from semdis_cli.files.json_text import ESCAPED, unescape_name
from semdis_cli.files.url import Location

# What reading a field of parsed JSON raises where the file holds something else.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

_SHARD_NAME = re.compile(r"[0-9]{8}-[0-9]{1,6}x[0-9]{1,6}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_shard_name(name: str) -> bool:
    """Tell whether `name` is the file name of a shard, and no path."""
    return _SHARD_NAME.fullmatch(name) is not None


def check_shard_name(name: object) -> str:
    """`name` if it is a shard's file name and nothing else (no path). Raises `ValueError`."""
    if not isinstance(name, str) or not is_shard_name(name):
        raise ValueError(f"{name!r:.60} is no shard name")
    return name


def check_sha256(digest: object) -> str:
    """`digest` if it is a sha256 in hex. Raises `ValueError`."""
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ValueError(f"{digest!r:.80} is no sha256")
    return digest


def check_count(value: object) -> int:
    """`value` if it is a whole number from 0 on. Raises `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def check_integer(value: object) -> int:
    """`value` if it is a whole number. Raises `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is no whole number")  # noqa: TRY004
    return value


def check_text(value: object) -> str:
    """`value` if it is a string. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")  # noqa: TRY004 (one kind of error for all that is malformed)
    return value


def check_record_key(fields: dict[str, Any]) -> str:
    """The key that a record of ours holds. Raises `ValueError`."""
    if ESCAPED not in fields:
        return check_text(fields["key"])
    return check_keys([fields["key"]], fields[ESCAPED])[0]


def check_keys(value: object, is_escaped: object) -> tuple[str, ...]:
    """`value` as keys if it is a list of them, `is_escaped`: as the record says beside it. Raises `ValueError`."""
    if is_escaped not in {None, True}:
        raise ValueError(f"{ESCAPED} is true or not there")
    texts = check_texts(value)
    return tuple(map(unescape_name, texts)) if is_escaped else texts


def check_texts(value: object) -> tuple[str, ...]:
    """`value` as a tuple if it is a list of strings. Raises `ValueError`."""
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is no list")  # noqa: TRY004
    return tuple(map(check_text, value))


def check_object(value: object) -> dict[str, Any]:
    """`value` if it is a JSON object. Raises `ValueError`."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.40} is no object")  # noqa: TRY004
    return value


def check_row(path: Location, keys: Sequence[str], row: int, key: str) -> None:
    """Raise `StoreError` unless the shard at `path`, whose rows have `keys`, has that `key` in the row."""
    if row >= len(keys) or keys[row] != key:
        raise StoreError(f"has no latents of {key!r:.80} in row {row}, but the index says so", place=path)
