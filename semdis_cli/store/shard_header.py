"""The header of a shard, read without its latents: a few hundred bytes an image.

A shard is a safetensors file with one stacked tensor `latents` [N,Z,h,w], other tensors of N rows if its settings ask
for such parts, and one metadata key `semdis`: the record, as canonical JSON, in which there is the sha256 of all the
rest of it.
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
from typing import Any, BinaryIO

from semdis_cli.errors import StoreError
from semdis_cli.files.disk import open_at_once
from semdis_cli.files.json_text import ESCAPED, escape_name, is_strange, parse_json
from semdis_cli.files.links import or_pointer, why_unreadable
from semdis_cli.files.url import Location, Url
from semdis_cli.parts import BYTES_PER_VALUE, LATENTS
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import FileDigest, ImageRecord
from semdis_cli.store.checks import MALFORMED, check_count, check_keys, check_object, check_sha256, check_text
from semdis_cli.store.shard_records import ShardRecords, shrink

FORMAT_VERSION = 1
METADATA_KEY = "semdis"
HEADER_ALIGNMENT = 8  # of the tensors in the file
MAX_HEADER_BYTES = 100_000_000  # what safetensors itself accepts
HEADER_BUFFER, LIST_BUFFER = 1 << 18, 4 << 20  # of files in stores
_SAFETENSORS_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float8_e4m3": "F8_E4M3", "int8": "I8"}
_FIELDS = {"format", "dtype", "shape", "latents_sha256", "keys", "geometry", "sources", "provenance", "record_sha256"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a shard: `shape` [N,...] of `dtype`, and at which byte it begins, counted from the first tensor."""

    name: str
    dtype: str
    shape: tuple[int, int, int, int]
    start: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return prod(self.shape) * BYTES_PER_VALUE[self.dtype]


@dataclass(frozen=True)
class ShardHeader:
    """The record of one shard, and where its latents lie.

    `shape` [N,Z,h,w] of the latents, in `dtype`; `records` per row; `provenance`: the settings that made it;
    `record_sha256`: of the record, which has that of all `tensors` in it. They are the `payload_bytes` from byte
    `payload_start` on, which is to the end of the file.
    """

    dtype: str
    shape: tuple[int, int, int, int]
    latents_sha256: str
    records: ShardRecords
    provenance: Provenance
    record_sha256: str
    payload_start: int

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """All tensors, in the order of the file."""
        return stored_tensors(self.provenance.layout, self.shape)

    @property
    def payload_bytes(self) -> int:
        """Bytes of all tensors."""
        return payload_bytes(self.tensors)


def read_shard_header(path: Location, expected: FileDigest | None = None) -> ShardHeader:
    """Read and check the header of the shard at `path`; of the tensors only the number of bytes counts.

    `expected`: as the manifest says, of which only the size is looked at. Raises `StoreError` naming the file for all
    that is not as it was written.
    """
    with open_shard(path, expected) as file:
        return parse_header(file, size_of_open(file), str(path))


@contextmanager
def open_shard(path: Location, expected: FileDigest | None) -> Iterator[BinaryIO]:
    """Open the file of a shard for reading. Raises `StoreError` if it cannot be read, or is not of `expected` size."""
    with open_regular(path, HEADER_BUFFER) as file:
        num_bytes = size_of_open(file)
        if expected is not None and num_bytes != expected.num_bytes:
            what = f"{num_bytes} bytes, but the manifest says {expected.num_bytes}; damaged"
            raise StoreError(or_pointer(path, what), place=path)
        yield file


def parse_header(file: BinaryIO, num_bytes: int, place: str) -> ShardHeader:
    """Parse the header of the shard that `file`, of `num_bytes`, holds from here on; the latents are not read.

    Raises `StoreError` beginning with `place` for all that is not as it was written.
    """
    try:
        return _parse(file, num_bytes)
    except MALFORMED as error:
        raise no_shard(place, f"no {error}" if isinstance(error, KeyError) else f"{error!s:.300}") from error


def _parse(file: BinaryIO, num_bytes: int) -> ShardHeader:
    record_text, rest, payload_start = _read_text(file, num_bytes)
    fields = check_object(parse_json(record_text.encode(), shrink))
    if fields["format"] != FORMAT_VERSION:
        raise ValueError(f"format {fields['format']!s:.20}; this version reads {FORMAT_VERSION}")
    if fields.keys() - {ESCAPED} != _FIELDS:
        raise ValueError(f"a record has other fields: {sorted(fields)!s:.200}")
    digest = fields.pop("record_sha256")
    keys = check_keys(fields["keys"], fields.get(ESCAPED))
    records = ShardRecords.parse(keys, fields.pop("geometry"), fields.pop("sources"))
    provenance = Provenance.from_json(fields.pop("provenance"))
    written, written_sha256 = render_record(fields, records, provenance)
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
        provenance=provenance,
        record_sha256=written_sha256,
        payload_start=payload_start,
    )
    _check_settings(header)
    if rest != describe_tensors(header.tensors):
        raise ValueError("its header is not what was written with its record; damaged or edited")
    end = payload_start + header.payload_bytes
    if num_bytes != end:
        raise ValueError(f"{num_bytes:,} bytes, but its header describes {end:,}; truncated or edited")
    return header


