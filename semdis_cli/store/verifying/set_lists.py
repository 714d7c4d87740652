"""The lists of a set: manifest, index, checksums and journal, compared with each other."""

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from semdis_cli.errors import StoreError
from semdis_cli.events import Event, Problem
from semdis_cli.files.links import describe_absent
from semdis_cli.files.set_names import INDEX_FILE, INDEX_FOLDER, JOURNAL_FOLDER, MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.item_table import ItemTable
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying.checksums import check_checksums, read_checksums
from semdis_cli.store.verifying.index_table import IndexTable, PieceReader, read_here, read_index
from semdis_cli.store.verifying.items_check import check_items
from semdis_cli.store.verifying.shard_check import ShardTarget
from semdis_cli.store.verifying.unfinished import PendingShard, has_journal, read_journals
from semdis_cli.wording import count

_TOLERANCE = 1e-8  # of sums that were added in another order, relative


@dataclass(frozen=True)
class SetLists:
    """The lists of a set, as far as they can be used.

    `pending`: shards that only a journal knows. `items`: the table of the items, if it agrees with the index.
    """

    root: Location
    manifest: Manifest | None
    table: IndexTable | None
    pending: dict[str, PendingShard]
    items: ItemTable | None = None

    @property
    def has_whole_index(self) -> bool:
        """True if the index is the one that the manifest was written with."""
        return self.table is not None and self.manifest is not None and _is_of(self.table, self.manifest)

    def listed_targets(self) -> list[ShardTarget]:
        """The shards of the manifest, in its order."""
        if self.manifest is None:
            return []
        table = self.table if self.has_whole_index else None
        headers = self.items.headers if self.items is not None else (None,) * len(self.manifest.shards)
        return [
            ShardTarget(
                path=self.root / SHARD_FOLDER / shard.name,
                name=f"{SHARD_FOLDER}/{shard.name}",
                expected=shard.file,
                num_images=shard.num_images,
                provenance=self.manifest.record_of(shard),
                rows=None if table is None else table.rows_of(shard.name).itself,
                header_sha256=header,
            )
            for shard, header in zip(self.manifest.shards, headers, strict=True)
        ]

    def pending_targets(self) -> list[ShardTarget]:
        """The shards that only a journal knows, by name."""
        return [
            ShardTarget(
                path=self.root / SHARD_FOLDER / name,
                name=f"{SHARD_FOLDER}/{name}",
                expected=shard.file,
                num_images=shard.num_images,
                rows=shard.rows,
            )
            for name, shard in sorted(self.pending.items())
        ]


def read_lists(root: Location, read: PieceReader = read_here) -> Generator[Event, None, SetLists]:
    """Read what lists a set in the folder `root` has, and compare them; `read`: who reads the files of its index.

    Raises `StoreError` if it holds nothing.
    """
    latents = yield from _read_set(root)
    manifest = latents.manifest if latents is not None else None
    pending = yield from read_journals(root)
    if manifest is not None:
        pending = {name: shard for name, shard in pending.items() if name not in {s.name for s in manifest.shards}}
    if manifest is not None and pending:
        news = count(len(pending), "shard")
        what = f"a run that adds {news} is at work or was stopped; run the same semdis encode again"
        yield Problem(JOURNAL_FOLDER, "unfinished", what)
    table = None
    if manifest is not None or not has_journal(root):  # a run that was stopped has no index yet
        table = yield from read_index(root, manifest, read)
    items = None
    if latents is not None and table is not None:
        yield from _compare(latents.manifest, table)
        yield from check_checksums(latents)
        if _is_of(table, latents.manifest):
            items = yield from check_items(latents, table)
    return SetLists(root, manifest, table, pending, items)


def unlisted_targets(lists: SetLists) -> Generator[Problem, None, list[ShardTarget]]:
    """Without a manifest and a journal: the shards that the index, the checksums or the folder itself know of."""
    try:
        sums = yield from read_checksums(lists.root)
    except StoreError:
        sums = {}
    names = {path.name for path in (lists.root / SHARD_FOLDER).glob("*")} | {Path(name).name for name in sums}
    names |= set(lists.table.shards) if lists.table else set()
    targets = []
    for name in sorted(filter(is_shard_name, names)):
        path, listed = lists.root / SHARD_FOLDER / name, f"{SHARD_FOLDER}/{name}"
        expected = FileDigest(path.stat().st_size, sums[listed]) if listed in sums and path.is_file() else None
        is_named = lists.table is not None and name in lists.table.shards
        rows = lists.table.rows_of(name).itself if lists.table is not None and is_named else None
        targets.append(ShardTarget(path, listed, expected, rows=rows))
    return targets


def compare_sums(manifest: Manifest, found: ChannelSums) -> Iterator[Problem]:
    """Hold the sums in the manifest against those of the latents, as exactly as the order of additions lets them be."""
    said = manifest.sums
    if said.count != found.count or len(said.total) != len(found.total):
        what = f"sums over {said.count:,} positions, but the shards have {found.count:,} that are to be used"
        yield Problem(MANIFEST_FILE, "statistics", what)
        return
    if found.count == 0:  # what is left of sums from which all was taken away again
        return
    # A set that grew had more in its sums than it serves now, and with that the roundings of more.
    tolerance = _TOLERANCE * manifest.num_latents / manifest.num_ok
    wrong = [
        channel
        for channel, squares in enumerate(found.squares)
        if abs(said.squares[channel] - squares) > tolerance * squares
        or abs(said.total[channel] - found.total[channel]) > tolerance * (squares * found.count) ** 0.5
    ]
    if wrong:
        what = f"mean and std of {len(wrong)} channels are not those of the latents (the first: channel {wrong[0]})"
        yield Problem(MANIFEST_FILE, "statistics", what)


