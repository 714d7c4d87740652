"""One shard: a safetensors file with a stacked tensor `latents` [N,Z,h,w], its parts, and one metadata key `semdis`.

The metadata holds everything needed to decode the shard on its own, and the sha256 of itself and of the tensors'
bytes, so that a flipped bit or an edited dtype is found even without the manifest.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import publish
from semdis_cli.files.url import Location
from semdis_cli.parts import LATENTS, file_order
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest, ImageRecord
from semdis_cli.store.quantised import take_rows
from semdis_cli.store.shard_header import StoredTensor, no_shard, open_shard, parse_header, render_header, size_of_open

STORE_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float8_e4m3": torch.float8_e4m3fn,
    "int8": torch.int8,
}
_NAMES = {dtype: name for name, dtype in STORE_DTYPES.items()}


@dataclass(frozen=True)
class Shard:
    """The contents of one shard file.

    `latents` [N,Z,h,w] in the stored dtype; `records` per row, without columns; `provenance`: the settings that made
    it; `parts`: the other tensors by name, N rows each, those that the settings ask for, and scales where latents are
    quantised (`real_values` gives what they stand for).
    """

    latents: Tensor
    records: Sequence[ImageRecord]
    provenance: Provenance
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The latents and the parts, by name."""
        return {LATENTS: self.latents, **self.parts}

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of each row."""
        return tuple(record.key for record in self.records)

    def select(self, rows: Sequence[int]) -> "Shard":
        """A shard of some of the rows."""
        parts = {name: take_rows(tensor, rows) for name, tensor in self.parts.items()}
        return Shard(take_rows(self.latents, rows), tuple(self.records[row] for row in rows), self.provenance, parts)


def write_shard(path: Path, shard: Shard) -> FileDigest:
    """Publish `shard` at `path`. Equal shards give equal bytes."""
    return publish(path, _chunks(shard))


def shard_bytes(shard: Shard) -> bytes:
    """The file that `shard` becomes."""
    return b"".join(_chunks(shard))


def _chunks(shard: Shard) -> list[bytes | memoryview]:
    """The file that `shard` becomes: its header, and its tensors where they lie in memory."""
    order = sorted(shard.tensors.items(), key=lambda item: file_order(item[0], _NAMES[item[1].dtype]))
    stored, payload, start = [], [], 0
    for name, tensor in order:
        N, Z, h, w = tensor.shape
        stored.append(StoredTensor(name, _NAMES[tensor.dtype], (N, Z, h, w), start))
        payload.append(memory_of(tensor.contiguous()))
        start += tensor.nbytes
    digest = hashlib.sha256()
    for data in payload:
        digest.update(data)
    return [render_header(stored, digest.hexdigest(), shard.records, shard.provenance), *payload]


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, which are not copied."""
    return tensor.view(torch.uint8).numpy().data.cast("B")


def read_shard(path: Location, expected: FileDigest | None = None) -> Shard:
    """Read and check one shard. `expected`: size and sha256 from the manifest, checked first if given.

    Raises `StoreError` naming the file for anything that is not exactly what was written.
    """
    return read_shard_file(path, expected)[0]


def read_shard_file(path: Location, expected: FileDigest | None = None) -> tuple[Shard, FileDigest]:
    """Read a shard as `read_shard` does, together with size and sha256 of its file."""
    with open_shard(path, expected) as file:
        data = np.empty(size_of_open(file), np.uint8)
        data = data[: cast("io.BufferedReader", file).readinto(data.data)]
    found = FileDigest.of(data.data)
    if expected is not None and found != expected:
        raise StoreError("its bytes do not match the sha256 in the manifest; damaged or edited", place=path)
    return _parse(data, str(path)), found


def parse_shard(data: bytes, place: str) -> Shard:
    """Check one shard whose file is `data`. Raises `StoreError` beginning with `place`."""
    return _parse(np.frombuffer(data, np.uint8).copy(), place)


def _parse(data: np.ndarray, place: str) -> Shard:
    """Check a shard whose file is `data` [bytes] uint8, in which its tensors stay."""
    num_header_bytes = 8 + int.from_bytes(data[:8].tobytes(), "little")  # as safetensors begin, if they are any
    header = parse_header(io.BytesIO(data[:num_header_bytes].data), data.size, place)
    payload = data[header.payload_start :]
    if hashlib.sha256(payload.data).hexdigest() != header.latents_sha256:
        raise no_shard(place, "the latents do not match their sha256; damaged")
    tensors = {tensor.name: _view(payload, tensor) for tensor in header.tensors}
    return Shard(tensors.pop(LATENTS), header.records, header.provenance, tensors)


def _view(payload: np.ndarray, tensor: StoredTensor) -> Tensor:
    data = torch.from_numpy(payload[tensor.start :][: tensor.num_bytes])
    return data.view(STORE_DTYPES[tensor.dtype]).view(tensor.shape)
