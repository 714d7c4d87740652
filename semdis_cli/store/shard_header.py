"""What a shard says about itself, read without its latents: a few hundred bytes an image."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from semdis_cli.errors import StoreError
from semdis_cli.records import Geometry
from semdis_cli.store.checks import MALFORMED, check_count, check_object, check_sha256, check_texts, parse_json
from semdis_cli.store.plan import BYTES_PER_VALUE
from semdis_cli.store.shards import FORMAT_VERSION, SourceRecord

MAX_HEADER_BYTES = 100_000_000  # what safetensors itself accepts
_SAFETENSORS_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_RECORD_FIELDS = {
    "format",
    "dtype",
    "shape",
    "latents_sha256",
    "keys",
    "geometry",
    "sources",
    "provenance",
    "record_sha256",
}


@dataclass(frozen=True)
class ShardHeader:
    """The record of one shard, and where its latents lie.

    `shape` [N,Z,h,w], in `dtype`; `keys`, `geometries` and `sources` per row; `provenance`: the settings that made it;
    the latents are the `payload_bytes` from byte `payload_start` on, which is to the end of the file.
    """

    dtype: str
    shape: tuple[int, int, int, int]
    latents_sha256: str
    keys: tuple[str, ...]
    geometries: tuple[Geometry, ...]
    sources: tuple[SourceRecord, ...]
    provenance: dict[str, Any]
    payload_start: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of the latents."""
        return prod(self.shape) * BYTES_PER_VALUE[self.dtype]


def read_shard_header(path: Path) -> ShardHeader:
    """Read and check the header of the shard at `path`. Raises `StoreError` for all that is not as it was written.

    Every byte before the latents counts; of them only the number does.
    """
    with open_regular(path) as file:
        try:
            return _read(file)
        except (RecursionError, *MALFORMED) as error:  # nested just so deeply that it is read, but not written again
            raise StoreError(f"{path}: not a semdis shard ({_reason(error)})") from error


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, open for reading. Raises `StoreError`; a pipe or device, which could keep us, is refused."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 (a descriptor)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StoreError(f"{path}: cannot be read (not a regular file)")
            yield file
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error


def _read(file: BinaryIO) -> ShardHeader:
    num_bytes = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(8), "little")
    if num_bytes < 8 or header_bytes > min(num_bytes - 8, MAX_HEADER_BYTES):
        raise ValueError(
            f"its header would have {header_bytes:,} bytes, the file has {num_bytes:,}; truncated or edited"
        )
    header = _parse_header(file.read(header_bytes), header_bytes)
    if num_bytes != header.payload_start + header.payload_bytes:
        raise ValueError(
            f"{num_bytes:,} bytes, but its header describes {header.payload_start + header.payload_bytes:,}; "
            "truncated or edited"
        )
    return header


def _parse_header(data: bytes, header_bytes: int) -> ShardHeader:
    """The record in a safetensors header, which must describe one tensor: that of the record."""
    text = data.rstrip(b" ")
    fields = check_object(parse_json(text))
    if json.dumps(fields, separators=(",", ":")).encode() != text:
        raise ValueError("its header is not written as it was; damaged or edited")
    record_text = fields["__metadata__"]["semdis"]
    record = check_object(parse_json(record_text.encode()))
    if record["format"] != FORMAT_VERSION:
        raise ValueError(f"format {record['format']!s:.20}; this version reads {FORMAT_VERSION}")
    _check_record(record, record_text)
    header = _parse_record(record, 8 + header_bytes)
    tensor = {
        "dtype": _SAFETENSORS_NAMES[header.dtype],
        "shape": list(header.shape),
        "data_offsets": [0, header.payload_bytes],
    }
    if fields != {"__metadata__": {"semdis": record_text}, "latents": tensor}:
        raise ValueError("the tensor's dtype, shape or place is not what was written; damaged or edited")
    return header


def _check_record(record: dict[str, Any], text: str) -> None:
    """Raise `ValueError` unless the record is the one that its sha256 was taken of, to the byte."""
    if set(record) != _RECORD_FIELDS:
        raise ValueError(f"a record has other fields: {sorted(record)!s:.200}")
    rest = _canonical({name: value for name, value in record.items() if name != "record_sha256"})
    if sha256(rest.encode()).hexdigest() != record["record_sha256"] or _canonical(record) != text:
        raise ValueError("the record does not match its sha256; damaged or edited")


def _parse_record(record: dict[str, Any], payload_start: int) -> ShardHeader:
    N, Z, h, w = map(check_count, record["shape"])
    header = ShardHeader(
        dtype=record["dtype"],
        shape=(N, Z, h, w),
        latents_sha256=check_sha256(record["latents_sha256"]),
        keys=check_texts(record["keys"]),
        geometries=_parse_geometries(record["geometry"]),
        sources=tuple(map(SourceRecord.from_json, record["sources"])),
        provenance=check_object(record["provenance"]),
        payload_start=payload_start,
    )
    num_rows = {len(set(header.keys)), len(header.keys), len(header.geometries), len(header.sources)}
    if 0 in header.shape or num_rows != {N}:
        raise ValueError("rows, keys, geometries and sources do not go together")
    _check_settings(header)
    return header


def _parse_geometries(values: list[Any]) -> tuple[Geometry, ...]:
    """Each distinct one is looked at once: most images of a shard were of few sizes."""
    known: dict[str, Geometry] = {}
    geometries = []
    for value in values:
        text = repr(value)
        if text not in known:
            known[text] = Geometry.from_json(value)
        geometries.append(known[text])
    return tuple(geometries)


def _check_settings(header: ShardHeader) -> None:
    """Raise one of `MALFORMED` unless dtype, channels and image sizes are those that the settings make."""
    patch, channels = check_count(header.provenance["patch_size"]), check_count(header.provenance["channels"])
    _, Z, h, w = header.shape
    if (header.dtype, Z) != (header.provenance["dtype"], channels):
        raise ValueError("its dtype or channels are not those of its settings")
    if {geometry.bucket for geometry in header.geometries} != {(h * patch, w * patch)}:
        raise ValueError(f"an image's size does not fit latents of {h}x{w} positions")


def _canonical(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else f"{error!s:.300}"
