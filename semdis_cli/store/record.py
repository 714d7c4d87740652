"""An image's record as JSON: one codec for the rows of indexes and journals, headers of shards and exported samples."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from semdis_cli.files.json_text import escape_text, key_fields
from semdis_cli.provenance import is_shallow
from semdis_cli.records import MAX_COLUMNS_BYTES, NO_COLUMNS, FileDigest, Geometry, ImageRecord
from semdis_cli.store.checks import check_count, check_object, check_sha256, check_text, check_texts

_MAX_COLUMNS_DEPTH = 16  # what is nested deeper, parsers refuse each at a depth of its own
_MANY = 1 << 12  # geometries: most images of a shard were of few sizes
SOURCE_FIELDS = {"num_bytes", "sha256", "notes"}


@lru_cache(_MANY)
def geometry_text(geometry: Geometry) -> str:
    """Return a geometry as it is written."""
    return json.dumps(geometry.to_json(), sort_keys=True, separators=(",", ":"))


def row_fields(record: ImageRecord) -> dict[str, Any]:
    """Return the fields of a row of an index that hold `record`, absent ones left out."""
    fields = {**source_fields(record), **key_fields(record.key), "geometry": record.geometry.to_json()}
    if not record.notes:
        del fields["notes"]
    if record.columns:
        fields["columns"] = check_columns(dict(record.columns))
    if record.mask_sha256 is not None:
        fields["mask_sha256"] = record.mask_sha256
    return fields


def source_fields(record: ImageRecord) -> dict[str, Any]:
    """Return what a shard or a sample says of the file that an image was read from."""
    notes = list(map(escape_text, record.notes))
    return record.source.to_json() | {"notes": notes}


def check_source(value: object) -> dict[str, Any]:
    """Return `value` if it has the fields of `source_fields` and no others. Raises one of `MALFORMED`."""
    fields = check_object(value)
    if fields.keys() != SOURCE_FIELDS:
        raise ValueError(f"a source has other fields: {sorted(fields)}")
    return fields


def parse_record(key: str, geometry: Geometry, facts: Mapping[str, Any]) -> ImageRecord:
    """Parse the `facts` of an untrusted file beside `key` and `geometry`: `row_fields`, or `source_fields`.

    Raises one of `MALFORMED` for what is wrong with them; fields of other names are passed over.
    """
    columns = check_columns(facts["columns"]) if "columns" in facts else NO_COLUMNS
    notes, mask = check_texts(facts.get("notes", [])), parse_mask(facts)
    return ImageRecord(key, geometry, parse_digest(facts), notes, columns, mask)


def parse_digest(facts: Mapping[str, Any]) -> FileDigest:
    """Parse size and sha256 of a file among the `facts` of an untrusted one. Raises one of `MALFORMED`."""
    return FileDigest(check_count(facts["num_bytes"]), check_sha256(facts["sha256"]))


def parse_mask(facts: Mapping[str, Any]) -> str | None:
    """Parse the sha256 of the file of a mask, None if there was none. Raises one of `MALFORMED`."""
    return check_sha256(facts["mask_sha256"]) if "mask_sha256" in facts else None


def check_columns(value: object) -> dict[str, Any]:
    """Return `value` if it is a small JSON object that every strict parser reads. Raises one of `MALFORMED`.

    Small is 64 KiB at most, nested 16 deep at most, itself counted.
    """
    columns = check_object(value)
    if not all(map(check_text, columns)):
        raise ValueError("a column has no name")
    if not is_shallow(columns, _MAX_COLUMNS_DEPTH):
        raise ValueError(f"columns that are nested more than {_MAX_COLUMNS_DEPTH} deep")
    num_bytes = len(json.dumps(columns, ensure_ascii=False, allow_nan=False).encode())
    if num_bytes > MAX_COLUMNS_BYTES:
        raise ValueError(f"columns of {num_bytes:,} bytes; at most {MAX_COLUMNS_BYTES:,} are kept")
    return columns
