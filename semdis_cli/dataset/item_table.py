"""Where each latent of a set is, in a few arrays: a million of them in about a hundred megabytes."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.store.checks import MALFORMED, check_count, check_record_key, check_text, parse_json
from semdis_cli.store.manifest import INDEX_FILE, MANIFEST_FILE, SHARD_FOLDER, Manifest, ShardEntry, verify_hint
from semdis_cli.store.mapped_shard import MappedShard
from semdis_cli.store.reader import check_index_file, served_rows
from semdis_cli.store.shard_header import ShardHeader, read_shard_header
from semdis_cli.store.shards import read_shard

# Any text that JSON can hold, and back: names of files that are not UTF-8 too.
_KEY_CODEC = ("utf-8", "surrogatepass")


@dataclass(frozen=True, eq=False)
class ItemTable:
    """Items in the order of their keys, the way they are served.

    `places` [N,2]: number of the shard, row in it. `sizes` [N,4]: (H, W) of the upright source, (H, W) of the image.
    `key_ends` [N]: where each key ends in `key_text`.
    """

    places: NDArray[np.int64]
    sizes: NDArray[np.int32]
    key_ends: NDArray[np.int64]
    key_text: bytes

    def __len__(self) -> int:
        return len(self.places)

    def key(self, item: int) -> str:
        """The key of one item, from 0 on."""
        start = self.key_ends[item - 1] if item else 0
        return self.key_text[start : self.key_ends[item]].decode(*_KEY_CODEC)


@dataclass(frozen=True, eq=False)
class OpenedLatents:
    """Latents that were found to be whole as far as their headers tell, ready to be read one by one.

    `folder` holds the files of `shards`. `sha256` says which latents they are: that of the manifest or, of a shard on
    its own, of its record. `versions`: of a set that several made, which one made what.
    """

    folder: Path
    shards: tuple[MappedShard, ...]
    table: ItemTable
    provenance: dict[str, Any]
    sha256: str
    versions: tuple[dict[str, Any], ...] = ()


def open_items(path: Path, *, verify: bool) -> OpenedLatents:
    """Open a finished set (its folder) or a single shard file, `verify`: after reading and checking every byte.

    Raises `StoreError` if it is neither, or damaged.
    """
    if path.is_dir():
        return _open_set(path, verify=verify)
    if not path.exists():
        raise StoreError(f"{path}: no such latents; give the folder that semdis encode wrote, or one of its shards")
    header = _read_header(path, None, verify=verify)
    rows = served_rows(path)
    if rows is None:
        rows = {key: row for row, key in enumerate(header.records.keys)}
    table = _TableBuilder()
    for key, row in sorted(rows.items()):
        table.add(key, 0, row)
    items = table.finish()
    _check_rows(path, items, np.arange(len(items)), header)
    items.sizes[:] = _sizes(header)[items.places[:, 1]]
    shards = (MappedShard.of(path.name, header),)
    return OpenedLatents(path.parent, shards, items, header.provenance, header.record_sha256)


def _open_set(root: Path, *, verify: bool) -> OpenedLatents:
    manifest = Manifest.read(root)
    check_index_file(root, manifest)
    table = _read_index(root / INDEX_FILE, manifest)
    by_shard = np.argsort(table.places[:, 0], kind="stable")
    ends = np.cumsum(np.bincount(table.places[:, 0], minlength=len(manifest.shards)))
    shards = []
    for number, entry in enumerate(manifest.shards):
        items = by_shard[ends[number - 1] if number else 0 : ends[number]]
        path = root / SHARD_FOLDER / entry.name
        try:
            header = _read_header(path, entry.file, verify=verify)
        except StoreError as error:
            raise StoreError(f"{error}{verify_hint(root)}") from error
        _check_stored(path, entry, header, manifest)
        _check_rows(path, table, items, header)
        table.sizes[items] = _sizes(header)[table.places[items, 1]]
        shards.append(MappedShard.of(entry.name, header))
    sha256 = PublishedFile.of(root / MANIFEST_FILE).sha256
    versions = tuple(manifest.versions()) if manifest.later_versions else ()
    return OpenedLatents(root / SHARD_FOLDER, tuple(shards), table, manifest.provenance, sha256, versions)


def _read_header(path: Path, expected: PublishedFile | None, *, verify: bool) -> ShardHeader:
    if verify:
        read_shard(path, expected)
    return read_shard_header(path, expected)


def _sizes(header: ShardHeader) -> NDArray[np.int32]:
    """Of each row (H, W) of the upright source and (H, W) of the image, [N,4]."""
    return header.records.pairs[:, [0, 3]].reshape(-1, 4)


def _check_stored(path: Path, entry: ShardEntry, header: ShardHeader, manifest: Manifest) -> None:
    if header.provenance != manifest.record_of(entry):
        raise StoreError(f"{path}: made with other settings than the set it lies in")
    if len(header.records) != entry.num_images:
        raise StoreError(f"{path}: holds {len(header.records)} latents, but the manifest says {entry.num_images}")


def _check_rows(path: Path, table: ItemTable, items: NDArray[np.int64], header: ShardHeader) -> None:
    """Raise `StoreError` unless each of `items` is in the row of the shard that the index says, and alone there."""
    rows, keys = table.places[items, 1].tolist(), header.records.keys
    for item, row in zip(items.tolist(), rows, strict=True):
        key = table.key(item)
        if row >= len(keys) or keys[row] != key:
            raise StoreError(f"{path}: has no latents of {key!r:.80} in row {row}, but the index says so")


def _read_index(path: Path, manifest: Manifest) -> ItemTable:
    """The places of all keys that are to be used, their sizes still missing, in one pass."""
    numbers = {shard.name: number for number, shard in enumerate(manifest.shards)}
    table, last = _TableBuilder(), None
    for key, shard, row in _read_places(path):
        if shard not in numbers:
            raise StoreError(f"{path}: {key!r:.80} is in {shard!r:.60}, which is not in the manifest")
        if last is not None and key <= last:
            raise StoreError(f"{path}: {key!r:.80} comes after {last!r:.80}, so not sorted by key; damaged or edited")
        table.add(key, numbers[shard], row)
        last = key
    if len(table) != manifest.num_ok:
        raise StoreError(f"{path.parent / MANIFEST_FILE}: its totals and the index disagree; damaged or edited")
    return table.finish()


def _read_places(path: Path) -> Iterator[tuple[str, str, int]]:
    """Key, shard and row of each row of an index that is to be used; the rest of a row is not looked at, to be quick.

    What is said here is held against the shards, which know all the rest too.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield from _parse_place(line, path, number)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error


