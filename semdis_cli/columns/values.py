"""Values of columns. What lies beside images is not trusted: it is checked before a record holds it.

A `ValueError` says what is wrong as the end of a sentence about the column.
"""

import math
from typing import Any

from semdis_cli.files.json_text import parse_json
from semdis_cli.records import MAX_BESIDE_BYTES
from semdis_cli.store.checks import check_object

MAX_LABEL = 2**31 - 1
_MAX_DEPTH = 8  # of lists and objects in a value
_MAX_DIGITS = 10


def read_text(data: bytes) -> str:
    """Return the text of a file beside an image, without a byte order mark and the blanks at its ends.

    Raises `ValueError` for what is too large, and for what is not UTF-8.
    """
    if len(data) > MAX_BESIDE_BYTES:
        raise ValueError(f"is larger than {MAX_BESIDE_BYTES >> 10:,} KiB")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start:,})") from error


def read_object(data: bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. Raises `ValueError` for anything else, NaN and what is not UTF-8 included."""
    text = read_text(data)
    try:
        return check_object(parse_json(text.encode()))
    except ValueError as error:
        raise ValueError(f"is no JSON object ({error})") from error


def check_value(value: object) -> Any:
    """Return `value` if it is one of JSON that every strict parser reads. Raises `ValueError`."""
    _check(value, _MAX_DEPTH)
    return value


def _check(value: object, depth: int) -> None:
    if isinstance(value, dict | list):
        if not depth:
            raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            _check(inner, depth - 1)
    elif isinstance(value, str) and not is_unicode(value):
        raise ValueError("holds half of a character (a lone surrogate)")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"is {value}, which is no number of JSON")
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise ValueError(f"is a {type(value).__name__}, which JSON does not have")


def is_unicode(text: str) -> bool:
    """Tell whether `text` has no lone surrogate, which no strict parser reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_caption(value: object) -> str | list[str]:
    """Return a caption, or a list of several. Raises `ValueError` for what is neither."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("is neither a text nor a list of texts")
    caption: str | list[str] = check_value(value)
    return caption


def as_captions(value: object) -> list[str]:
    """Return a list of captions: of a text each line that is not blank. Raises `ValueError` if there is none."""
    caption = as_caption(value)
    if isinstance(caption, list):
        return caption
    lines = [line for text in caption.splitlines() if (line := text.strip())]
    if not lines:
        raise ValueError("has no line with a caption")
    return lines


def label_number(value: object) -> int | None:
    """Return the number that a label is, also as a text of digits; None for one that is a name.

    Raises `ValueError` for a number that no label can be, and for what is neither.
    """
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
        return None
    if type(value) not in {int, str}:
        raise ValueError(f"is {value!r:.40}, neither a whole number nor a name")
    number = int(str(value))
    if not 0 <= number <= MAX_LABEL:
        raise ValueError(f"is {number}, and labels go from 0 to {MAX_LABEL:,}")
    return number
