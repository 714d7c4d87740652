"""Lines of an index taken apart at their columns, and put together with others: quick, for there may be millions.

They are those of an index whose sha256 says that it is ours: of most of them only what is needed is looked at.
"""

import re
from collections.abc import Mapping
from json import JSONDecoder, JSONEncoder
from typing import Any

from semdis_cli.files.json_text import ESCAPED, is_strange, key_fields, parse_json, to_line
from semdis_cli.records import NO_COLUMNS
from semdis_cli.store.checks import check_record_key, check_text

# A row with latents as `to_line` writes it, from its geometry on. No text in it has a quotation mark or an escape, so
# what looks like the last of its fields is that.
_REST = re.compile(rb'"geometry":\{[^}]*\},"key":"([^"\\]*)",[^\\]*"shard":"([^"]*)","status":"(ok|removed)"\}\n')
_BEFORE = b'{"columns":'
_scan = JSONDecoder().scan_once  # type: ignore[attr-defined] # typeshed does not know it
_encode = JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode

# A line: the key, the shard (None of an input that failed), whether its latents are to be used, its columns, and the
# rest of it, from the name of its first field on. A plain tuple: a named one takes as long as all the rest.
SplitLine = tuple[str, str | None, bool, Mapping[str, Any], bytes]


def split_line(line: bytes) -> SplitLine:
    """Take a line of an index apart. Raises one of `MALFORMED` for what is none."""
    columns, start = NO_COLUMNS, 1
    if line.startswith(_BEFORE):
        text = line.decode()
        columns, start = _scan(text, len(_BEFORE))
        start = len(text[:start].encode()) + 1  # a comma
    found = _REST.fullmatch(line, start)
    if found is None:
        return _split_slowly(line)
    key, shard, status = found.groups()
    return key.decode(), shard.decode(), status == b"ok", columns, line[start:]


def _split_slowly(line: bytes) -> SplitLine:
    """Take any line apart; a name of an earlier version that strict parsers do not read becomes escaped."""
    fields = parse_json(line)
    key, columns = check_record_key(fields), fields.pop("columns", NO_COLUMNS)
    if ESCAPED not in fields and is_strange(key):
        fields |= key_fields(key)
    shard = None if fields["status"] == "failed" else check_text(fields["shard"])
    return key, shard, fields["status"] == "ok", columns, to_line(fields)[1:]


def join_line(columns: bytes, rest: bytes) -> bytes:
    """Return a line with other columns, as `columns_text` writes them; without any, if that is empty."""
    return b'{"columns":%b,%b' % (columns, rest) if columns else b"{" + rest


def columns_text(columns: Any) -> str:
    """Return columns, or the value of one, as a line holds them. Raises `ValueError` for NaN."""
    return _encode(columns)