def _read_text(file: BinaryIO, num_bytes: int) -> tuple[str, bytes, int]:
    """Read the header with which a safetensors file of `num_bytes` begins.

    Returns the record in it, what comes after that, and where the latents begin. Raises one of `MALFORMED`.
    """
    header_bytes = int.from_bytes(file.read(8), "little")
    if num_bytes < 8 or header_bytes > min(num_bytes - 8, MAX_HEADER_BYTES):
        raise ValueError(
            f"its header would have {header_bytes:,} bytes, the file has {num_bytes:,}; truncated or edited"
        )
    text = file.read(header_bytes).rstrip(b" ")
    if header_bytes != len(text) + -len(text) % HEADER_ALIGNMENT:
        raise ValueError("its header is not padded as it was; damaged or edited")
    record_text = check_text(parse_json(text)["__metadata__"][METADATA_KEY])
    start = _metadata_text(record_text)
    if not text.startswith(start):
        raise ValueError("its header is not what was written with its record; damaged or edited")
    return record_text, text[len(start) :], 8 + header_bytes


def _check_settings(header: ShardHeader) -> None:
    """Raise one of `MALFORMED` unless rows, dtype, channels and image sizes are those that the settings make."""
    layout = header.provenance.layout
    N, Z, h, w = header.shape
    if 0 in header.shape or len(header.records) != N:
        raise ValueError("rows, keys, geometries and sources do not go together")
    if (header.dtype, Z) != (layout.dtype, layout.channels):
        raise ValueError("its dtype or channels are not those of its settings")
    if (header.records.pairs[:, 4] != [h * layout.patch_size, w * layout.patch_size]).any():
        raise ValueError(f"an image's size does not fit latents of {h}x{w} positions")


def stored_tensors(layout: LatentLayout, shape: tuple[int, int, int, int]) -> tuple[StoredTensor, ...]:
    """Return the tensors of a shard whose latents are of `shape` [N,Z,h,w], one right after the other."""
    num_rows, found, start = shape[0], [], 0
    for tensor in layout.tensors((shape[2], shape[3])):
        found.append(StoredTensor(tensor.name, tensor.dtype, (num_rows, *tensor.shape), start))
        start += found[-1].num_bytes
    return tuple(found)


def payload_bytes(tensors: Sequence[StoredTensor]) -> int:
    """Return the size of all tensors of a shard in bytes."""
    return tensors[-1].start + tensors[-1].num_bytes


def render_header(
    tensors: Sequence[StoredTensor], latents_sha256: str, records: Sequence[ImageRecord], provenance: Provenance
) -> bytes:
    """Return all that comes before the tensors in the file of a shard, byte for byte as safetensors writes it.

    `latents_sha256` (hex): of all `tensors`, which are in the order of the file.
    """
    latents = next(tensor for tensor in tensors if tensor.name == LATENTS)
    keys = [record.key for record in records]
    fields = {
        "format": FORMAT_VERSION,
        "dtype": latents.dtype,
        "shape": list(latents.shape),
        "latents_sha256": latents_sha256,
        "keys": list(map(escape_name, keys)),
    }
    if any(map(is_strange, keys)):
        fields[ESCAPED] = True
    record_text, _ = render_record(fields, ShardRecords.of(records), provenance)
    text = _metadata_text(record_text) + describe_tensors(tensors)
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _metadata_text(record_text: str) -> bytes:
    """Return the beginning of a header, up to what comes after its record."""
    metadata = {"__metadata__": {METADATA_KEY: record_text}}
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).removesuffix("}").encode()


def describe_tensors(tensors: Sequence[StoredTensor]) -> bytes:
    """Return the end of the header of a shard, from after its record on: what safetensors says of its tensors."""
    described = {
        tensor.name: {
            "dtype": _SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [tensor.start, tensor.start + tensor.num_bytes],
        }
        for tensor in tensors
    }
    return f",{json.dumps(described, separators=(',', ':'))[1:]}".encode()


def render_record(fields: dict[str, Any], records: ShardRecords, provenance: Provenance) -> tuple[str, str]:
    """Return the one text that a record is written as, and its sha256, which is in it.

    `fields`: all others as JSON values, keys as they are written. Raises one of `MALFORMED` for what is no JSON.
    """
    texts = {name: canonical_json(value) for name, value in fields.items()}
    texts |= {"geometry": records.geometry_text(), "sources": records.source_text(), "provenance": provenance.text}
    digest = sha256()
    for part in _parts(texts):
        digest.update(part.encode())
    return "".join(_parts(texts | {"record_sha256": f'"{digest.hexdigest()}"'})), digest.hexdigest()


def _parts(texts: dict[str, str]) -> Iterator[str]:
    for number, name in enumerate(sorted(texts)):
        yield f'{"," if number else "{"}"{name}":'
        yield texts[name]
    yield "}"


def canonical_json(value: object) -> str:
    """Return the one text that `value` is written as. Raises one of `MALFORMED` for what is no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def no_shard(place: str, reason: str) -> StoreError:
    """Return what to raise where the file at `place` is no shard, or a pointer to one."""
    return StoreError(or_pointer(Path(place), f"not a semdis shard ({reason})"), place=place)


@contextmanager
def open_regular(path: Location, far_buffer: int = LIST_BUFFER) -> Iterator[BinaryIO]:
    """Open the file at `path` for reading. Raises `StoreError`; a pipe or device, which could keep us, is refused.

    `far_buffer`: of a file in a store, the least bytes that are asked for at a time.
    """
    try:
        if isinstance(path, Url):
            with path.open(buffering=far_buffer) as file:
                yield file
            return
        with open(path, "rb", opener=_open_at_once) as local:
            if not stat.S_ISREG(os.fstat(local.fileno()).st_mode):
                raise StoreError("cannot be read (not a regular file)", place=path)
            yield local
    except IsADirectoryError as error:
        raise StoreError("cannot be read (not a regular file)", place=path) from error
    except OSError as error:
        raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error


def size_of_open(file: BinaryIO) -> int:
    """Return the size of an open file, which is at its beginning then."""
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    return num_bytes


def _open_at_once(path: str, flags: int) -> int:
    return open_at_once(path, flags)
