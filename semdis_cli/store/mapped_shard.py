"""A shard file that is read row by row: its header is checked once, its latents stay where they are."""

import hashlib
import json
import math
import struct
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from semdis_cli.atomic import PublishedFile
from semdis_cli.errors import StoreError
from semdis_cli.records import Geometry
from semdis_cli.store.checks import MALFORMED, check_count, check_object, check_texts
from semdis_cli.store.shards import FORMAT_VERSION, STORE_DTYPES, SourceRecord

_HEADER_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}  # what safetensors calls them
_SHA256_FIELD = b',"record_sha256":"'  # never the first field of a record, whose names are sorted

_GEOMETRY_FIELDS = {field.name for field in fields(Geometry)}
_SOURCE_FIELDS = {field.name for field in fields(SourceRecord)}
_SIZE = struct.Struct("<2q")  # (H, W)


@dataclass(frozen=True, slots=True)
class MappedShard:
    """Where the latents of a shard lie: `shape` [N,Z,h,w] of `dtype` from byte `start` of a file of `num_bytes`."""

    name: str
    num_bytes: int
    start: int
    dtype: torch.dtype
    shape: tuple[int, int, int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Latent grid (h, w)."""
        return self.shape[2], self.shape[3]

    def map(self, folder: Path) -> Tensor:
        """The rows as they lie in the file, [N, bytes a row] uint8, mapped and not read. Not to be written to.

        Raises `StoreError` if the file is not the one that was checked.
        """
        path = folder / self.name
        try:
            if path.stat().st_size != self.num_bytes:
                raise StoreError(f"{path}: {path.stat().st_size} bytes, but it had {self.num_bytes} when it was opened")
            # Python's mmap would keep a descriptor, and a set may have more shards than a process may have files.
            data = torch.from_file(str(path), shared=False, size=self.num_bytes, dtype=torch.uint8)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
        except RuntimeError as error:
            raise StoreError(f"{path}: cannot be mapped into memory ({error})") from error
        return data[self.start :].view(self.shape[0], -1)


@dataclass(frozen=True)
class ShardRecord:
    """What a shard says of its rows: their `keys` and `sizes` [N,4], (H, W) of the source and (H, W) of the image.

    `sha256`: of the record, which has that of the latents in it.
    """

    keys: tuple[str, ...]
    sizes: NDArray[np.int32]
    provenance: dict[str, Any]
    sha256: str


def open_shard(path: Path, expected: PublishedFile | None = None) -> tuple[MappedShard, ShardRecord]:
    """Check the header of a shard against its file; the latents themselves are not read.

    `expected`: as the manifest says, of which only the size is looked at. Raises `StoreError` naming the file.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or device would keep us waiting, or never end
            raise StoreError(f"{path}: cannot be read (not a regular file)")
        num_bytes = path.stat().st_size
        if expected is not None and num_bytes != expected.num_bytes:
            raise StoreError(f"{path}: {num_bytes} bytes, but the manifest says {expected.num_bytes}; damaged")
        return _open(path, num_bytes)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, RecursionError, struct.error, *MALFORMED) as error:
        raise StoreError(f"{path}: not a semdis shard ({error})") from error


def _open(path: Path, num_bytes: int) -> tuple[MappedShard, ShardRecord]:
    """The checks that a header can answer for itself. Raises many kinds of exception; `open_shard` names the file."""
    with safe_open(path, framework="np") as file:  # checks that the tensors fill the file, no more and no less
        if list(file.keys()) != ["latents"]:
            raise ValueError(f"tensors {sorted(file.keys())!s:.80}, expected latents alone")
        tensor, text = file.get_slice("latents"), file.metadata()["semdis"].encode()
        header_dtype, shape = tensor.get_dtype(), tensor.get_shape()
    _check_sha256(text)
    record = check_object(json.loads(text, object_hook=_shrink))
    if record["format"] != FORMAT_VERSION:
        raise ValueError(f"format {record['format']!s:.20}; this version reads {FORMAT_VERSION}")
    if header_dtype != _HEADER_DTYPES[record["dtype"]] or shape != record["shape"]:
        raise ValueError("the tensor's dtype or shape is not what was written")
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"latents of shape {shape}")
    dtype = STORE_DTYPES[record["dtype"]]
    start = num_bytes - math.prod(shape) * dtype.itemsize
    return MappedShard(path.name, num_bytes, start, dtype, tuple(shape)), _parse_record(record, shape)


def _check_sha256(text: bytes) -> None:
    """Raise `ValueError` unless a record holds the sha256 of all the rest of it.

    The text is hashed as it stands, which is as it was written: formatting it anew would take longer than all else.
    """
    start = text.rindex(_SHA256_FIELD)
    end = start + len(_SHA256_FIELD) + 64
    digest = hashlib.sha256(text[:start])
    digest.update(memoryview(text)[end + 1 :])
    if text[start + len(_SHA256_FIELD) : end + 1] != f'{digest.hexdigest()}"'.encode():
        raise ValueError("the record does not match its sha256; damaged or edited")


def _shrink(fields: dict[str, Any]) -> dict[str, Any] | bytes | None:
    """An object of a record as it is kept while the rest is parsed: for each row only its sizes, in bytes.

    All the small lists and dictionaries of a large shard would keep Python's garbage collector busy for longer than all
    the rest takes.
    """
    if fields.keys() == _GEOMETRY_FIELDS:
        return b"".join(_SIZE.pack(*fields[name]) for name in ("source", "image", "bucket"))
    return None if fields.keys() == _SOURCE_FIELDS else fields


def _parse_record(record: dict[str, Any], shape: list[int]) -> ShardRecord:
    keys, provenance = check_texts(record["keys"]), check_object(record["provenance"])
    sizes = np.frombuffer(b"".join(record["geometry"]), dtype="<i8").reshape(-1, 6)
    if {len(set(keys)), len(keys), len(record["geometry"]), len(record["sources"])} != {shape[0]}:
        raise ValueError("rows, keys, geometries and sources do not go together")
    if sizes.min() < 1 or sizes.max() >= 2**31:
        raise ValueError("a geometry is not made of sizes")
    patch_size = check_count(provenance["patch_size"])
    if (sizes[:, 4:] != [patch_size * shape[2], patch_size * shape[3]]).any():
        raise ValueError("a geometry does not fit the latents")
    if (provenance["channels"], provenance["dtype"]) != (shape[1], record["dtype"]):
        raise ValueError("its settings are of other latents")
    return ShardRecord(keys, sizes[:, :4].astype(np.int32), provenance, record["record_sha256"])
