"""A folder of latents being written: planned shards in, a finished and provable set out, resumable at any point."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from semdis_cli.atomic import PublishedFile, check_free_space, make_folder, publish, sweep_temporaries
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.records import LoadedImage
from semdis_cli.store.checks import is_shard_name
from semdis_cli.store.index import IndexRow, merge_rows, to_line
from semdis_cli.store.journal import JOURNAL_FOLDER, Journal, JournalEntry
from semdis_cli.store.manifest import (
    CHECKSUM_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    REPORT_FILE,
    SHARD_FOLDER,
    Manifest,
    ShardEntry,
)
from semdis_cli.store.plan import PlannedShard
from semdis_cli.store.shards import STORE_DTYPES, Shard, SourceRecord, write_shard
from semdis_cli.store.statistics import ChannelSums

# What a shard's header adds for each image (key, geometry), generously.
_HEADER_BYTES_PER_IMAGE = 512


class LatentSetWriter:
    """One output folder under one plan. Use as a context manager: entering locks it and finds out what is done already.

    `provenance`: the settings that decide every byte, with `dtype` the stored one. Raises on entering: `UsageError` if
    the folder holds another plan or is in use, `NoSpaceError` if the disk cannot hold what is left to write,
    `StoreError` if what is there is damaged.
    """

    def __init__(
        self, root: Path, provenance: dict[str, Any], plan_sha256: str, shards: Sequence[PlannedShard], channels: int
    ) -> None:
        self.root = root
        self.provenance = provenance
        self.plan_sha256 = plan_sha256
        self.shards = tuple(shards)
        self.channels = channels
        self.finished: Manifest | None = None
        self._done: dict[str, int] = {}  # shard name -> offset of its line in the journal
        self._journal = Journal(root)

    def __enter__(self) -> Self:
        check_latents_folder(self.root)
        self._journal.lock()
        with ExitStack() as on_failure:
            on_failure.callback(self._let_go)
            make_folder(self.root / SHARD_FOLDER)
            self._resume()
            on_failure.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if (self.root / MANIFEST_FILE).exists():  # the journal has done its work
            self._journal.remove()
        self._journal.close()

    def _resume(self) -> None:
        for folder in (self.root, self.root / SHARD_FOLDER):
            sweep_temporaries(folder)
        plan, entries = self._journal.read()
        if (self.root / MANIFEST_FILE).exists():
            manifest = Manifest.read(self.root)
            self._check_plan(manifest.provenance, manifest.plan_sha256)
            if manifest.num_ok + manifest.num_failed < self._num_planned:
                raise StoreError(f"{self.root / MANIFEST_FILE}: does not account for every input; damaged or edited")
            _check_all_present(self.root, manifest)
            self.finished = manifest
            return
        if plan is None or not entries:
            self._begin()
        else:
            self._check_plan(plan.get("provenance"), plan.get("plan_sha256"))
        self._done = {entry.name: offset for offset, entry in entries.items() if self._is_present(entry)}

    def _begin(self) -> None:
        """Write the plan. An earlier one under which no shard was finished binds nobody, and leaves no shard behind."""
        for path in _list(self.root / SHARD_FOLDER):
            path.unlink()
        self._journal.clear()
        self._journal.append({"provenance": self.provenance, "plan_sha256": self.plan_sha256})

    def _check_plan(self, provenance: Any, plan_sha256: Any) -> None:
        differences = describe_differences(provenance, self.provenance)
        if differences:
            raise UsageError(
                f"{self.root}: begun with other settings ({'; '.join(differences)}); "
                "give the same ones to continue, or another -o"
            )
        if plan_sha256 != self.plan_sha256:
            raise UsageError(
                f"{self.root}: begun with other inputs (files were added, removed or changed in size, or shards are "
                "cut differently); restore them to continue, or give another -o"
            )

    def _is_present(self, entry: JournalEntry) -> bool:
        return entry.file is None or _size(self.root / SHARD_FOLDER / entry.name) == entry.file.num_bytes

    @property
    def remaining(self) -> tuple[PlannedShard, ...]:
        """Planned shards that are not on disk yet, in order."""
        return () if self.finished else tuple(shard for shard in self.shards if shard.name not in self._done)

    @property
    def num_done(self) -> int:
        """Inputs whose outcome is on disk already, failures included."""
        return self._num_planned - sum(len(shard.images) for shard in self.remaining)

    @property
    def _num_planned(self) -> int:
        return sum(len(shard.images) for shard in self.shards)

    def check_space(self, latent_bytes: int) -> None:
        """Raise `NoSpaceError` unless the disk can hold `latent_bytes` of latents and their headers."""
        num_images = sum(len(shard.images) for shard in self.remaining)
        check_free_space(self.root, latent_bytes + num_images * _HEADER_BYTES_PER_IMAGE)

    def open_shard(self, planned: PlannedShard) -> "ShardWriter":
        """A writer for one planned shard; leaving its `with` normally publishes it."""
        return ShardWriter(self, planned)

    def record(self, entry: JournalEntry) -> None:
        """Note a shard that is on disk. Only now does it count."""
        self._done[entry.name] = self._journal.append(entry.to_json())

    def finish(self, failures: Sequence[Failure]) -> Manifest:
        """Write index, checksums and, last, the manifest. `failures`: inputs that are in no shard, sorted by key."""
        counts = {True: 0, False: 0}

        def lines() -> Iterator[bytes]:
            for row in merge_rows(self._row_groups(failures)):
                counts[row.is_ok] += 1
                yield to_line(row.to_json())

        index = publish(self.root / INDEX_FILE, lines())
        num_inputs = self._num_planned + len(failures)
        assert counts[True] + counts[False] == num_inputs, f"{counts} rows for {num_inputs} inputs"
        entries, sums = self._summarise()
        manifest = Manifest(
            provenance=self.provenance,
            plan_sha256=self.plan_sha256,
            num_ok=counts[True],
            num_failed=counts[False],
            num_removed=0,
            num_superseded=0,
            shards=tuple(entries),
            index=index,
            sums=sums,
        )
        publish(self.root / CHECKSUM_FILE, _checksum_lines(manifest))
        publish(self.root / MANIFEST_FILE, [manifest.to_bytes()])
        self.finished = manifest
        return manifest

    def _summarise(self) -> tuple[list[ShardEntry], ChannelSums]:
        """The published shards in planned order, and the sums over all of them in that order."""
        entries, sums = [], ChannelSums.zero(self.channels)
        for shard in self.shards:
            entry = self._journal.read_entry(self._done[shard.name])
            sums = sums + entry.sums
            if entry.file is not None:
                entries.append(ShardEntry(entry.name, sum(row.is_ok for row in entry.rows), entry.file))
        return entries, sums

    def _row_groups(self, failures: Sequence[Failure]) -> list[tuple[str, Iterator[IndexRow]]]:
        """Each shard's rows, read from the journal only when asked for, and the failures; sorted by first key."""

        def rows_of(shard: PlannedShard) -> Iterator[IndexRow]:
            yield from self._journal.read_entry(self._done[shard.name]).rows

        groups = [(shard.images[0].source.key, rows_of(shard)) for shard in self.shards]
        if failures:
            groups.append((failures[0].key, map(IndexRow.of_failure, failures)))
        return sorted(groups, key=lambda group: group[0])


