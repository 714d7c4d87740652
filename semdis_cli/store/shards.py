"""One shard: a safetensors file with one stacked tensor `latents` [N,Z,h,w] and one metadata key `semdis`.

The metadata holds everything needed to decode the shard on its own, and the sha256 of itself and of the tensor's
bytes, so that a flipped bit or an edited dtype is found even without the manifest.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from semdis_cli.atomic import PublishedFile, publish
from semdis_cli.errors import StoreError
from semdis_cli.records import Geometry
from semdis_cli.store.checks import MALFORMED, check_count, check_object, check_sha256, check_texts, parse_json

FORMAT_VERSION = 1
STORE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TENSOR_NAME = "latents"
_METADATA = "semdis"


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The file that a row was made from: its size and sha256 (hex), and the notes that reading it left."""

    num_bytes: int
    sha256: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"num_bytes": self.num_bytes, "sha256": self.sha256, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Inverse of `to_json`. Raises one of `MALFORMED` on anything else."""
        if set(fields) != {"num_bytes", "sha256", "notes"}:
            raise ValueError(f"a source has other fields: {sorted(fields)}")
        return cls(check_count(fields["num_bytes"]), check_sha256(fields["sha256"]), check_texts(fields["notes"]))


@dataclass(frozen=True)
class Shard:
    """The contents of one shard file.

    `latents` [N,Z,h,w] in the stored dtype; `keys`, `geometries` and `sources` per row; `provenance`: the settings that
    made it.
    """

    latents: Tensor
    keys: tuple[str, ...]
    geometries: tuple[Geometry, ...]
    sources: tuple[SourceRecord, ...]
    provenance: dict[str, Any]

    def select(self, rows: Sequence[int]) -> "Shard":
        """A shard of some of the rows."""
        return Shard(
            latents=self.latents[list(rows)],
            keys=tuple(self.keys[row] for row in rows),
            geometries=tuple(self.geometries[row] for row in rows),
            sources=tuple(self.sources[row] for row in rows),
            provenance=self.provenance,
        )


def write_shard(path: Path, shard: Shard) -> PublishedFile:
    """Publish `shard` at `path`. Equal shards give equal bytes."""
    return publish(path, [shard_bytes(shard)])


def shard_bytes(shard: Shard) -> bytes:
    """The file that `shard` becomes."""
    latents = shard.latents.contiguous()
    metadata = {
        "format": FORMAT_VERSION,
        "dtype": _dtype_name(latents.dtype),
        "shape": list(latents.shape),
        "latents_sha256": hashlib.sha256(_payload(latents)).hexdigest(),
        "keys": list(shard.keys),
        "geometry": [geometry.to_json() for geometry in shard.geometries],
        "sources": [source.to_json() for source in shard.sources],
        "provenance": shard.provenance,
    }
    metadata["record_sha256"] = _record_sha256(metadata)
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    return serialize({TENSOR_NAME: latents}, {_METADATA: text})


def read_shard(path: Path, expected: PublishedFile | None = None) -> Shard:
    """Read and check one shard. `expected`: size and sha256 from the manifest, checked first if given.

    Raises `StoreError` naming the file for anything that is not exactly what was written.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or device would keep us waiting, or never end
            raise StoreError(f"{path}: cannot be read (not a regular file)")
        if expected is not None and path.stat().st_size != expected.num_bytes:
            raise StoreError(
                f"{path}: {path.stat().st_size} bytes, but the manifest says {expected.num_bytes}; damaged"
            )
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    if expected is not None and hashlib.sha256(data).hexdigest() != expected.sha256:
        raise StoreError(f"{path}: its bytes do not match the sha256 in the manifest; damaged or edited")
    return parse_shard(data, str(path))


def read_rows_of(path: Path, rows: Iterable[int]) -> Iterator[Tensor]:
    """The latents [Z,h,w] of some rows of a shard that was checked when it was written. Raises `StoreError`."""
    try:
        with safe_open(path, framework="pt") as file:
            latents = file.get_slice(TENSOR_NAME)
            for row in rows:
                yield latents[row]
    except (OSError, SafetensorError, RuntimeError, IndexError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); damaged") from error


def parse_shard(data: bytes, place: str) -> Shard:
    """Check one shard whose file is `data`. Raises `StoreError` beginning with `place`."""
    try:
        return _parse(data)
    except (SafetensorError, RuntimeError, *MALFORMED) as error:  # RuntimeError: a shape that torch cannot hold
        raise StoreError(f"{place}: not a semdis shard ({error})") from error


def _parse(data: bytes) -> Shard:
    """The checks that a shard can answer for itself. Raises many kinds of exception; `parse_shard` names the file."""
    tensors = deserialize(data)  # also checks that the header fits the file, before anything is allocated
    payload_start = 8 + int.from_bytes(data[:8], "little")
    metadata = parse_json(parse_json(data[8:payload_start])["__metadata__"][_METADATA].encode())
    if metadata["format"] != FORMAT_VERSION:
        raise ValueError(f"format {metadata['format']}; this version reads {FORMAT_VERSION}")
    if _record_sha256(metadata) != metadata["record_sha256"]:
        raise ValueError("the record does not match its sha256; damaged or edited")
    if set(tensors) != {TENSOR_NAME}:
        raise ValueError(f"tensors {sorted(tensors)}, expected {TENSOR_NAME} alone")
    latents = tensors[TENSOR_NAME]
    if latents.dtype != STORE_DTYPES[metadata["dtype"]] or list(latents.shape) != metadata["shape"]:
        raise ValueError("the tensor's dtype or shape is not what was written")
    if hashlib.sha256(memoryview(data)[payload_start:]).hexdigest() != metadata["latents_sha256"]:
        raise ValueError("the latents do not match their sha256; damaged")
    keys, geometries = check_texts(metadata["keys"]), tuple(map(Geometry.from_json, metadata["geometry"]))
    sources = tuple(map(SourceRecord.from_json, metadata["sources"]))
    if (
        latents.ndim != 4
        or 0 in latents.shape
        or {len(set(keys)), len(keys), len(geometries), len(sources)} != {len(latents)}
    ):
        raise ValueError("rows, keys, geometries and sources do not go together")
    return Shard(latents, keys, geometries, sources, check_object(metadata["provenance"]))


def _record_sha256(metadata: dict[str, Any]) -> str:
    """Of all the rest of the metadata, as canonical JSON."""
    rest = {name: value for name, value in metadata.items() if name != "record_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _payload(latents: Tensor) -> memoryview:
    return latents.view(torch.uint8).numpy().data.cast("B")
