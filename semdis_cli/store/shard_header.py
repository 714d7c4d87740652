"""What a shard says about itself, read without its latents: a few hundred bytes an image.

A shard is a safetensors file with one stacked tensor `latents` [N,Z,h,w] and one metadata key `semdis`: the record, as
canonical JSON, in which there is the sha256 of all the rest of it.
"""

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Self

from semdis_cli.errors import StoreError
from semdis_cli.files.disk import open_at_once
from semdis_cli.files.json_text import ESCAPED
from semdis_cli.files.links import or_pointer, why_unreadable
from semdis_cli.records import Geometry, ImageRecord
from semdis_cli.store.checks import (
    MALFORMED,
    check_count,
    check_keys,
    check_object,
    check_sha256,
    check_text,
    parse_json,
)
from semdis_cli.store.record import check_source, parse_record

FORMAT_VERSION = 1
TENSOR_NAME = "latents"
METADATA_KEY = "semdis"
BYTES_PER_VALUE = {"bfloat16": 2, "float16": 2, "float32": 4}
_ALIGNMENT = 8  # of the latents in the file
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
_SHA256_FIELD = b',"record_sha256":"'  # never the first field of a record, whose names are sorted


@dataclass(frozen=True)
class ShardHeader:
    """The record of one shard, and where its latents lie.

    `shape` [N,Z,h,w], in `dtype`; `records` per row; `provenance`: the settings that made it; the latents are the
    `payload_bytes` from byte `payload_start` on, which is to the end of the file.
    """

    dtype: str
    shape: tuple[int, int, int, int]
    latents_sha256: str
    records: tuple[ImageRecord, ...]
    provenance: dict[str, Any]
    payload_start: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of the latents."""
        return prod(self.shape) * BYTES_PER_VALUE[self.dtype]


@dataclass(frozen=True)
class HeaderText:
    """The header of a safetensors file of `num_bytes`, as it stands: its `text`, and the text of the `record` in it.

    `payload_start`: where the header ends.
    """

    text: bytes
    record: str
    payload_start: int
    num_bytes: int

    @classmethod
    def read(cls, file: BinaryIO, num_bytes: int) -> Self:
        """The header with which `file` begins. Raises one of `MALFORMED` if it cannot be that of a shard."""
        header_bytes = int.from_bytes(file.read(8), "little")
        if num_bytes < 8 or header_bytes > min(num_bytes - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"its header would have {header_bytes:,} bytes, the file has {num_bytes:,}; truncated or edited"
            )
        text = file.read(header_bytes).rstrip(b" ")
        if header_bytes != len(text) + -len(text) % _ALIGNMENT:
            raise ValueError("its header is not padded as it was; damaged or edited")
        record = check_text(parse_json(text)["__metadata__"][METADATA_KEY])
        return cls(text, record, 8 + header_bytes, num_bytes)

    def check(self, dtype: str, shape: Sequence[int]) -> None:
        """Raise one of `MALFORMED` unless there is nothing but the record and one tensor, which fills the file."""
        payload_bytes = prod(shape) * BYTES_PER_VALUE[dtype]
        tensor = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [0, payload_bytes]}
        header = {"__metadata__": {METADATA_KEY: self.record}, TENSOR_NAME: tensor}
        if json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode() != self.text:
            raise ValueError("its header is not what was written with its record; damaged or edited")
        if self.num_bytes != self.payload_start + payload_bytes:
            raise ValueError(
                f"{self.num_bytes:,} bytes, but its header describes {self.payload_start + payload_bytes:,}; "
                "truncated or edited"
            )


def read_shard_header(path: Path) -> ShardHeader:
    """Read and check the header of the shard at `path`. Raises `StoreError` for all that is not as it was written.

    Every byte before the latents counts; of them only the number does.
    """
    with open_regular(path) as file:
        try:
            return parse_header(file, os.fstat(file.fileno()).st_size)
        except MALFORMED as error:
            raise no_shard(str(path), error) from error


def parse_header(file: BinaryIO, num_bytes: int) -> ShardHeader:
    """The header of the shard that `file`, of `num_bytes`, holds from here on; the latents are not read.

    Raises one of `MALFORMED` for all that is not as it was written; `no_shard` says so.
    """
    text = HeaderText.read(file, num_bytes)
    record = check_object(parse_json(text.record.encode()))
    check_fields(record)
    if canonical_json(record) != text.record:
        raise ValueError("the record is not written as it was; damaged or edited")
    check_record_sha256(text.record.encode())
    header = _parse_record(record, text.payload_start)
    text.check(header.dtype, header.shape)
    return header


def no_shard(place: str, error: Exception) -> StoreError:
    """What to raise where parsing `place` has raised `error`."""
    return StoreError(f"{place}: {or_pointer(Path(place), f'not a semdis shard ({_reason(error)})')}")


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """The file at `path`, open for reading. Raises `StoreError`; a pipe or device, which could keep us, is refused."""
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


def canonical_json(record: dict[str, Any]) -> str:
    """The one text that `record` is written as."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"))


def check_fields(record: dict[str, Any]) -> None:
    """Raise one of `MALFORMED` unless the record is of a format that we read, and has its fields."""
    if record["format"] != FORMAT_VERSION:
        raise ValueError(f"format {record['format']!s:.20}; this version reads {FORMAT_VERSION}")
    if record.keys() - {ESCAPED} != _RECORD_FIELDS:
        raise ValueError(f"a record has other fields: {sorted(record)!s:.200}")


def check_record_sha256(text: bytes) -> None:
    """Raise `ValueError` unless a record holds the sha256 of all the rest of it.

    The text is hashed as it stands, which is as it was written: formatting it anew would take longer than all else.
    """
    start = text.rindex(_SHA256_FIELD)
    end = start + len(_SHA256_FIELD) + 64
    digest = sha256(text[:start])
    digest.update(memoryview(text)[end + 1 :])
    if text[start + len(_SHA256_FIELD) : end + 1] != f'{digest.hexdigest()}"'.encode():
        raise ValueError("the record does not match its sha256; damaged or edited")


def _parse_record(record: dict[str, Any], payload_start: int) -> ShardHeader:
    N, Z, h, w = map(check_count, record["shape"])
    keys, geometries = check_keys(record["keys"], record.get(ESCAPED)), _parse_geometries(record["geometry"])
    if 0 in (N, Z, h, w) or {len(set(keys)), len(keys), len(geometries), len(record["sources"])} != {N}:
        raise ValueError("rows, keys, geometries and sources do not go together")
    header = ShardHeader(
        dtype=record["dtype"],
        shape=(N, Z, h, w),
        latents_sha256=check_sha256(record["latents_sha256"]),
        records=tuple(map(parse_record, keys, geometries, map(check_source, record["sources"]))),
        provenance=check_object(record["provenance"]),
        payload_start=payload_start,
    )
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
    if {record.geometry.bucket for record in header.records} != {(h * patch, w * patch)}:
        raise ValueError(f"an image's size does not fit latents of {h}x{w} positions")


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else f"{error!s:.300}"
