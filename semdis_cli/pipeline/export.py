"""Shards of latents -> files that other programs read, one or a pair for each image."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

from semdis_cli.errors import RefusedNameError, StoreError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, ShardFailed, StageTimes, TimeSpent
from semdis_cli.files.atomic import check_free_space
from semdis_cli.files.claim import claimed_folder
from semdis_cli.pipeline.export_sinks.registry import SINKS
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.settings import ExportSettings
from semdis_cli.stops import look
from semdis_cli.store.exchange.export import (
    EXPORT_MARKER,
    SampleRecord,
    UnfitError,
    check_finite,
)
from semdis_cli.store.reader import LatentSource, StoredShard, recorded_layout
from semdis_cli.store.shards import Shard
from semdis_cli.threads import WatchedThreads

_ROWS_AT_ONCE = 256


def export(source: LatentSource, settings: ExportSettings, output: Path) -> Iterator[Event]:
    """Write the latents of `source` below `output`; what an earlier run finished is kept.

    A damaged shard is a `ShardFailed` event, and the others are exported all the same. Raises `UsageError` if the
    folder holds something else or cannot be written, `NoSpaceError`, and `StoreError` for keys that lead out of the
    folder and settings that say nothing of the latents.
    """
    totals, num_failed = RunTotals("export", None), 0
    recorded_layout(source.provenance, str(source.path))
    kind, job = SINKS[settings.format], ExportJob(source, settings, output)
    names = kind.name_files(job)
    record, own_files = {**_describe(job), **kind.describe(job)}, names.values() if kind.one_file_each else ()
    with claimed_folder(output, EXPORT_MARKER, record, own_files), ExitStack() as stack:
        # What there is to do
        sink = kind(job, names)
        stack.callback(sink.discard)
        check_free_space(output, _bytes_left(job, sink))
        num_left = sum(map(sink.is_left, source.keys))
        num_done = len(source.keys) - len(sink.failures) - num_left
        left_out = [name for name in job.parts if name not in kind.parts(job)]
        notes = (
            kind.note(job),
            f"{settings.format} has no place for {', '.join(left_out)}: left out" if left_out else "",
            _say_what_stays(source),
        )
        yield RunStarted(len(source.keys), num_done, 0.0, note="; ".join(filter(None, notes)))

        # Shard -> rows -> files
        pool = stack.enter_context(WatchedThreads(settings.num_workers, "semdis-write"))
        for event in chain(sink.failures, *(_export_shard(job, sink, stored, pool) for stored in source.shards)):
            num_failed += _num_failed(event)
            yield totals.add(event)
        yield totals.add(_close(sink))
    yield totals.finish(
        output,
        num_ok=len(source.keys) - num_failed,
        num_failed=num_failed,
        latents=str(source.path),
        lossless=not settings.is_lossy(job.stored_dtype) and not left_out,
        **settings.to_json(job.stored_dtype) | ({"parts_left_out": left_out} if left_out else {}),
    )


def _say_what_stays(source: LatentSource) -> str:
    names = ", ".join(source.tensor_names)
    return f"columns of tensors are not exported ({names}): LatentDataset gives them" if names else ""


def _describe(job: ExportJob) -> dict[str, object]:
    """Return the record of an export: runs with equal ones may continue each other."""
    source = job.source
    return {
        "latents_sha256": source.sha256,
        "num_images": len(source.keys),
        "provenance": source.provenance.to_json(),
        **({"later_versions": [record.to_json() for record in source.later_versions]} if source.later_versions else {}),
        **job.settings.to_json(job.stored_dtype),
    }


def _bytes_left(job: ExportJob, sink: Sink) -> int:
    """Estimate what is still to be written."""
    return sum(sink.sample_bytes(job, stored) * sum(map(sink.is_left, stored.rows)) for stored in job.source.shards)


def _export_shard(job: ExportJob, sink: Sink, stored: StoredShard, pool: WatchedThreads) -> Iterator[Event]:
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
        yield from _write_rows(sink, shard, rows[start : start + _ROWS_AT_ONCE], pool)


def _read(source: LatentSource, stored: StoredShard) -> Shard:
    """Read and check the rows of one shard that are to be used. Raises `StoreError`."""
    shard = source.read(stored)
    check_finite(shard, str(stored.path))
    return shard


def _write_rows(sink: Sink, shard: Shard, rows: list[int], pool: WatchedThreads) -> Iterator[Event]:
    started, num_written = time.perf_counter(), 0
    write = partial(_write_row, sink, shard)
    for row, outcome in zip(rows, pool.each(write, rows) if sink.one_file_each else map(write, rows), strict=True):
        look()
        if isinstance(outcome, Failure):
            yield outcome
            continue
        num_written += sink.is_left(shard.keys[row])
        if outcome is not None:
            sink.add_record(outcome)
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


def _close(sink: Sink) -> TimeSpent:
    started = time.perf_counter()
    sink.close()
    return TimeSpent(StageTimes(write_s=time.perf_counter() - started))


def _num_failed(event: Event) -> int:
    return event.num_images if isinstance(event, ShardFailed) else int(isinstance(event, Failure))
