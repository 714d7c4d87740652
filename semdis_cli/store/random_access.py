"""Items of a `LatentDataset`, found one by one: of a set in its index, of a shard on its own in the record of that."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.files.set_names import SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.provenance import Provenance
from semdis_cli.store.checks import check_row
from semdis_cli.store.columns import LABEL, NO_SET_COLUMNS, SetColumns, is_label
from semdis_cli.store.index import parse_place, parse_row
from semdis_cli.store.item_table import ItemTable
from semdis_cli.store.items import find_items, open_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.mapped_file import FileIdentity, MappedFile
from semdis_cli.store.mapped_shard import MappedShard
from semdis_cli.store.reader import served_rows
from semdis_cli.store.record import check_columns
from semdis_cli.store.shard_header import read_shard_header
from semdis_cli.store.shards import read_shard
from semdis_cli.store.tensors.listed import TensorColumns

NO_LABEL = -1
_LINE_BYTES = 1 << 10  # most lines are shorter
_LINES_AT_ONCE = 1 << 12
# What a line of an index of ours begins with, if it has a label, and no object among the columns before that.
_LABEL = re.compile(rb'\{"columns":\{(?:[^{}\n]*?,)?"label":([0-9]{1,18})[,}]')


class Item(NamedTuple):
    """Place of one item: its `key`, the number of its `shard`, its `row` there.

    `geometry`: as in `Place`. `columns`: what came with the image.
    """

    key: str
    shard: int
    row: int
    geometry: Sequence[Sequence[int]]
    columns: dict[str, Any]


class Rows(Protocol):
    """The rows of a tensor of a shard as they lie in its file."""

    def __getitem__(self, row: int, /) -> Tensor:
        """Return one row, [bytes a row] uint8, not to be written to. Raises `StoreError`."""


class Items(Protocol):
    """Items in the order of their keys."""

    @property
    def shard_numbers(self) -> NDArray[np.integer[Any]]:
        """Number of the shard of each, [N]."""

    def find(self, number: int) -> Item:
        """Return one of them, counted from 0 on. Raises `StoreError`."""

    def labels(self) -> NDArray[np.int64]:
        """Return the label of each, -1 where there is none, [N]. Raises `StoreError`."""


@dataclass(frozen=True, eq=False)
class MappedIndex:
    """The files of an index, mapped into memory, as if they were one; `starts`: as of `SetIndex`."""

    files: tuple[MappedFile, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, latents: LatentSet, identities: Sequence[FileIdentity]) -> Self:
        """Map the index of a set in a folder, whose files are those of `identities`. Raises `StoreError`."""
        paths = map(Path, map(str, latents.index_paths))  # of a folder: no URL is mapped
        return cls(tuple(map(MappedFile, paths, identities)), latents.manifest.index_files.starts)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`, fewer at the end of the file. Raises `StoreError`."""
        number = self._number(start)
        found = self.files[number].read(start - self.starts[number], stop - self.starts[number])
        while stop > self.starts[number + 1] and number + 1 < len(self.files):
            number += 1
            found += self.files[number].read(0, stop - self.starts[number])
        return found

    def path_at(self, offset: int) -> Path:
        """Return the file in which a byte lies."""
        return self.files[self._number(offset)].path

    def _number(self, offset: int) -> int:
        return min(bisect_right(self.starts, offset), len(self.files)) - 1


@dataclass(frozen=True, eq=False)
class SetItems:
    """Items of a set. Each is looked up in the index when it is asked for, and held against that."""

    index: MappedIndex
    table: ItemTable
    shards: tuple[MappedShard, ...]

    @property
    def shard_numbers(self) -> NDArray[np.integer[Any]]:
        """Number of the shard of each, [N]."""
        return self.table.shards

    def find(self, number: int) -> Item:
        """Return one of them. Raises `StoreError` where table and index do not go together."""
        shard = int(self.table.shards[number])
        try:
            return parse_row(partial(self._parse, shard), self._line(int(self.table.offsets[number])))
        except StoreError as error:
            what = f"has no item {number:,} where the table says so: {error.reason}"
            raise StoreError(what, place=self.index.path_at(int(self.table.offsets[number]))) from error

    def labels(self) -> NDArray[np.int64]:
        """Return the label of each, -1 where there is none, [N]. Raises `StoreError` for a damaged index."""
        labels = np.full(len(self.table.offsets), NO_LABEL, np.int64)
        for first in range(0, len(labels), _LINES_AT_ONCE):
            starts = self.table.offsets[first : first + _LINES_AT_ONCE].tolist()
            data = self.index.read(starts[0], starts[-1]) + self._line(starts[-1])
            for number, start in enumerate(starts, first):
                labels[number] = _label_of(data, start - starts[0])
        return labels

    def _parse(self, shard: int, line: bytes) -> Item:
        place = parse_place(line)
        if place is None or place.shard != self.shards[shard].name or place.row >= self.shards[shard].shape[0]:
            raise ValueError("it is in another place")
        columns = check_columns(place.columns) if place.columns != {} else {}
        return Item(place.key, shard, place.row, place.geometry, columns)

    def _line(self, start: int) -> bytes:
        """The line that begins at byte `start`."""
        length = _LINE_BYTES
        while True:
            data = self.index.read(start, start + length)
            end = data.find(b"\n") + 1
            if end or len(data) < length:
                return data[:end] if end else data
            length *= 2


