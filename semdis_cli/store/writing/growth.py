"""A set after a run: what it held before, less what is no longer an input, plus what the journal has published."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.atomic import publish
from semdis_cli.files.set_names import CHECKSUM_FILE, ITEMS_FILE, MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.provenance import Provenance
from semdis_cli.store.columns import SetColumns, grown_classes
from semdis_cli.store.item_table import ItemColumns, ItemTable, read_items
from semdis_cli.store.items import find_items, open_listed
from semdis_cli.store.manifest import Manifest, ShardEntry, checksum_lines
from semdis_cli.store.quantised import real_values
from semdis_cli.store.shard_records import ShardRecords
from semdis_cli.store.shards import read_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.tensors.listed import TensorColumn
from semdis_cli.store.writing.changes import Changes, seen_of
from semdis_cli.store.writing.entry_text import row_identity
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.index_writer import IndexWriter, WrittenIndex
from semdis_cli.store.writing.journal import Journal, Line
from semdis_cli.store.writing.journal_file import JournalEntry
from semdis_cli.store.writing.merged_rows import MergedRows, PlaceInShard
from semdis_cli.store.writing.seen import is_just_this, write_seen
from semdis_cli.store.writing.tensors import recounted


@dataclass(frozen=True)
class Growth:
    """Changes of a run to `base`: the journal's entries at `places`, `failures`, `left_out`, and `changes`.

    `places`: the first key and the line of each entry, in planned order. Without `changes` all that `base` holds
    stays, as far as no entry takes its place. `classes`: names of the labels, beginning with those of `base`.
    `headers`: sha256 of the headers of shards that the run has written itself, by name. `has_kept`: whether `changes`
    have the images that are kept; else these keep the times that `base` knows.
    """

    base: Base
    journal: Journal
    places: Sequence[tuple[str, Line]]
    failures: Sequence[Failure] = ()
    changes: Changes | None = None
    classes: tuple[str, ...] = ()
    left_out: Sequence[LeftOut] = ()
    headers: Mapping[str, bytes] = field(default_factory=dict)
    has_kept: bool = True

    def write(self, folder: Path, records: Sequence[Provenance], plan_sha256: str) -> Manifest:
        """Write index, table, times of source files, checksums and the manifest into `folder`.

        `records`: of what is added.

        Where nothing came of the run that the set did not hold before, the manifest is the one of before. Raises
        `StoreError` if latents that are to be taken out of the statistics are damaged.
        """
        merged, before = self._merged(), self._table()
        with IndexWriter(folder, self.base, before, merged.known) as writer:
            merged.write(writer)
            written = writer.finish()
        manifest, entries = self.base.manifest, [merged.entries[line] for _, line in self.places]
        if manifest is None or manifest.index != written.file or any(entry.file for entry in entries):
            manifest = self._manifest(merged, written, entries, records, plan_sha256)
        if before is not None or self.base.manifest is None:
            self._write_table(folder, merged, before, written.items, manifest)
        publish(folder / CHECKSUM_FILE, checksum_lines(manifest))
        publish(folder / MANIFEST_FILE, [manifest.to_bytes()])
        return manifest

    def _merged(self) -> MergedRows:
        facts = self.failures, self.left_out, self.changes
        return MergedRows(self.base, self.journal, self.places, *facts, has_kept=self.has_kept)

    def _table(self) -> ItemTable | None:
        """Return the table of the set of before; None if there is none, as of a damaged set."""
        try:
            return self.base.table()
        except StoreError:
            return None

    def _write_table(
        self, folder: Path, merged: MergedRows, before: ItemTable | None, items: ItemColumns, manifest: Manifest
    ) -> None:
        """Write the table; none of a set with a damaged shard or row, which whoever reads the set then finds."""
        headers = () if before is None else before.headers  # shards stay in their places, new ones follow
        try:
            new = tuple(self._new_header(merged, manifest, entry) for entry in manifest.shards[len(headers) :])
            table = items.finish(manifest, headers + new)
        except (StoreError, KeyError):  # the latter of a row in no shard of the set
            return
        publish(folder / ITEMS_FILE, table.to_chunks(hashlib.sha256(manifest.to_bytes()).hexdigest()))

    def _new_header(self, merged: MergedRows, manifest: Manifest, entry: ShardEntry) -> bytes:
        """Return the sha256 of a new shard's header. Raises `StoreError` unless it holds the rows of the journal."""
        if entry.name in self.headers:
            return self.headers[entry.name]
        header, header_sha256 = open_listed(self.base.root, manifest, entry)
        rows = ShardRecords.of(header.records)
        if row_identity(rows.keys, rows.geometries) != merged.identities[entry.name]:
            raise StoreError("holds other images than the journal says", place=entry.name)
        return header_sha256

    def _manifest(
        self,
        merged: MergedRows,
        index: WrittenIndex,
        entries: Sequence[JournalEntry],
        added: Sequence[Provenance],
        plan_sha256: str,
    ) -> Manifest:
        before = self.base.manifest.shards if self.base.manifest else ()
        records = list(self.base.manifest.records) if self.base.manifest else [added[0]]
        new = []
        for entry in entries:
            if entry.file:
                record = added[entry.version]
                records += [record] if record not in records else []
                facts = entry.name, merged.num_rows[entry.name], entry.file
                new.append(ShardEntry(*facts, records.index(record)))
        shards = (*before, *new)
        num_latents, rows = sum(shard.num_images for shard in shards), index.rows
        return Manifest(
            provenance=records[0],
            later_versions=tuple(records[1:]),
            plan_sha256=plan_sha256,
            num_ok=rows.ok,
            num_failed=rows.failed,
            num_removed=rows.removed,
            num_superseded=num_latents - rows.ok - rows.removed,
            shards=shards,
            index=index.file,
            pieces=index.pieces,
            sums=self._sums(merged, entries, added[0].layout.channels, is_empty=not rows.ok),
            columns=self._columns(index),
            num_left_out=rows.left_out,
            tensors=self._tensors(index),
        )

    def _columns(self, index: WrittenIndex) -> SetColumns:
        before = self.base.manifest.columns.classes if self.base.manifest else ()
        return SetColumns(index.columns, grown_classes(before, self.classes))

    def _tensors(self, index: WrittenIndex) -> dict[str, TensorColumn]:
        if self.base.manifest is None or not self.base.manifest.tensors:
            return {}
        served = np.sort(np.array(index.served, dtype=np.int64))
        return recounted(self.base.root, self.base.manifest.tensors, served)

    def _sums(
        self, merged: MergedRows, entries: Sequence[JournalEntry], channels: int, *, is_empty: bool
    ) -> ChannelSums:
        """Sums over what is to be used; `is_empty`: nothing is."""
        if is_empty:
            return ChannelSums.zero(channels)  # no residue of rounding
        sums = self.base.manifest.sums if self.base.manifest else ChannelSums.zero(channels)
        for entry in entries:
            sums = sums + entry.sums
        return sums + self._sums_of(merged.again, channels) - self._sums_of(merged.without, channels)

    def _sums_of(self, places: Iterable[PlaceInShard], channels: int) -> ChannelSums:
        """Sums over rows of the base's shards."""
        sums = ChannelSums.zero(channels)
        by_shard: dict[str, list[int]] = {}
        for name, row in places:
            by_shard.setdefault(name, []).append(row)
        files = {shard.name: shard.file for shard in self.base.manifest.shards} if self.base.manifest else {}
        for name, rows in sorted(by_shard.items()):
            shard = read_shard(self.base.root / SHARD_FOLDER / name, files[name])
            for row in sorted(rows):
                sums = sums + ChannelSums.of(real_values(shard.tensors, rows=row))
        return sums


def renew_lists(base: Base, changes: Changes) -> list[str]:
    """Set right what follows from a set to which nothing is added, and renew the times of its files.

    Returns the names of the files that were written.
    """
    latents = base.latents
    assert latents is not None, "an empty set is never done"
    root, manifest, renewed = base.folder, latents.manifest, []
    checksums = list(checksum_lines(manifest))
    if _bytes_of(root / CHECKSUM_FILE) != b"".join(checksums):
        publish(root / CHECKSUM_FILE, checksums)
        renewed.append(CHECKSUM_FILE)
    if read_items(root, manifest, latents.sha256) is None:  # none, or a damaged one
        with suppress(StoreError):  # of a damaged shard: whoever reads the set says what is wrong with it
            publish(root / ITEMS_FILE, find_items(latents).table.to_chunks(latents.sha256))
            renewed.append(ITEMS_FILE)
    for number, piece in enumerate(() if changes.is_on_record else base.index.pieces):
        images, path = changes.kept_in(base.index, number), root / piece.seen_name
        if number not in changes.same_pieces and not is_just_this(path, piece.file.sha256, images):
            write_seen(path, piece.file.sha256, (seen.to_line() for seen in seen_of(images)))
            renewed.append(piece.seen_name)
    return renewed


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
