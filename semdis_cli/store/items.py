"""Latents of a finished set that are to be used: in which shard each is, held against manifest, index and shards."""

from array import array
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from semdis_cli.errors import StoreError
from semdis_cli.files.set_names import MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.store.checks import check_row
from semdis_cli.store.index import Place
from semdis_cli.store.item_table import ItemColumns, ItemTable, read_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest, ShardEntry, verify_hint
from semdis_cli.store.mapped_shard import MappedShard, hash_header, open_known_shard
from semdis_cli.store.shard_header import ShardHeader, read_shard_header
from semdis_cli.store.shards import read_shard


@dataclass(frozen=True)
class SetItems:
    """The items of a set, and its shards by their numbers in the manifest."""

    table: ItemTable
    shards: tuple[MappedShard, ...]


def open_items(latents: LatentSet) -> SetItems:
    """Return the items of a set, from its table if it has a good one.

    Raises `StoreError` if manifest, index and shards do not go together.
    """
    table = read_items(latents.folder, latents.manifest, latents.sha256)
    shards = None if table is None else _open_known(latents, table)
    return find_items(latents) if table is None or shards is None else SetItems(table, shards)


def find_items(latents: LatentSet, *, verify: bool = False) -> SetItems:
    """Find the items of a set anew, from its index and the headers of its shards.

    `verify`: after reading and checking every byte of each shard. Raises `StoreError` as `open_items`.
    """
    (columns, rows), manifest = _read_index(latents), latents.manifest
    found = [_check_shard(latents, entry, rows.pop(entry.name, None), verify=verify) for entry in manifest.shards]
    return SetItems(columns.finish(manifest, tuple(sha256 for _, sha256 in found)), tuple(shard for shard, _ in found))


def _check_shard(
    latents: LatentSet, entry: ShardEntry, rows: "_ShardRows | None", *, verify: bool
) -> tuple[MappedShard, bytes]:
    """Return a shard and the sha256 of its header, which is let go of: one is held at a time."""
    if verify:
        _read_whole(latents, entry)
    listed = open_listed(latents.root, latents.manifest, entry)
    if rows is not None:
        _check_rows(latents.shard(entry), rows, listed.header)
    return MappedShard.of(entry.name, listed.header), listed.header_sha256


class ListedShard(NamedTuple):
    """The header of a shard of a set, and its sha256."""

    header: ShardHeader
    header_sha256: bytes


def open_listed(root: Location, manifest: Manifest, entry: ShardEntry) -> ListedShard:
    """Open a shard of the manifest, and check its header against that. Raises `StoreError`."""
    path = root / SHARD_FOLDER / entry.name
    try:
        header = read_shard_header(path, entry.file)
        header_sha256 = hash_header(path, header.payload_start)
    except StoreError as error:
        raise error.adding(verify_hint(root)) from error
    if header.provenance != manifest.record_of(entry):
        raise StoreError("made with other settings than the set it lies in", place=path)
    if len(header.records) != entry.num_images:
        raise StoreError(f"holds {len(header.records)} latents, but the manifest says {entry.num_images}", place=path)
    return ListedShard(header, header_sha256)


def _read_whole(latents: LatentSet, entry: ShardEntry) -> None:
    try:
        read_shard(latents.shard(entry), entry.file)
    except StoreError as error:
        raise error.adding(verify_hint(latents.root)) from error


def _open_known(latents: LatentSet, table: ItemTable) -> tuple[MappedShard, ...] | None:
    """Return the shards if the header of each is the one that was checked when the table was written; else None."""
    shards = []
    for entry, header in zip(latents.manifest.shards, table.headers, strict=True):
        record = latents.manifest.record_of(entry)
        shard = open_known_shard(latents.shard(entry), entry.file.num_bytes, entry.num_images, record, header)
        if shard is None:
            return None
        shards.append(shard)
    return tuple(shards)


class _ShardRows:
    """Keys that the index puts into one shard, as one text, their rows, and their geometry as in `Place`."""

    def __init__(self) -> None:
        self.rows, self.ends, self.text = array("q"), array("q"), bytearray()
        self.geometries = array("i")

    def add(self, place: Place) -> None:
        self.text += place.key.encode("utf-8", "surrogatepass")
        self.ends.append(len(self.text))
        self.rows.append(place.row)
        for pair in place.geometry:
            self.geometries.extend(pair)


def _read_index(latents: LatentSet) -> tuple[ItemColumns, dict[str, _ShardRows]]:
    """Return where all lines that are to be used begin, and what they say of each shard, in one pass."""
    columns, rows, last = ItemColumns(), defaultdict[str, _ShardRows](_ShardRows), None
    for offset, place in latents.places():
        if last is not None and place.key <= last:
            what = f"{place.key!r:.80} comes after {last!r:.80}, so not sorted by key; damaged or edited"
            raise StoreError(what, place=latents.index)
        columns.add(offset, place.shard)
        rows[place.shard].add(place)
        last = place.key
    if len(columns) != latents.manifest.num_ok:
        what = "its totals and the index disagree; damaged or edited"
        raise StoreError(what, place=latents.folder / MANIFEST_FILE)
    return columns, dict(rows)


def _check_rows(path: Location, said: _ShardRows, header: ShardHeader) -> None:
    """Raise `StoreError` unless each key is in the row of the shard that the index says, and has the sizes there."""
    start, keys = 0, header.records.keys
    for row, end in zip(said.rows, said.ends, strict=True):
        check_row(path, keys, row, said.text[start:end].decode("utf-8", "surrogatepass"))
        start = end
    geometries = header.records.pairs[np.array(said.rows)][:, :4]
    differ = (geometries != np.array(said.geometries).reshape(-1, 4, 2)).any((1, 2))
    if differ.any():
        key = keys[said.rows[int(differ.argmax())]]
        raise StoreError(f"the index says another size or crop of {key!r:.80} than it has here", place=path)