class ShardWriter:
    """Collects the rows of one shard. Leaving its `with` normally publishes it; on an exception nothing appears."""

    def __init__(self, latent_set: LatentSetWriter, planned: PlannedShard) -> None:
        self._set = latent_set
        self._planned = planned
        self._rows: list[IndexRow] = []
        self._latents: list[Tensor] = []
        self._sources: list[SourceRecord] = []
        self._sums = ChannelSums.zero(latent_set.channels)
        self.published: PublishedFile | None = None
        self.publish_s = 0.0

    def __enter__(self) -> Self:
        return self

    def add(self, image: LoadedImage, latents: Tensor) -> None:
        """Append one image's latents [Z,h,w], finite in the stored dtype; images come in key order."""
        latents = latents.to(STORE_DTYPES[self._set.provenance["dtype"]])
        assert latents.isfinite().all(), f"{image.key}: latents that cannot be stored are a failure"
        self._rows.append(IndexRow.of_image(image, self._planned.name, len(self._latents)))
        self._latents.append(latents)
        self._sources.append(SourceRecord(image.num_bytes, image.sha256, image.notes))
        self._sums = self._sums + ChannelSums.of(latents)

    def add_failure(self, failure: Failure) -> None:
        """Note an image of this shard that could not be used."""
        self._rows.append(IndexRow.of_failure(failure))

    @property
    def num_images(self) -> int:
        """Latents added so far."""
        return len(self._latents)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        assert len(self._rows) == len(self._planned.images), "a shard is complete when each of its images has a row"
        started = time.perf_counter()
        if self._latents:
            self.published = write_shard(self._set.root / SHARD_FOLDER / self._planned.name, self._collect())
        rows = tuple(sorted(self._rows, key=lambda row: row.key))
        self._set.record(JournalEntry(self._planned.name, self.published, rows, self._sums))
        self.publish_s = time.perf_counter() - started

    def _collect(self) -> Shard:
        ok = [row for row in self._rows if row.is_ok]
        return Shard(
            latents=torch.stack(self._latents),
            keys=tuple(row.key for row in ok),
            geometries=tuple(row.geometry for row in ok if row.geometry is not None),
            sources=tuple(self._sources),
            provenance=self._set.provenance,
        )


