"""A shard file that is read row by row: its header is checked once, its latents stay where they are."""

import json
import os
import struct
from dataclasses import dataclass, fields
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.files.json_text import ESCAPED
from semdis_cli.files.links import or_pointer, why_unreadable
from semdis_cli.records import Geometry
from semdis_cli.store.checks import MALFORMED, check_count, check_keys, check_object
from semdis_cli.store.record import SOURCE_FIELDS
from semdis_cli.store.shard_header import (
    HeaderText,
    check_fields,
    check_record_sha256,
    no_shard,
    open_regular,
)
from semdis_cli.store.shards import STORE_DTYPES

_GEOMETRY_FIELDS = {field.name for field in fields(Geometry)}
_GEOMETRY_PAIRS = itemgetter("source", "resized", "crop", "image", "bucket")
_PAIRS = struct.Struct("<10q")


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

    def map(self, folder: Path) -> "Tensor | ReadRows":
        """The rows as they lie in the file, [N, bytes a row] uint8, mapped and not read. Not to be written to.

        Where files cannot be mapped, each row is read when it is asked for. Raises `StoreError` if the file is not the
        one that was checked.
        """
        path = folder / self.name
        try:
            if path.stat().st_size != self.num_bytes:
                raise StoreError(f"{path}: {path.stat().st_size} bytes, but it had {self.num_bytes} when it was opened")
            # Python's mmap would keep a descriptor, and a set may have more shards than a process may have files.
            data = torch.from_file(str(path), shared=False, size=self.num_bytes, dtype=torch.uint8)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({why_unreadable(path, error)})") from error
        except RuntimeError:  # torch's mmap: ENODEV of some network disks and FUSE, no address space left
            return ReadRows(path, self)
        return data[self.start :].view(self.shape[0], -1)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The rows of a shard on a disk whose files cannot be mapped. It keeps no file open: there may be many shards."""

    path: Path
    shard: MappedShard

    def __getitem__(self, row: int) -> Tensor:
        """One row, [bytes a row] uint8. Raises `StoreError` if it cannot be read."""
        num_bytes = prod(self.shard.shape[1:]) * self.shard.dtype.itemsize
        with open_regular(self.path) as file:
            file.seek(self.shard.start + row * num_bytes)
            data = bytearray(file.read(num_bytes))
        if len(data) < num_bytes:
            raise StoreError(f"{self.path}: is shorter than it was when it was opened")
        return torch.frombuffer(data, dtype=torch.uint8)


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
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if expected is not None and num_bytes != expected.num_bytes:
            what = f"{num_bytes} bytes, but the manifest says {expected.num_bytes}; damaged"
            raise StoreError(f"{path}: {or_pointer(path, what)}")
        try:
            return _parse(path.name, HeaderText.read(file, num_bytes))
        except (struct.error, *MALFORMED) as error:
            raise no_shard(str(path), error) from error


def _parse(name: str, text: HeaderText) -> tuple[MappedShard, ShardRecord]:
    """The checks that a header can answer for itself. Raises many kinds of exception; `open_shard` names the file."""
    check_record_sha256(text.record.encode())
    record = check_object(json.loads(text.record, object_hook=_shrink))
    check_fields(record)
    N, Z, h, w = map(check_count, record["shape"])
    if 0 in (N, Z, h, w):
        raise ValueError(f"latents of shape {record['shape']}")
    text.check(record["dtype"], (N, Z, h, w))
    shard = MappedShard(name, text.num_bytes, text.payload_start, STORE_DTYPES[record["dtype"]], (N, Z, h, w))
    return shard, _parse_record(record, shard.shape)


def _shrink(fields: dict[str, Any]) -> dict[str, Any] | bytes | None:
    """An object of a record as it is kept while the rest is parsed: for each row only its geometry, in bytes.

    All the small lists and dictionaries of a large shard would keep Python's garbage collector busy for longer than all
    the rest takes.
    """
    if fields.keys() == _GEOMETRY_FIELDS:
        (a, b), (c, d), (e, f), (g, h), (i, j) = _GEOMETRY_PAIRS(fields)
        return _PAIRS.pack(a, b, c, d, e, f, g, h, i, j)
    return None if fields.keys() == SOURCE_FIELDS else fields


def _parse_record(record: dict[str, Any], shape: tuple[int, int, int, int]) -> ShardRecord:
    keys, provenance = check_keys(record["keys"], record.get(ESCAPED)), check_object(record["provenance"])
    pairs = np.frombuffer(b"".join(record["geometry"]), dtype="<i8").reshape(-1, 5, 2)
    if {len(set(keys)), len(keys), len(record["geometry"]), len(record["sources"])} != {shape[0]}:
        raise ValueError("rows, keys, geometries and sources do not go together")
    _check_geometries(pairs)
    patch_size = check_count(provenance["patch_size"])
    if (pairs[:, 4] != [patch_size * shape[2], patch_size * shape[3]]).any():
        raise ValueError("a geometry does not fit the latents")
    if (provenance["channels"], provenance["dtype"]) != (shape[1], record["dtype"]):
        raise ValueError("its settings are of other latents")
    sizes = pairs[:, [0, 3]].reshape(-1, 4).astype(np.int32)
    return ShardRecord(keys, sizes, provenance, record["record_sha256"])


def _check_geometries(pairs: NDArray[np.int64]) -> None:
    """Raise `ValueError` unless `pairs` [N,5,2] are what `Geometry.from_json` takes."""
    smallest = np.array([1, 1, 0, 1, 1])[:, None]
    if (pairs < smallest).any() or pairs.max() >= 2**31:
        raise ValueError("a geometry is not made of sizes")
    _, resized, crop, image, bucket = pairs.swapaxes(0, 1)
    if (crop + image > resized).any() or (image > bucket).any():
        raise ValueError("the sizes of a geometry do not go together")
