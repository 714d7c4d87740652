"""Lines of an index taken apart at their columns, and put together with others: quick, for there may be millions.

They are those of an index whose sha256 says that it is ours: of most of them only what is needed is looked at.
"""

import re
from json import JSONDecoder, JSONEncoder
from typing import Any, NamedTuple

from semdis_cli.files.json_text import ESCAPED, is_strange, key_fields, parse_json, to_line
from semdis_cli.records import NO_COLUMNS
from semdis_cli.store.checks import check_record_key, check_text

# A row with latents as `to_line` writes it, less what comes before its geometry; the text of its key holds no escape.
_REST = re.compile(
    r'"geometry":\{[0-9a-z:,"\[\]]*\},"key":"([^"\\]*)",(?:"notes":\[[^\[\]\\]*\],)?"num_bytes":[0-9]+,"row":[0-9]+,'
    r'"sha256":"[0-9a-f]{64}","shard":"([-0-9a-z.]+)","status":"(ok|removed)"\}\n'
)
_BEFORE = '{"columns":'
_scan = JSONDecoder().scan_once  # type: ignore[attr-defined] # typeshed does not know it
_encode = JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class SplitLine(NamedTuple):
    """A line of an index: its `key`, its `columns`, and the `rest` of it, from the name of its first field on.

    `shard`: None of an input that failed. `is_ok`: it has latents that are to be used.
    """

    key: str
    shard: str | None
    is_ok: bool
    columns: dict[str, Any]
    rest: str

    def joined(self, columns: str) -> bytes:
        """Return the line with other columns, as `columns_text` writes them; of none, if that is empty."""
        return (f"{_BEFORE}{columns},{self.rest}" if columns else f"{{{self.rest}").encode()


def split_line(line: bytes) -> SplitLine:
    """Take a line of an index apart. Raises one of `MALFORMED` for what is none."""
    text, columns, start = line.decode(), {}, 1
    if text.startswith(_BEFORE):
        columns, start = _scan(text, len(_BEFORE))
        start += 1  # a comma
    found = _REST.fullmatch(text, start)
    if found is None:
        return _split_slowly(line)
    key, shard, status = found.groups()
    return SplitLine(key, shard, status == "ok", columns, text[start:])


def _split_slowly(line: bytes) -> SplitLine:
    """Take any line apart; a name of an earlier version that strict parsers do not read becomes escaped."""
    fields = parse_json(line)
    key, columns = check_record_key(fields), fields.pop("columns", NO_COLUMNS)
    if ESCAPED not in fields and is_strange(key):
        fields |= key_fields(key)
    shard = None if fields["status"] == "failed" else check_text(fields["shard"])
    return SplitLine(key, shard, fields["status"] == "ok", dict(columns), to_line(fields)[1:].decode())


def columns_text(columns: dict[str, Any]) -> str:
    """Return columns as a line holds them; nothing if there are none. Raises `ValueError` for NaN."""
    return _encode(columns) if columns else ""