def describe_differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """`name: before -> now` for every setting that differs between two provenance records."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{prefix}: {before!s:.80} -> {now!s:.80}"]
    names = sorted({*before, *now})
    return [
        line
        for name in names
        for line in describe_differences(before.get(name), now.get(name), f"{prefix}.{name}" if prefix else name)
    ]


def check_latents_folder(root: Path) -> None:
    """Refuse a folder that holds something else than latents of ours, before any work. Raises `UsageError`.

    Ours is a folder with a manifest or a journal, and in it only what has our names; names that begin with a dot do not
    count.
    """
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: cannot be written (not a folder)")
    is_ours = (root / MANIFEST_FILE).is_file() or (root / JOURNAL_FOLDER).is_dir()
    own = {MANIFEST_FILE, INDEX_FILE, CHECKSUM_FILE, SHARD_FOLDER, JOURNAL_FOLDER, REPORT_FILE} if is_ours else set()
    strangers = [path for path in _list(root) if path.name not in own]
    strangers += [path for path in _list(root / SHARD_FOLDER) if not is_shard_name(path.name) or not path.is_file()]
    strangers += [path for path in _list(root / JOURNAL_FOLDER) if path.suffix != ".jsonl"]
    if strangers:
        raise UsageError(f"{root}: holds other files ({min(strangers).name}, ...); give -o an empty or new folder")


def _list(folder: Path) -> list[Path]:
    """What is in `folder`, if it is one; names that begin with a dot left out."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _check_all_present(root: Path, manifest: Manifest) -> None:
    """Refuse to call a set finished whose files are not all there; what is in them is for reading to check."""
    sizes = {root / SHARD_FOLDER / shard.name: shard.file.num_bytes for shard in manifest.shards}
    sizes[root / INDEX_FILE] = manifest.index.num_bytes
    sizes[root / CHECKSUM_FILE] = sum(map(len, _checksum_lines(manifest)))
    for path, num_bytes in sizes.items():
        if _size(path) != num_bytes:
            raise StoreError(
                f"{path}: missing, or not of the size in {MANIFEST_FILE}; restore it, or delete {root} and encode "
                "the set again"
            )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _checksum_lines(manifest: Manifest) -> Iterator[bytes]:
    """Lines that `sha256sum -c` reads, relative to the set's folder."""
    yield f"{manifest.index.sha256}  {INDEX_FILE}\n".encode()
    for shard in manifest.shards:
        yield f"{shard.file.sha256}  {SHARD_FOLDER}/{shard.name}\n".encode()
