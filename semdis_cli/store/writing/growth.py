"""A set after a run: what it held before, less what is no longer an input, plus what the journal has published."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.atomic import publish
from semdis_cli.files.growing import GrowingArray
from semdis_cli.files.json_text import is_strange, key_fields, to_line
from semdis_cli.files.set_names import CHECKSUM_FILE, INDEX_FILE, ITEMS_FILE, MANIFEST_FILE, SEEN_FILE, SHARD_FOLDER
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.columns import SetColumns, grown_classes
from semdis_cli.store.index import IndexLine, IndexRow
from semdis_cli.store.item_table import ItemColumns, read_items
from semdis_cli.store.items import find_items, open_listed
from semdis_cli.store.manifest import Manifest, ShardEntry, checksum_lines
from semdis_cli.store.quantised import real_values
from semdis_cli.store.shard_records import ShardRecords
from semdis_cli.store.shards import read_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.tensors.file import place_of
from semdis_cli.store.tensors.listed import TensorColumn
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.entry_text import NewLine, row_identity
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.journal import Journal, Line
from semdis_cli.store.writing.journal_file import JournalEntry
from semdis_cli.store.writing.merge import Keyed, joined, merge_rows
from semdis_cli.store.writing.seen import SeenFile, is_just_this, seen_failure, seen_left_out, write_seen
from semdis_cli.store.writing.tensors import recounted

_Place = tuple[str, int]  # (shard, row)


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
        merged = _Merged(self, GrowingArray("B", folder))
        index = publish(folder / INDEX_FILE, joined(merged.lines()))
        write_seen(folder, index.sha256, merged.seen_lines())
        manifest, entries = self.base.manifest, [merged.entries[line] for _, line in self.places]
        if manifest is None or manifest.index != index or any(entry.file for entry in entries):
            sums = self._sums(merged, entries, records[0].layout.channels)
            manifest = self._manifest(merged, entries, sums, index, plan_sha256, records)
        self._write_table(folder, merged, manifest)
        publish(folder / CHECKSUM_FILE, checksum_lines(manifest))
        publish(folder / MANIFEST_FILE, [manifest.to_bytes()])
        return manifest

    def _write_table(self, folder: Path, merged: "_Merged", manifest: Manifest) -> None:
        """Write the table; none of a set with a damaged shard or row, which whoever reads the set then finds."""
        try:
            headers = self.base.headers()
            new = [entry for entry in manifest.shards if entry.name not in headers]
            headers |= {entry.name: self._new_header(merged, manifest, entry) for entry in new}
            table = merged.columns.finish(manifest, tuple(headers[entry.name] for entry in manifest.shards))
        except (StoreError, KeyError):  # the latter of a row in no shard of the set
            return
        publish(folder / ITEMS_FILE, table.to_chunks(hashlib.sha256(manifest.to_bytes()).hexdigest()))

    def _new_header(self, merged: "_Merged", manifest: Manifest, entry: ShardEntry) -> bytes:
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
        merged: "_Merged",
        entries: Sequence[JournalEntry],
        sums: ChannelSums,
        index: FileDigest,
        plan_sha256: str,
        added: Sequence[Provenance],
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
        num_latents = sum(shard.num_images for shard in shards)
        return Manifest(
            provenance=records[0],
            later_versions=tuple(records[1:]),
            plan_sha256=plan_sha256,
            num_ok=merged.counts["ok"],
            num_failed=merged.counts["failed"],
            num_removed=merged.counts["removed"],
            num_superseded=num_latents - merged.counts["ok"] - merged.counts["removed"],
            shards=shards,
            index=index,
            sums=sums,
            columns=self._columns(merged),
            num_left_out=merged.counts["left_out"],
            tensors=self._tensors(merged),
        )

    def _columns(self, merged: "_Merged") -> SetColumns:
        before = self.base.manifest.columns.classes if self.base.manifest else ()
        return SetColumns(dict(merged.num_columns), grown_classes(before, self.classes))

    def _tensors(self, merged: "_Merged") -> dict[str, TensorColumn]:
        if self.base.manifest is None or not self.base.manifest.tensors:
            return {}
        served = np.sort(np.array(merged.served, dtype=np.int64))
        return recounted(self.base.root, self.base.manifest.tensors, served)

    def _sums(self, merged: "_Merged", entries: Sequence[JournalEntry], channels: int) -> ChannelSums:
        """Sums over what is to be used."""
        if not merged.counts["ok"]:
            return ChannelSums.zero(channels)  # no residue of rounding
        sums = self.base.manifest.sums if self.base.manifest else ChannelSums.zero(channels)
        for entry in entries:
            sums = sums + entry.sums
        return sums + self._sums_of(merged.again, channels) - self._sums_of(merged.without, channels)

    def _sums_of(self, places: Iterable[_Place], channels: int) -> ChannelSums:
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
    if not changes.is_on_record and not is_just_this(root, manifest.index.sha256, changes.kept):
        write_seen(root, manifest.index.sha256, (seen.to_line() for seen in changes.seen()))
        renewed.append(SEEN_FILE)
    return renewed


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@dataclass
class _Merged:
    """The rows of the set to be, in one pass, and what was counted on the way.

    `new_seen`: lines of the times of what is new. `unseen`: what takes the place of a row of before, without times.
    """

    growth: Growth
    new_seen: GrowingArray
    unseen: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)  # by status
    entries: dict[Line, JournalEntry] = field(default_factory=dict)  # without their rows
    num_rows: Counter[str] = field(default_factory=Counter)  # latents in each new shard
    identities: dict[str, bytes] = field(default_factory=dict)  # of their rows, as `row_identity`
    without: list[_Place] = field(default_factory=list)  # latents that served before, and will not
    again: list[_Place] = field(default_factory=list)  # the other way round
    columns: ItemColumns = field(default_factory=ItemColumns)
    num_columns: Counter[str] = field(default_factory=Counter)  # images that are to be used, by what came with them
    served: "array[int]" = field(default_factory=lambda: array("q"))  # their places, if they may have tensors

    def lines(self) -> Iterator[bytes]:
        """The index's lines, sorted by key."""
        growth = self.growth
        has_tensors = growth.base.manifest is not None and bool(growth.base.manifest.tensors)
        groups = [("", self._old()), ("", self._failed()), ("", self._left_out())]
        groups += [(first_key, self._new(line)) for first_key, line in sorted(growth.places)]
        offset, last = 0, ""
        for line in _last_of_each(merge_rows(groups), self._replace):
            if line.key < last:
                raise StoreError(f"the journal has rows in no order: {line.key!r:.80}")
            last = line.key
            self.counts[line.status] += 1
            if line.status == "ok" and line.shard is not None:
                self.columns.add(offset, line.shard)
                if line.columns:
                    self.num_columns.update(line.columns)
                if has_tensors and line.row is not None:
                    self.served.append(place_of(line.shard, line.row))
            offset += len(line.data)
            if line.seen is not None:
                self.new_seen.add_bytes(line.seen.to_line())
            yield line.data

    def _replace(self, old: NewLine, new: NewLine) -> None:
        """Note that a row takes the place of another one, of the set of before. Raises `StoreError` for any other."""
        if old.shard in self.num_rows:
            raise StoreError(f"the journal has two rows for {old.key!r:.80}")
        if old.status == "ok" and old.shard is not None and old.row is not None:
            self.without.append((old.shard, old.row))
        if new.seen is None:
            self.unseen.add(new.key)

    def seen_lines(self) -> Iterator[bytes]:
        """The times of all files that have latents, sorted by key; to be called after `lines` is through."""
        changes = self.growth.changes
        if changes is not None and self.growth.has_kept:
            known, gone = changes.seen(), frozenset[str]()
        else:
            known = self.growth.base.seen()
            gone = frozenset() if changes is None else changes.removed | changes.forgotten
        old = (seen for seen in known if seen.key not in self.unseen and seen.key not in gone)
        first = next(old, None)
        if first is None:
            return self.new_seen.lines()
        new = map(SeenFile.parse, self.new_seen.lines())
        merged = merge_rows([("", chain([first], old)), ("", new)])
        return (seen.to_line() for seen in _last_of_each(merged))

    def _old(self) -> Iterator[NewLine]:
        changes = self.growth.changes or Changes()
        for line in self.growth.base.lines():
            if line.key in changes.removed:
                self.without += [line.place] if line.place else []
                yield NewLine.of(_with_status(line, "removed"))
            elif line.key in changes.set_aside:
                self.without += [line.place] if line.place and line.status == "ok" else []
                yield NewLine.of(_with_status(line, "removed", changes.set_aside[line.key]))
            elif line.key in changes.returned:
                self.again += [line.place] if line.place else []
                yield NewLine.of(_with_status(line, "ok"))
            elif line.key not in changes.forgotten:
                yield NewLine.of(_as_written_now(line))

    def _new(self, place: Line) -> Iterator[NewLine]:
        entry, lines, self.identities[entry.name] = self.growth.journal.read_lines(place)
        self.entries[place] = entry
        for line in lines:
            self.num_rows[entry.name] += line.row is not None
            yield line

    def _failed(self) -> Iterator[NewLine]:
        for failure in self.growth.failures:
            yield NewLine.of_row(IndexRow.of_failure(failure), seen_failure(failure))

    def _left_out(self) -> Iterator[NewLine]:
        for one in self.growth.left_out:
            yield NewLine.of_row(IndexRow.of_left_out(one), seen_left_out(one))


_Row = TypeVar("_Row", bound=Keyed)


def _last_of_each(rows: Iterable[_Row], replaced: Callable[[_Row, _Row], None] | None = None) -> Iterator[_Row]:
    """Yield of the rows of each key, which follow one another, the last one; `replaced` hears of the others."""
    last: _Row | None = None
    for row in rows:
        if last is not None and last.key != row.key:
            yield last
        elif last is not None and replaced is not None:
            replaced(last, row)
        last = row
    if last is not None:
        yield last


def _with_status(line: IndexLine, status: str, reason: str | None = None) -> IndexLine:
    """The same line with another status and, where a filter sets it aside, with that."""
    line = _as_written_now(line)
    fields = {name: value for name, value in line.fields.items() if name != "reason"} | {"status": status}
    return line._replace(status=status, data=to_line(fields if reason is None else fields | {"reason": reason}))


def _as_written_now(line: IndexLine) -> IndexLine:
    """The same line; one of an earlier version, with a name that strict parsers do not read, with that escaped."""
    if line.key.isascii() or not is_strange(line.key):
        return line
    fields = {**line.fields, **key_fields(line.key)}
    return line._replace(fields=fields, data=to_line(fields))
