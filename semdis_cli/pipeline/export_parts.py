"""An export in parts, each of which another process can write: whole files, with the shards that they are made of."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from semdis_cli.errors import RefusedNameError, StoreError
from semdis_cli.events import BatchDone, Event, Failure, ShardFailed, StageTimes, TimeSpent
from semdis_cli.pipeline.export_sinks.registry import SINKS
from semdis_cli.pipeline.export_sinks.sink import ExportJob, KnownImages, Sink
from semdis_cli.settings import ExportSettings
from semdis_cli.stops import look
from semdis_cli.store.exchange.export import SampleRecord, UnfitError, check_finite
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard
from semdis_cli.threads import WatchedThreads

_ROWS_AT_ONCE = 256
_MOST_SHARDS = 4  # that a part has the images of, about: those at its ends are read for its neighbours too
_PARTS_OF_EACH = 4  # at least, so that none waits long for the last one

_Image = tuple[StoredShard, str]  # its shard, and its key


class PlannedPart(NamedTuple):
    """Some files of an export: the keys of their images, by shards, in order.

    `first_file`: the number of the first of files of many images.
    """

    name: str
    rows: Sequence[tuple[StoredShard, Sequence[str]]]
    first_file: int

    def pack(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> "ExportPart":
        """Return the part with all that there is to know of it, to be sent."""
        shards = tuple(replace(stored, rows={key: stored.rows[key] for key in keys}) for stored, keys in self.rows)
        keys = tuple(sorted(key for _, some in self.rows for key in some))
        source = replace(job.source, shards=shards, keys=keys, latents=None)
        own_names = {key: names[key] for key in keys if key in names}
        return ExportPart(self.name, source, own_names, self.first_file, job.known_of(source))


class ExportPart(NamedTuple):
    """A part as it is sent: the images of `source`, shards of which it has some rows.

    `names`: of the files, where each image has one. `known`: as of the job.
    """

    name: str
    source: LatentSource
    names: Mapping[str, PurePosixPath]
    first_file: int
    known: KnownImages


class WrittenPart(NamedTuple):
    """A part that is on disk: what could not be written of it, and records for a table, in order."""

    name: str
    troubles: Sequence[Failure | ShardFailed]
    records: Sequence[SampleRecord]


def parts_of(job: ExportJob, sink: Sink, num_processes: int) -> Iterator[PlannedPart]:
    """Yield what is left of an export; what is there already is in no part, unless a table lists it.

    `num_processes`: how many share them, about.
    """
    if not sink.one_file_each:
        for first_file, images in _groups(job, sink, len(job.source.keys) // (_PARTS_OF_EACH * num_processes)):
            yield PlannedPart(f"files from {first_file}", _by_shard(images), first_file)
        return
    for stored in job.source.shards:
        if keys := [key for key in stored.rows if sink.needs(key)]:
            yield PlannedPart(stored.name, [(stored, keys)], 0)


def _groups(job: ExportJob, sink: Sink, num_images: int) -> Iterator[tuple[int, list[_Image]]]:
    """Yield the images of files that are left and follow one another, with the number of the first of these files.

    There are at most as many as `num_images`, or those of one file.
    """
    without = {failure.key for failure in sink.failures}
    images = ((stored, key) for stored in job.source.shards for key in stored.rows if key not in without)
    largest = max((len(stored.rows) for stored in job.source.shards), default=0)
    most = min(_MOST_SHARDS * largest, num_images)
    first_file, group = 0, list[_Image]()
    for number, keys in enumerate(sink.files()):
        of_file = list(islice(images, len(keys)))
        is_left = sink.is_left(keys[0])
        if group and (not is_left or len(group) + len(of_file) > most):
            yield first_file, group
            group = []
        if is_left:
            first_file = first_file if group else number
            group += of_file
    if group:
        yield first_file, group


def _by_shard(images: Sequence[_Image]) -> list[tuple[StoredShard, list[str]]]:
    """Return images by their shards, in the order of these."""
    found: list[tuple[StoredShard, list[str]]] = []
    for stored, key in images:
        if not found or found[-1][0] is not stored:
            found.append((stored, []))
        found[-1][1].append(key)
    return found


def write_part(
    part: ExportPart, settings: ExportSettings, output: Path, pool: WatchedThreads
) -> Generator[Event, None, WrittenPart]:
    """Write a part below `output`, which is claimed and locked; yields how it goes."""
    job = ExportJob(part.source, settings, output, part.first_file, part.known)
    sink, records = SINKS[settings.format](job, part.names), list[SampleRecord]()
    troubles: list[Failure | ShardFailed] = []
    shards = (export_shard(job, sink, stored, pool, records.append) for stored in part.source.shards)
    try:
        for event in chain.from_iterable(shards):
            if isinstance(event, Failure | ShardFailed):
                troubles.append(event)
            else:
                yield event
        sink.close()
    finally:
        sink.discard()
    return WrittenPart(part.name, troubles, records if sink.has_table else ())


def export_shard(
    job: ExportJob, sink: Sink, stored: StoredShard, pool: WatchedThreads, add_record: Callable[[SampleRecord], object]
) -> Iterator[Event]:
    """Write the images of a shard as far as they are left; `add_record`: takes the records of a table, in order."""
    started = time.perf_counter()
    keys = {key for key in stored.rows if sink.needs(key)}
    if not keys:
        return
    try:
        shard = _read(job.source, stored)
    except StoreError as error:
        yield ShardFailed(stored.path.name, str(error), len(keys))
        return
    yield TimeSpent(StageTimes(read_s=time.perf_counter() - started))
    rows = [row for row, key in enumerate(shard.keys) if key in keys]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield from _write_rows(sink, shard, rows[start : start + _ROWS_AT_ONCE], pool, add_record)


def _read(source: LatentSource, stored: StoredShard) -> Shard:
    """Read and check the rows of one shard that are to be used. Raises `StoreError`."""
    shard = source.read(stored)
    check_finite(shard, str(stored.path))
    return shard


def _write_rows(
    sink: Sink, shard: Shard, rows: list[int], pool: WatchedThreads, add_record: Callable[[SampleRecord], object]
) -> Iterator[Event]:
    started, num_written = time.perf_counter(), 0
    write = partial(_write_row, sink, shard)
    for row, outcome in zip(rows, pool.each(write, rows) if sink.one_file_each else map(write, rows), strict=True):
        look()
        if isinstance(outcome, Failure):
            yield outcome
            continue
        num_written += sink.is_left(shard.keys[row])
        if outcome is not None:
            add_record(outcome)
    height, width = shard.records[0].geometry.bucket
    write_s = time.perf_counter() - started
    yield BatchDone(num_written, num_written * height * width / 1e6, StageTimes(write_s=write_s))


def _write_row(sink: Sink, shard: Shard, row: int) -> SampleRecord | Failure | None:
    try:
        return sink.write(shard, row)
    except UnfitError as error:
        return Failure(shard.keys[row], str(error))
    except RefusedNameError as error:
        return Failure(shard.keys[row], f"{error}, or export it as webdataset")
