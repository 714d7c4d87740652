"""A shard file that is read row by row: its header is checked once, its tensors stay where they are."""

import hashlib
import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.links import why_unreadable
from semdis_cli.files.url import Location
from semdis_cli.parts import BYTES_PER_VALUE
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.store.shard_header import (
    HEADER_ALIGNMENT,
    HEADER_BUFFER,
    MAX_HEADER_BYTES,
    ShardHeader,
    StoredTensor,
    describe_tensors,
    open_regular,
    payload_bytes,
    size_of_open,
    stored_tensors,
)

_GRID = re.compile(r"-([0-9]{1,6})x([0-9]{1,6})\.safetensors$")
_HASHED_AT_ONCE = 1 << 17


@dataclass(frozen=True, slots=True)
class MappedShard:
    """Latents of a shard in its file: `shape` [N,Z,h,w] and, beside them, the other tensors of `layout`.

    They begin at byte `start` of a file of `num_bytes`.
    """

    name: str
    num_bytes: int
    start: int
    layout: LatentLayout
    shape: tuple[int, int, int, int]

    @classmethod
    def of(cls, name: str, header: ShardHeader) -> Self:
        """The shard in the file `name`, of which `header` is the header."""
        num_bytes = header.payload_start + header.payload_bytes
        return cls(name, num_bytes, header.payload_start, header.provenance.layout, header.shape)

    @property
    def grid(self) -> tuple[int, int]:
        """Latent grid (h, w)."""
        return self.shape[2], self.shape[3]

    def map(self, folder: Path) -> "dict[str, Tensor] | dict[str, ReadRows]":
        """The rows of each tensor as they lie in the file, [N, bytes a row] uint8, mapped and not read.

        Not to be written to. Where files cannot be mapped, each row is read when it is asked for. Raises `StoreError`
        if the file is not the one that was checked.
        """
        path = folder / self.name
        try:
            if path.stat().st_size != self.num_bytes:
                raise StoreError(
                    f"{path.stat().st_size} bytes, but it had {self.num_bytes} when it was opened", place=path
                )
            # Python's mmap would keep a descriptor, and a set may have more shards than a process may have files.
            data = torch.from_file(str(path), shared=False, size=self.num_bytes, dtype=torch.uint8)
        except OSError as error:
            raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error
        except RuntimeError:  # torch's mmap: ENODEV of some network disks and FUSE, no address space left
            return {tensor.name: ReadRows(path, self.start, tensor) for tensor in self._tensors}
        views = {each.name: data[self.start + each.start :][: each.num_bytes] for each in self._tensors}
        return {name: view.view(self.shape[0], -1) for name, view in views.items()}

    @property
    def _tensors(self) -> tuple[StoredTensor, ...]:
        return stored_tensors(self.layout, self.shape)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The rows of a tensor on a disk whose files cannot be mapped. It keeps no file open: there may be many shards.

    `payload_start`: where the first tensor of the file begins.
    """

    path: Path
    payload_start: int
    tensor: StoredTensor

    def __getitem__(self, row: int) -> Tensor:
        """One row, [bytes a row] uint8. Raises `StoreError` if it cannot be read."""
        num_bytes = prod(self.tensor.shape[1:]) * BYTES_PER_VALUE[self.tensor.dtype]
        with open_regular(self.path) as file:
            file.seek(self.payload_start + self.tensor.start + row * num_bytes)
            data = bytearray(file.read(num_bytes))
        if len(data) < num_bytes:
            raise StoreError("is shorter than it was when it was opened", place=self.path)
        return torch.frombuffer(data, dtype=torch.uint8)


def hash_header(path: Location, num_bytes: int) -> bytes:
    """Return the sha256 of the first `num_bytes` of a shard, all that comes before its latents. Raises `StoreError`."""
    with open_regular(path, HEADER_BUFFER) as file:
        return _hash_start(file, num_bytes)


def open_known_shard(
    path: Location, num_bytes: int, num_images: int, provenance: Provenance, header_sha256: bytes
) -> MappedShard | None:
    """Return a shard whose header was checked before: the one of `header_sha256`. None for any other file.

    `num_bytes`, `num_images` and `provenance` as in the manifest. The header is hashed, but not parsed, except for the
    description of the tensors at its end.
    """
    try:
        layout = provenance.layout
    except ValueError:
        return None
    shape = _listed_shape(path.name, num_images, layout)
    if shape is None:
        return None
    tensors = stored_tensors(layout, shape)
    end = describe_tensors(tensors)
    start = num_bytes - payload_bytes(tensors)
    if not 8 + HEADER_ALIGNMENT + len(end) <= start <= 8 + MAX_HEADER_BYTES:
        return None
    try:
        with open_regular(path) as file:
            is_known = size_of_open(file) == num_bytes and _hash_start(file, start) == header_sha256
            file.seek(start - len(end) - HEADER_ALIGNMENT)
            is_described = file.read(len(end) + HEADER_ALIGNMENT).rstrip(b" ").endswith(end)
            file.seek(0)
            is_whole = int.from_bytes(file.read(8), "little") == start - 8
    except StoreError:  # whoever parses the header says more of it
        return None
    shard = MappedShard(path.name, num_bytes, start, layout, shape)
    return shard if is_known and is_described and is_whole else None


def _listed_shape(name: str, num_images: int, layout: LatentLayout) -> tuple[int, int, int, int] | None:
    """The shape [N,Z,h,w] that a shard has by its name and the manifest."""
    grid = grid_of_name(name)
    return None if grid is None else (num_images, layout.channels, *grid)


def grid_of_name(name: str) -> tuple[int, int] | None:
    """The latent grid (h, w) that the name of a shard promises; None if it has none of ours."""
    found = _GRID.search(name)
    return None if found is None else (int(found[1]), int(found[2]))


def _hash_start(file: BinaryIO, num_bytes: int) -> bytes:
    digest, remaining = hashlib.sha256(), num_bytes
    while remaining and (data := file.read(min(remaining, _HASHED_AT_ONCE))):
        digest.update(data)
        remaining -= len(data)
    return digest.digest()
