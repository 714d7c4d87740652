"""JSON that every strict parser reads, whatever bytes file names are made of.

In memory an undecodable byte of a name is a lone surrogate, U+DC80 to U+DCFF (PEP 383), which is no Unicode text:
strict parsers refuse all of a file for one. In our files such a byte 0xNN is the character U+E0NN of the private use
area instead. All other names stay as they are, but for those in which U+E080 to U+E0FF stand themselves: these
characters are written byte by byte, in the same way. So no two names have one text, and texts sort as names do.
"""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from math import isinf
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
_STRANGE = re.compile("[\ud800-\udfff\ue080-\ue0ff]")
_AS_TEXT = {0xDC00 + byte: 0xE000 + byte for byte in range(0x80, 0x100)}
_AS_BYTES = {text: byte for byte, text in _AS_TEXT.items()}
ESCAPED = "escaped"  # the field of a record that says that its keys are escaped; without it they are as they stand


def escape_text(text: str) -> str:
    """`text` in which every undecodable byte 0xNN has become U+E0NN; other lone surrogates become U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text.translate(_AS_TEXT))


def is_strange(name: str) -> bool:
    """Tell whether `name` has another text than itself."""
    return not name.isascii() and _STRANGE.search(name) is not None


def escape_name(name: str) -> str:
    """The text of a file's name or path: `unescape_name` leads back."""
    if not is_strange(name):
        return name
    return escape_text(_STRANGE.sub(lambda found: _bytes_of(found[0]), name))


def unescape_name(text: str) -> str:
    """The name whose `escape_name` is `text`. Raises `ValueError` for text with surrogates that are no bytes."""
    return text.translate(_AS_BYTES).encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def key_fields(key: str) -> dict[str, Any]:
    """The fields of a record that hold `key`."""
    return {"key": escape_name(key), ESCAPED: True} if is_strange(key) else {"key": key}


def strict_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """`value` as JSON: lone surrogates are escaped as in `escape_text`, numbers that are not finite become null."""
    return json.dumps(_without_strangers(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def _without_strangers(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_strangers(name): _without_strangers(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_strangers(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return escape_text(value) if isinstance(value, str) else value


def to_line(fields: dict[str, Any] | list[Any]) -> bytes:
    """One JSON line: sorted keys, ASCII, no spaces. Names in `fields` are escaped by whoever puts them there."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{text:.40} is beyond all numbers")  # written again it would be no JSON
    return value


_make_decoder = partial(json.JSONDecoder, parse_constant=_refuse_constant, parse_float=_parse_float)
_DECODER = _make_decoder()  # made once: `json.loads` would make one for every line


def parse_json(data: bytes, shrink: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value in `data`, objects as `shrink` makes them.

    Raises `ValueError` for what is not JSON: NaN, Infinity and bottomless nesting too; and for 1e999, which is Infinity
    in Python.
    """
    decoder = _make_decoder(object_hook=shrink) if shrink else _DECODER
    text = data.decode("utf-8", "surrogatepass")
    try:
        try:
            # Half of what `decode` takes of a line is looking for blanks. (typeshed does not know the method.)
            value, end = decoder.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration:
            return decoder.decode(text)
        return value if text[end:] in {"", "\n"} else decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _bytes_of(character: str) -> str:
    """A character of the private use area as the undecodable bytes of its UTF-8; a surrogate as it is."""
    if "\ud800" <= character <= "\udfff":
        return character
    return "".join(chr(0xDC00 + byte) for byte in character.encode())
