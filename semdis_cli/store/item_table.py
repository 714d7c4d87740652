"""`items.table`: where the row of each latent that is to be used lies, in columns of fixed width.

With it a set of millions opens at once. It follows from manifest, index and shards, and is no part of the promise of a
set: where it is missing, damaged or of another manifest, all that it says is found out anew. Little-endian:

    8 bytes        the signature
    8 + 8          number of items N (the `ok` rows of the index), and of shards S
    32             sha256 of the manifest that it belongs to
    32             sha256 of all that follows
    32 x S         for each shard of the manifest the sha256 of its header, all that comes before the latents
    8 x N          where the line of each item begins in the index; rising, as keys do
    4 x N          number of its shard in the manifest
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.files.growing import GrowingArray
from semdis_cli.files.set_names import ITEMS_FILE
from semdis_cli.files.url import Location, Url
from semdis_cli.store.manifest import Manifest, ShardEntry
from semdis_cli.store.mapped_file import FileIdentity, MappedFile
from semdis_cli.store.shard_header import open_regular

_SIGNATURE = b"SEMDIS\x00\x01"
_DIGEST_BYTES = 32
_HEAD_BYTES = 88
_MANIFEST = slice(24, 56)  # where in that its sha256 is
_CHUNK_VALUES = 1 << 16


@dataclass(frozen=True)
class ItemTable:
    """Items in the order of their keys, [N].

    `offsets` [N] uint64: where the line of each begins in the index. `shards` [N] uint32: number of its shard in the
    manifest. `headers`: the sha256 of each shard's header, which agrees with manifest and index. `file`: the one that
    the columns lie in, if they were read.
    """

    offsets: NDArray[np.uint64]
    shards: NDArray[np.uint32]
    headers: tuple[bytes, ...]
    file: MappedFile | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """Return the places of the items whose lines begin at bytes from `start` up to `stop`."""
        first, last = np.searchsorted(self.offsets, np.array([start, stop], np.uint64))
        return int(first), int(last)

    def __getstate__(self) -> tuple[object, ...]:
        columns = (self.offsets, self.shards) if self.file is None else (len(self), None)
        return (*columns, self.headers, self.file)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        offsets, shards, headers, file = state
        if isinstance(file, MappedFile) and isinstance(offsets, int) and isinstance(headers, tuple):
            offsets, shards = _columns(file, offsets, len(headers))
        for name, value in zip(("offsets", "shards", "headers", "file"), (offsets, shards, headers, file), strict=True):
            object.__setattr__(self, name, value)

    def to_chunks(self, manifest_sha256: str) -> Iterator[bytes]:
        """Give the bytes of the file. Equal tables give equal bytes."""
        body = hashlib.sha256()
        for chunk in self._chunks():
            body.update(chunk)
        yield _head(len(self), len(self.headers), manifest_sha256) + body.digest()
        yield from self._chunks()

    def _chunks(self) -> Iterator[bytes]:
        """Give all that follows the head; memory holds a piece of a column at a time."""
        yield b"".join(self.headers)
        for column, dtype in ((self.offsets, "<u8"), (self.shards, "<u4")):
            for start in range(0, len(self), _CHUNK_VALUES):
                yield column[start : start + _CHUNK_VALUES].astype(dtype).tobytes()


def read_items(folder: Location, manifest: Manifest, manifest_sha256: str) -> ItemTable | None:
    """Read the table of the set in `folder`, a chunk at a time; None unless it is whole and belongs to the manifest."""
    if isinstance(folder, Url):
        return None  # it is to be mapped into memory
    try:
        with open_regular(folder / ITEMS_FILE) as file:
            identity = FileIdentity.of(os.fstat(file.fileno()))
            headers = _check(file, identity.num_bytes, manifest, manifest_sha256)
        if headers is None:
            return None
        mapped = MappedFile(folder / ITEMS_FILE, identity)
        return ItemTable(*_columns(mapped, manifest.num_ok, len(headers)), headers, mapped)
    except StoreError:
        return None


def has_items(folder: Location, manifest_sha256: str) -> bool:
    """Tell whether there is a table in `folder`, good or bad, that belongs to the manifest."""
    try:
        with open_regular(folder / ITEMS_FILE) as file:
            return _head(0, 0, manifest_sha256)[_MANIFEST] == file.read(_HEAD_BYTES)[_MANIFEST]
    except StoreError:
        return False


def _check(file: BinaryIO, num_bytes: int, manifest: Manifest, manifest_sha256: str) -> tuple[bytes, ...] | None:
    """Return the digests of the shards' headers if the file is whole, and each of its figures is within its bounds."""
    num_items, num_shards = manifest.num_ok, len(manifest.shards)
    if num_bytes != _HEAD_BYTES + _DIGEST_BYTES * num_shards + 12 * num_items:
        return None
    head = file.read(_HEAD_BYTES)
    if head[:-_DIGEST_BYTES] != _head(num_items, num_shards, manifest_sha256):
        return None
    body = hashlib.sha256(headers := file.read(_DIGEST_BYTES * num_shards))
    are_valid, last = True, -1
    for offsets in _read_column(file, "<u8", num_items):
        body.update(offsets.data)
        rises = offsets[1:] > offsets[:-1]  # no difference: it would not be below zero
        are_valid = are_valid and bool(rises.all()) and last < int(offsets[0])
        last = int(offsets[-1])
    for shards in _read_column(file, "<u4", num_items):
        body.update(shards.data)
        are_valid = are_valid and int(shards.max()) < num_shards
    if not are_valid or last >= manifest.index.num_bytes or body.digest() != head[-_DIGEST_BYTES:]:
        return None
    return tuple(headers[start : start + _DIGEST_BYTES] for start in range(0, len(headers), _DIGEST_BYTES))