def _parse_place(line: bytes, path: Path, number: int) -> tuple[tuple[str, str, int], ...]:
    """The place in line `number`, if it has one that is to be used."""
    try:
        fields = parse_json(line)
        if fields["status"] != "ok":
            return ()
        return ((check_record_key(fields), check_text(fields["shard"]), _check_row(fields["row"])),)
    except MALFORMED as error:
        raise StoreError(f"{path}: line {number}: not an index row ({error})") from error


def _check_row(value: object) -> int:
    row = check_count(value)
    if row >= 2**63:
        raise ValueError(f"row {str(row)[:40]} is beyond all shards")
    return row


class _TableBuilder:
    """Items on their way into a table."""

    def __init__(self) -> None:
        self._places, self._key_ends, self._key_text = array("q"), array("q"), bytearray()

    def __len__(self) -> int:
        return len(self._key_ends)

    def add(self, key: str, shard: int, row: int) -> None:
        """Append one item; keys come in order."""
        self._key_text += key.encode(*_KEY_CODEC)
        self._key_ends.append(len(self._key_text))
        self._places.extend((shard, row))

    def finish(self) -> ItemTable:
        """All items, with sizes of zero."""
        return ItemTable(
            places=np.frombuffer(self._places, dtype=np.int64).reshape(-1, 2),
            sizes=np.zeros((len(self), 4), dtype=np.int32),
            key_ends=np.frombuffer(self._key_ends, dtype=np.int64),
            key_text=bytes(self._key_text),
        )