def _read_set(root: Location) -> Generator[Problem, None, LatentSet | None]:
    """The set, its index not looked at, if it has a manifest that can be used; what is wrong with that is a problem."""
    path = root / MANIFEST_FILE
    if absent := describe_absent(path):
        yield Problem(MANIFEST_FILE, "missing", absent)
        return None
    if not path.exists():
        if not any((root / name).exists() for name in (JOURNAL_FOLDER, SHARD_FOLDER, INDEX_FILE, INDEX_FOLDER)):
            raise StoreError("not a set of latents; give the folder that semdis encode wrote", place=root)
        what = (
            "missing: the set is unfinished; run the same semdis encode again to finish it"
            if (root / JOURNAL_FOLDER).exists()
            else "missing, and no journal to finish the set from; restore it from a copy, or encode the set anew"
        )
        yield Problem(MANIFEST_FILE, "unfinished", what)
        return None
    try:
        latents = LatentSet.read(root)
        if hashlib.sha256(latents.manifest.to_bytes()).hexdigest() != latents.sha256:
            raise StoreError("not written as it was; damaged or edited", place=path)
    except StoreError as error:
        yield Problem(MANIFEST_FILE, "manifest", error.beside(path))
        return None
    return latents


def _compare(manifest: Manifest, table: IndexTable) -> Iterator[Problem]:
    """Give the differences between manifest and index."""
    yield from _compare_pieces(manifest, table)
    if not _is_of(table, manifest):
        return
    said = {"ok": manifest.num_ok, "failed": manifest.num_failed, "removed": manifest.num_removed}
    if manifest.num_left_out or table.num_left_out:
        said["left_out"] = manifest.num_left_out
    for status, number in said.items():
        if number != table.counts.get(status, 0):
            what = f"{number:,} {status}, but the index has {table.counts.get(status, 0):,}"
            yield Problem(MANIFEST_FILE, "manifest", what)
    names = [shard.name for shard in manifest.shards]
    for name in sorted({*table.shards} - {*names}):
        what = f"{count(len(table.shards[name].numbers), 'row')} of the index in {name}, which is not in the manifest"
        yield Problem(table.pieces[0].name, "index", what)
    yield from _compare_columns(manifest, table)
    if len({*names}) != len(names):
        yield Problem(MANIFEST_FILE, "manifest", "lists a shard twice")
    yield from (Problem(MANIFEST_FILE, "statistics", what) for what in _implausible(manifest, table))


def _compare_pieces(manifest: Manifest, table: IndexTable) -> Iterator[Problem]:
    """Give the files of the index that are others than the manifest says."""
    found = {piece.name: piece for piece in table.pieces}
    for piece in manifest.index_files.pieces:
        if piece.name not in found:
            continue
        if found[piece.name].file != piece.file:
            what = (
                "does not match the sha256 in the manifest: damaged or edited, or a run that added to the set was "
                "stopped; in that case run it again"
            )
            yield Problem(piece.name, "index", what)
        elif manifest.pieces and found[piece.name] != piece:
            what = f"says other numbers of rows, or another first key, of {piece.name} than it has"
            yield Problem(MANIFEST_FILE, "manifest", what)


def _is_of(table: IndexTable, manifest: Manifest) -> bool:
    """Tell whether the index is the one that the manifest was written with."""
    return [piece.file for piece in table.pieces] == [piece.file for piece in manifest.index_files.pieces]


def _compare_columns(manifest: Manifest, table: IndexTable) -> Iterator[Problem]:
    """Give what manifest and index say of the images' columns, where that is not the same."""
    said, classes = manifest.columns.num_images, manifest.columns.classes
    for name in sorted({*said, *table.columns}):
        if said.get(name, 0) != table.columns[name]:
            what = (
                f"{said.get(name, 0):,} images with the column {name!r:.80}, but the index has {table.columns[name]:,}"
            )
            yield Problem(MANIFEST_FILE, "columns", what)
    if classes and table.num_classes > len(classes):
        what = f"has labels beyond the {count(len(classes), 'class', 'classes')} of the manifest"
        yield Problem(table.pieces[0].name, "columns", what)


def _implausible(manifest: Manifest, table: IndexTable) -> Iterator[str]:
    """Give what cannot be right in the manifest's sums, whatever the latents are."""
    sums = manifest.sums
    try:
        layout = manifest.provenance.layout
    except ValueError as error:
        yield f"settings that do not say what its latents are ({error})"
        return
    if len(sums.total) != layout.channels:
        yield f"sums of {len(sums.total)} channels, but the latents have {layout.channels}"
    if sums.count * layout.patch_size**2 != table.served_pixels:
        yield f"sums over {sums.count:,} positions, which is not what the images of the index add up to"
    pairs = zip(sums.total, sums.squares, strict=True)
    if any(squares * sums.count < total * total * (1 - _TOLERANCE) for total, squares in pairs):
        yield "sums of squares that are too small for the sums"
