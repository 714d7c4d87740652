"""A shard file that is read row by row: its header is checked once, its latents stay where they are."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.links import why_unreadable
from semdis_cli.store.shard_header import ShardHeader, open_regular
from semdis_cli.store.shards import STORE_DTYPES


@dataclass(frozen=True, slots=True)
class MappedShard:
    """Where the latents of a shard lie: `shape` [N,Z,h,w] of `dtype` from byte `start` of a file of `num_bytes`."""

    name: str
    num_bytes: int
    start: int
    dtype: torch.dtype
    shape: tuple[int, int, int, int]

    @classmethod
    def of(cls, name: str, header: ShardHeader) -> Self:
        """The shard in the file `name`, of which `header` is the header."""
        num_bytes = header.payload_start + header.payload_bytes
        return cls(name, num_bytes, header.payload_start, STORE_DTYPES[header.dtype], header.shape)

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