def _read_column(file: BinaryIO, dtype: str, count: int) -> Iterator[NDArray[np.unsignedinteger]]:
    """Give `count` values, none of the pieces empty. Raises `StoreError` where the file is too short."""
    for start in range(0, count, _CHUNK_VALUES):
        number = min(_CHUNK_VALUES, count - start)
        data = file.read(number * np.dtype(dtype).itemsize)
        if len(data) < number * np.dtype(dtype).itemsize:
            raise StoreError("became shorter while it was read")
        yield np.frombuffer(data, dtype)


def _head(num_items: int, num_shards: int, manifest_sha256: str) -> bytes:
    counts = num_items.to_bytes(8, "little") + num_shards.to_bytes(8, "little")
    return _SIGNATURE + counts + bytes.fromhex(manifest_sha256)


def _columns(file: MappedFile, num_items: int, num_shards: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    start = _HEAD_BYTES + _DIGEST_BYTES * num_shards
    return file.array("<u8", start, num_items), file.array("<u4", start + 8 * num_items, num_items)


class ItemColumns:
    """Columns of a table while its rows are found: shards go by their names, of which the manifest has the numbers."""

    def __init__(self) -> None:
        self._offsets, self._shards = GrowingArray("Q"), GrowingArray("I")
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, offset: int, shard: str) -> None:
        """Append the item whose line begins at `offset`; lines come in their order."""
        self._offsets.append(offset)
        self._shards.append(self._numbers.setdefault(shard, len(self._numbers)))

    def extend(self, offsets: Iterable[int], shards: Sequence[str | None]) -> None:
        """Append items as `add` does, but for those in no shard."""
        for shard in set(shards) - {None, *self._numbers}:
            self._numbers[str(shard)] = len(self._numbers)
        if None not in shards:
            self._offsets.extend(islice(offsets, len(shards)))
            self._shards.extend([self._numbers[str(shard)] for shard in shards])
            return
        for offset, shard in zip(offsets, shards, strict=False):
            if shard is not None:
                self.add(offset, shard)

    def take(self, table: ItemTable, first: int, stop: int, shift: int, shards: Sequence[ShardEntry]) -> None:
        """Append items of another table from `first` up to `stop`; their lines now begin `shift` bytes further on.

        `shards`: those of the manifest of that table.
        """
        for start in range(first, stop, _CHUNK_VALUES):
            some = slice(start, min(start + _CHUNK_VALUES, stop))
            offsets = table.offsets[some].astype(np.int64) + shift
            found, places = np.unique(table.shards[some], return_inverse=True)
            names = [shards[number].name for number in found.tolist()]
            numbers = np.array([self._numbers.setdefault(name, len(self._numbers)) for name in names], np.uint32)
            self._offsets.add_bytes(offsets.astype(np.uint64).tobytes())
            self._shards.add_bytes(numbers[places].tobytes())

    def finish(self, manifest: Manifest, headers: tuple[bytes, ...]) -> ItemTable:
        """Return the table. Raises `KeyError` for a shard that the manifest does not have."""
        places = {shard.name: number for number, shard in enumerate(manifest.shards)}
        numbers = np.array([places[name] for name in self._numbers], dtype=np.uint32)
        offsets, found = self._offsets.values().astype(np.uint64, copy=False), self._shards.values()
        return ItemTable(offsets, numbers.take(found.astype(np.uint32, copy=False)), headers)
