"""The header of a shard, read without its latents: a few hundred bytes an image.

A shard is a safetensors file with one stacked tensor `latents` [N,Z,h,w] and one metadata key `semdis`: the record, as
canonical JSON, in which there is the sha256 of all the rest of it.
"""

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
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.files.disk import open_at_once
from semdis_cli.files.json_text import ESCAPED
from semdis_cli.files.links import or_pointer, why_unreadable
from semdis_cli.store.checks import (
    MALFORMED,
    check_count,
    check_keys,
    check_object,
    check_sha256,
    check_text,
    parse_json,
)
from semdis_cli.store.shard_records import ShardRecords, shrink

FORMAT_VERSION = 1
TENSOR_NAME = "latents"
METADATA_KEY = "semdis"
BYTES_PER_VALUE = {"bfloat16": 2, "float16": 2, "float32": 4}
_ALIGNMENT = 8  # of the latents in the file
_MAX_HEADER_BYTES = 100_000_000  # what safetensors itself accepts
_SAFETENSORS_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_FIELDS = {"format", "dtype", "shape", "latents_sha256", "keys", "geometry", "sources", "provenance", "record_sha256"}


@dataclass(frozen=True)
class ShardHeader:
    """The record of one shard, and where its latents lie.

    `shape` [N,Z,h,w], in `dtype`; `records` per row; `provenance`: the settings that made it; `record_sha256`: of the
    record, which has that of the latents in it. The latents are the `payload_bytes` from byte `payload_start` on, which
    is to the end of the file.
    """

    dtype: str
    shape: tuple[int, int, int, int]
    latents_sha256: str
    records: ShardRecords
    provenance: dict[str, Any]
    record_sha256: str
    payload_start: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of the latents."""
        return prod(self.shape) * BYTES_PER_VALUE[self.dtype]


def read_shard_header(path: Path, expected: PublishedFile | None = None) -> ShardHeader:
    """Read and check the header of the shard at `path`; of the latents only the number of bytes counts.

    `expected`: as the manifest says, of which only the size is looked at. Raises `StoreError` naming the file for all
    that is not as it was written.
    """
    with open_shard(path, expected) as file:
        return parse_header(file, os.fstat(file.fileno()).st_size, str(path))


@contextmanager
def open_shard(path: Path, expected: PublishedFile | None) -> Iterator[BinaryIO]:
    """Open the file of a shard for reading. Raises `StoreError` if it cannot be read, or is not of `expected` size."""
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if expected is not None and num_bytes != expected.num_bytes:
            what = f"{num_bytes} bytes, but the manifest says {expected.num_bytes}; damaged"
            raise StoreError(f"{path}: {or_pointer(path, what)}")
        yield file


def parse_header(file: BinaryIO, num_bytes: int, place: str) -> ShardHeader:
    """Parse the header of the shard that `file`, of `num_bytes`, holds from here on; the latents are not read.

    Raises `StoreError` beginning with `place` for all that is not as it was written.
    """
    try:
        return _parse(file, num_bytes)
    except MALFORMED as error:
        raise no_shard(place, error) from error


def _parse(file: BinaryIO, num_bytes: int) -> ShardHeader:
    text = _read_text(file, num_bytes)
    record_text = check_text(parse_json(text)["__metadata__"][METADATA_KEY])
    fields = check_object(parse_json(record_text.encode(), shrink))
    if fields["format"] != FORMAT_VERSION:
        raise ValueError(f"format {fields['format']!s:.20}; this version reads {FORMAT_VERSION}")
    if fields.keys() - {ESCAPED} != _FIELDS:
        raise ValueError(f"a record has other fields: {sorted(fields)!s:.200}")
    digest = fields.pop("record_sha256")
    keys = check_keys(fields["keys"], fields.get(ESCAPED))
    records = ShardRecords.parse(keys, fields.pop("geometry"), fields.pop("sources"))
    written, written_sha256 = render_record(fields, records)
    if digest != written_sha256:
        raise ValueError("the record does not match its sha256; damaged or edited")
    if record_text != written:
        raise ValueError("the record is not written as it was; damaged or edited")
    N, Z, h, w = map(check_count, fields["shape"])
    header = ShardHeader(
        dtype=fields["dtype"],
        shape=(N, Z, h, w),
        latents_sha256=check_sha256(fields["latents_sha256"]),
        records=records,
        provenance=check_object(fields["provenance"]),
        record_sha256=written_sha256,
        payload_start=8 + len(text) + -len(text) % _ALIGNMENT,
    )
    _check_settings(header)
    _check_safetensors(text, record_text, header, num_bytes)
    return header


def _read_text(file: BinaryIO, num_bytes: int) -> bytes:
    """The header with which a safetensors file of `num_bytes` begins. Raises `ValueError`."""
    header_bytes = int.from_bytes(file.read(8), "little")
    if num_bytes < 8 or header_bytes > min(num_bytes - 8, _MAX_HEADER_BYTES):
        raise ValueError(
            f"its header would have {header_bytes:,} bytes, the file has {num_bytes:,}; truncated or edited"
        )
    text = file.read(header_bytes).rstrip(b" ")
    if header_bytes != len(text) + -len(text) % _ALIGNMENT:
        raise ValueError("its header is not padded as it was; damaged or edited")
    return text


def _check_settings(header: ShardHeader) -> None:
    """Raise one of `MALFORMED` unless rows, dtype, channels and image sizes are those that the settings make."""
    patch, channels = check_count(header.provenance["patch_size"]), check_count(header.provenance["channels"])
    N, Z, h, w = header.shape
    if 0 in header.shape or len(header.records) != N:
        raise ValueError("rows, keys, geometries and sources do not go together")
    if (header.dtype, Z) != (header.provenance["dtype"], channels):
        raise ValueError("its dtype or channels are not those of its settings")
    if (header.records.pairs[:, 4] != [h * patch, w * patch]).any():
        raise ValueError(f"an image's size does not fit latents of {h}x{w} positions")


def _check_safetensors(text: bytes, record_text: str, header: ShardHeader, num_bytes: int) -> None:
    """Raise one of `MALFORMED` unless there is nothing but the record and one tensor, which fills the file."""
    offsets = [0, header.payload_bytes]
    tensor = {"dtype": _SAFETENSORS_NAMES[header.dtype], "shape": list(header.shape), "data_offsets": offsets}
    written = {"__metadata__": {METADATA_KEY: record_text}, TENSOR_NAME: tensor}
    if json.dumps(written, ensure_ascii=False, separators=(",", ":")).encode() != text:
        raise ValueError("its header is not what was written with its record; damaged or edited")
    end = header.payload_start + header.payload_bytes
    if num_bytes != end:
        raise ValueError(f"{num_bytes:,} bytes, but its header describes {end:,}; truncated or edited")


def render_record(fields: dict[str, Any], records: ShardRecords) -> tuple[str, str]:
    """Return the one text that a record is written as, and its sha256, which is in it.

    `fields`: all others as JSON values, keys as they are written. Raises one of `MALFORMED` for what is no JSON.
    """
    texts = {name: canonical_json(value) for name, value in fields.items()}
    texts |= {"geometry": records.geometry_text(), "sources": records.source_text()}
    digest = sha256(_join(texts).encode()).hexdigest()
    return _join(texts | {"record_sha256": canonical_json(digest)}), digest


def _join(texts: dict[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{texts[name]}' for name in sorted(texts)) + "}"


def canonical_json(value: object) -> str:
    """Return the one text that `value` is written as. Raises one of `MALFORMED` for what is no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def no_shard(place: str, error: Exception) -> StoreError:
    """Return what to raise where reading `place` has raised `error`."""
    reason = f"no {error}" if isinstance(error, KeyError) else f"{error!s:.300}"
    return StoreError(f"{place}: {or_pointer(Path(place), f'not a semdis shard ({reason})')}")


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open the file at `path` for reading. Raises `StoreError`; a pipe or device, which could keep us, is refused."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StoreError(f"{path}: cannot be read (not a regular file)")
            yield file
    except IsADirectoryError as error:
        raise StoreError(f"{path}: cannot be read (not a regular file)") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({why_unreadable(path, error)})") from error


def _open_at_once(path: str, flags: int) -> int:
    return open_at_once(path, flags)
