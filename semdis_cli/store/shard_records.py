"""The records of a shard's rows, kept as the columns that they are in its header: there may be 65,536 rows."""

import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from semdis_cli.files.json_text import escape_text
from semdis_cli.records import GEOMETRY_FIELDS, FileDigest, Geometry, ImageRecord
from semdis_cli.store.checks import check_count, check_sha256, check_texts
from semdis_cli.store.record import SOURCE_FIELDS, check_source

# Size and sha256 of a row's file, and the notes that reading it left.
Source = tuple[int, str, Sequence[str]]

_MANY = 1 << 12  # geometries: most images of a shard were of few sizes
_PAIRS = struct.Struct("<10i")  # of one geometry
_GEOMETRY_FIELDS = set(GEOMETRY_FIELDS)
_SMALLEST = np.array([1, 1, 0, 1, 1])[:, None]
_DIGESTS = re.compile(r"[0-9a-f]*")
_GEOMETRY_TEXT = '{{"bucket":[{8},{9}],"crop":[{4},{5}],"image":[{6},{7}],"resized":[{2},{3}],"source":[{0},{1}]}}'
_pairs_of = itemgetter(*GEOMETRY_FIELDS)
_source_of = itemgetter("num_bytes", "sha256", "notes")


@dataclass(frozen=True, slots=True, eq=False)
class ShardRecords(Sequence[ImageRecord]):
    """The records of rows, made when they are asked for; without columns.

    `geometries`: the ten figures of each `Geometry` in its order, int32, little-endian.
    """

    keys: tuple[str, ...]
    geometries: Sequence[bytes]
    sources: Sequence[Source]

    @classmethod
    def of(cls, records: Sequence[ImageRecord]) -> "ShardRecords":
        """Return the same records as columns."""
        if isinstance(records, ShardRecords):
            return records
        sources = [
            (record.source.num_bytes, record.source.sha256, tuple(map(escape_text, record.notes))) for record in records
        ]
        geometries = [packed(record.geometry) for record in records]
        return cls(tuple(record.key for record in records), geometries, sources)

    @classmethod
    def parse(cls, keys: tuple[str, ...], geometries: object, sources: object) -> Self:
        """Parse the columns of an untrusted header that was read with `shrink`. Raises one of `MALFORMED`."""
        if not isinstance(geometries, list) or not isinstance(sources, list):
            raise ValueError("geometries or sources are no list")  # noqa: TRY004
        if not keys or {len(set(keys)), len(geometries), len(sources)} != {len(keys)}:
            raise ValueError("rows, keys, geometries and sources do not go together")
        _check_geometries(geometries)
        _check_sources(sources)
        return cls(keys, geometries, sources)

    @property
    def pairs(self) -> NDArray[np.int32]:
        """The sizes of each geometry, [N,5,2], in its order."""
        return _unpack(self.geometries)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, row: slice) -> "ShardRecords": ...
    def __getitem__(self, row: int | slice) -> "ImageRecord | ShardRecords":
        if isinstance(row, slice):
            return ShardRecords(self.keys[row], self.geometries[row], self.sources[row])
        return _make_record(self.keys[row], self.geometries[row], self.sources[row])

    def __iter__(self) -> Iterator[ImageRecord]:
        return map(_make_record, self.keys, self.geometries, self.sources)

    def geometry_text(self) -> str:
        """Return the geometries as they are written."""
        texts: dict[bytes, str] = {}  # most images of a shard were of few sizes
        for geometry in self.geometries:
            if geometry not in texts:
                texts[geometry] = _GEOMETRY_TEXT.format(*_PAIRS.unpack(geometry))
        return f"[{','.join(map(texts.__getitem__, self.geometries))}]"

    def source_text(self) -> str:
        """Return the sources as they are written."""
        texts = [
            f'{{"notes":{_text_of(notes)},"num_bytes":{num_bytes},"sha256":"{sha256}"}}'
            for num_bytes, sha256, notes in self.sources
        ]
        return f"[{','.join(texts)}]"


@lru_cache(_MANY)
def packed(geometry: Geometry) -> bytes:
    """Return a geometry as it is kept in `ShardRecords`."""
    return _PAIRS.pack(*(side for pair in geometry.pairs for side in pair))


def shrink(fields: dict[str, Any]) -> dict[str, Any] | bytes | Source:
    """Return less of an object of a header while the rest is parsed: a geometry packed, and a source as a tuple.

    All the small lists and dictionaries of a large shard would keep Python's garbage collector busy for longer than all
    the rest takes. JSON itself has neither bytes nor tuples.
    """
    if fields.keys() == SOURCE_FIELDS:
        num_bytes, sha256, notes = _source_of(fields)
        return num_bytes, sha256, notes or ()
    if fields.keys() == _GEOMETRY_FIELDS:
        try:
            (a, b), (c, d), (e, f), (g, h), (i, j) = _pairs_of(fields)
            return _PAIRS.pack(a, b, c, d, e, f, g, h, i, j)
        except (TypeError, ValueError, struct.error):  # whoever checks it says what is wrong
            return fields
    return fields


def _check_geometries(values: list[Any]) -> None:
    """Raise `ValueError` as `Geometry.from_json` does for the first that is none."""
    for value in values:
        if type(value) is not bytes:
            raise _refusal(value)
    pairs = _unpack(values)
    _, resized, crop, image, bucket = pairs.astype(np.int64).swapaxes(0, 1)
    is_bad = (pairs < _SMALLEST).any((1, 2)) | (crop + image > resized).any(1) | (image > bucket).any(1)
    if is_bad.any():
        row = int(is_bad.argmax())
        raise _refusal(dict(zip(GEOMETRY_FIELDS, pairs[row].tolist(), strict=True)))


def _refusal(value: object) -> ValueError:
    try:
        Geometry.from_json(value)
    except ValueError as error:
        return error
    return ValueError("a geometry is none")


def _check_sources(values: list[Any]) -> None:
    """Raise one of `MALFORMED` unless all are such as `shrink` makes, and make sense."""
    for value in values:
        if type(value) is not tuple:
            check_source(value)
    sizes, digests, notes = zip(*values, strict=True)
    are_good = set(map(type, sizes)) == {int} and min(sizes) >= 0 and set(map(len, digests)) == {64}
    if not are_good or not _DIGESTS.fullmatch("".join(digests)):
        for num_bytes, sha256, _ in values:
            check_count(num_bytes)
            check_sha256(sha256)
    for some in filter(None, notes):
        check_texts(some)


def _unpack(geometries: Sequence[bytes]) -> NDArray[np.int32]:
    return np.frombuffer(b"".join(geometries), dtype="<i4").reshape(-1, 5, 2)


def _make_record(key: str, geometry: bytes, source: Source) -> ImageRecord:
    a, b, c, d, e, f, g, h, i, j = _PAIRS.unpack(geometry)
    num_bytes, sha256, notes = source
    return ImageRecord(
        key, Geometry((a, b), (c, d), (e, f), (g, h), (i, j)), FileDigest(num_bytes, sha256), tuple(notes)
    )


def _text_of(notes: Sequence[str]) -> str:
    return json.dumps(notes, separators=(",", ":")) if notes else "[]"