@dataclass(frozen=True, eq=False)
class ShardItems:
    """Items of a single shard: their `keys`, `rows` [N] and `geometries` [N,4,2]; shards hold no columns."""

    keys: tuple[str, ...]
    rows: NDArray[np.int64]
    geometries: NDArray[np.int32]

    @property
    def shard_numbers(self) -> NDArray[np.integer[Any]]:
        """Zeros, [N]."""
        return np.zeros(len(self.keys), dtype=np.int32)

    def find(self, number: int) -> Item:
        """Return one of them."""
        return Item(self.keys[number], 0, int(self.rows[number]), self.geometries[number].tolist(), {})

    def labels(self) -> NDArray[np.int64]:
        """Return -1 for each, [N]."""
        return np.full(len(self.keys), NO_LABEL, np.int64)


@dataclass(frozen=True, eq=False)
class OpenedLatents:
    """Latents that were found to be whole as far as their headers tell, ready to be read one by one.

    `folder` holds the files of `shards`. `sha256` says which latents they are: that of the manifest or, of a shard on
    its own, of its record. `versions`: of a set that several made, which one made what. `columns`, `tensors`: those of
    a set.
    """

    folder: Path
    shards: tuple[MappedShard, ...]
    items: Items
    provenance: Provenance
    sha256: str
    versions: tuple[dict[str, Any], ...] = ()
    columns: SetColumns = NO_SET_COLUMNS
    tensors: TensorColumns = field(default_factory=dict)


def _label_of(data: bytes, start: int) -> int:
    """Return the label in the line that begins at `start`; most need not be parsed. Raises `StoreError`."""
    if (found := _LABEL.match(data, start)) is not None:
        return int(found[1])
    line = data[start : data.find(b"\n", start) + 1 or len(data)]
    if b'"columns"' not in line:
        return NO_LABEL
    place = parse_row(parse_place, line)
    label = None if place is None else check_columns(place.columns).get(LABEL)
    return label if is_label(label) and label < 1 << 63 else NO_LABEL


def open_latents(path: Path, *, verify: bool) -> OpenedLatents:
    """Open a finished set (its folder) or a single shard file, `verify`: after reading and checking every byte.

    Raises `StoreError` if it is neither, or damaged.
    """
    if path.is_dir():
        return _open_set(path, verify=verify)
    if not path.exists():
        raise StoreError("no such latents; give the folder that semdis encode wrote, or one of its shards", place=path)
    return _open_shard(path, verify=verify)


def _open_set(root: Path, *, verify: bool) -> OpenedLatents:
    latents = LatentSet.read(root)
    identities, manifest = _check_index(latents), latents.manifest
    found = find_items(latents, verify=True) if verify else open_items(latents)
    index = MappedIndex.of(latents, identities)  # last: it is the one that the items were found in, too
    items = SetItems(index, found.table, found.shards)
    versions = tuple(manifest.versions()) if manifest.later_versions else ()
    shards = root / SHARD_FOLDER, found.shards
    columns = manifest.columns, manifest.tensors
    return OpenedLatents(*shards, items, manifest.provenance, latents.sha256, versions, *columns)


def _check_index(latents: LatentSet) -> list[FileIdentity]:
    """Return the identities of the files of the index, which were checked."""
    identities = [_identity(path) for path in latents.index_paths]
    latents.check_index()
    return identities


def _identity(path: Location) -> FileIdentity:
    try:
        return FileIdentity.of(path.stat())
    except OSError:  # hashing it says what is wrong
        return FileIdentity(0, 0, 0, 0)


def _open_shard(path: Path, *, verify: bool) -> OpenedLatents:
    if verify:
        read_shard(path)
    header = read_shard_header(path)
    stored, rows = header.records.keys, served_rows(path)
    if rows is None:
        rows = {key: row for row, key in enumerate(stored)}
    for key, row in rows.items():
        check_row(path, stored, row, key)
    keys = tuple(sorted(rows))
    numbers = np.array([rows[key] for key in keys], dtype=np.int64)
    items = ShardItems(keys, numbers, header.records.pairs[numbers][:, :4])
    shards = (MappedShard.of(path.name, header),)
    return OpenedLatents(path.parent, shards, items, header.provenance, header.record_sha256)
