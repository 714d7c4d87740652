"""Latents to be read: a finished set, or a single shard file that came on its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.atomic import PublishedFile
from semdis_cli.errors import StoreError
from semdis_cli.store.index import read_rows
from semdis_cli.store.manifest import INDEX_FILE, MANIFEST_FILE, SHARD_FOLDER, Manifest
from semdis_cli.store.shards import Shard, read_shard


@dataclass(frozen=True)
class StoredShard:
    """A shard that ought to exist. `expected` is None for one that came without a manifest."""

    path: Path
    num_images: int
    expected: PublishedFile | None


@dataclass(frozen=True)
class LatentSource:
    """What can be decoded: its settings, its identity (a hash), its shards and the keys in them."""

    path: Path
    provenance: dict[str, Any]
    sha256: str
    shards: tuple[StoredShard, ...]
    keys: tuple[str, ...]

    def read(self, stored: StoredShard) -> Shard:
        """Read and check one shard. Raises `StoreError` if it is damaged or belongs to other latents."""
        shard = read_shard(stored.path, stored.expected)
        if shard.provenance != self.provenance:
            raise StoreError(f"{stored.path}: made with other settings than the set it lies in")
        if len(shard.keys) != stored.num_images:
            raise StoreError(
                f"{stored.path}: holds {len(shard.keys)} latents, but the manifest says {stored.num_images}"
            )
        return shard


def open_latents(path: Path) -> LatentSource:
    """Open a finished set (its folder) or a single shard file. Raises `StoreError` if it is neither, or damaged."""
    if path.is_dir():
        manifest = Manifest.read(path)
        shards = tuple(
            StoredShard(path / SHARD_FOLDER / shard.name, shard.num_images, shard.file) for shard in manifest.shards
        )
        keys = tuple(_ok_keys(path / INDEX_FILE, manifest))
        if not len(set(keys)) == len(keys) == manifest.num_ok == sum(shard.num_images for shard in shards):
            raise StoreError(f"{path / MANIFEST_FILE}: its totals, shards and index disagree; damaged or edited")
        sha256 = PublishedFile.of(path / MANIFEST_FILE).sha256
        return LatentSource(path, manifest.provenance, sha256, shards, keys)
    if not path.exists():
        raise StoreError(f"{path}: no such latents; give the folder that semdis encode wrote, or one of its shards")
    shard, file = read_shard(path), PublishedFile.of(path)
    stored = StoredShard(path, len(shard.keys), file)
    return LatentSource(path, shard.provenance, file.sha256, (stored,), shard.keys)


def _ok_keys(path: Path, manifest: Manifest) -> Iterator[str]:
    """The keys that have latents, after the index has been held against the manifest."""
    if PublishedFile.of(path) != manifest.index:
        raise StoreError(f"{path}: does not match the sha256 in the manifest; damaged or edited")
    return (row.key for row in read_rows(path) if row.is_ok)
