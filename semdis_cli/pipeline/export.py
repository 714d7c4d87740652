"""Shards of latents -> files that other programs read, one or a pair for each image."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from semdis_cli.events import Event, Failure, RunStarted, ShardFailed, StageTimes, TimeSpent
from semdis_cli.files.atomic import check_free_space
from semdis_cli.files.claim import claimed_folder, sweep_folders
from semdis_cli.pipeline.export_parts import ExportPart, PlannedPart, WrittenPart, export_shard, parts_of
from semdis_cli.pipeline.export_sinks.registry import SINKS
from semdis_cli.pipeline.export_sinks.sink import ExportJob, Sink
from semdis_cli.pipeline.fleet.export_job import export_engine
from semdis_cli.pipeline.fleet.fleet import Fleet
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.settings import ExportSettings, ProcessSettings
from semdis_cli.store.exchange.export import EXPORT_MARKER
from semdis_cli.store.reader import LatentSource, recorded_layout
from semdis_cli.threads import WatchedThreads

ALONE = ProcessSettings()
_IN_CLUSTER = 16  # processes, about: how many there will be nobody knows


def export(
    source: LatentSource, settings: ExportSettings, output: Path, processes: ProcessSettings = ALONE
) -> Iterator[Event]:
    """Write the latents of `source` below `output`; what an earlier run finished is kept.

    `processes`: who writes; the files are the same. A damaged shard is a `ShardFailed` event, and the others are
    exported all the same. Raises `UsageError` if the folder holds something else or cannot be written, `NoSpaceError`,
    and `StoreError` for keys that lead out of the folder and settings that say nothing of the latents.
    """
    totals, num_failed = RunTotals("export", None), 0
    report: dict[str, Any] = {}
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
        yield RunStarted(len(source.keys), num_done, 0.0, note=_note(job, kind, left_out))

        # Shard -> rows -> files
        num_processes = _IN_CLUSTER if processes.is_in_cluster else len(processes.places)
        parts = [*parts_of(job, sink, num_processes)] if num_processes > 1 and source.latents is not None else []
        engine = export_engine(processes, job, parts, names)
        events = _write_here(job, sink, stack) if engine is None else _write_there(engine, sink, parts, report)
        for event in chain(sink.failures, events):
            num_failed += _num_failed(event)
            yield totals.add(event)
        yield totals.add(_conclude(sink))
        if "processes_died" in report:
            sweep_folders(output, own_files)
    yield totals.finish(
        output,
        num_ok=len(source.keys) - num_failed,
        num_failed=num_failed,
        latents=str(source.path),
        lossless=not settings.is_lossy(job.stored_dtype) and not left_out,
        **settings.to_json(job.stored_dtype) | ({"parts_left_out": left_out} if left_out else {}),
        **report,
    )


def _write_here(job: ExportJob, sink: Sink, stack: ExitStack) -> Iterator[Event]:
    """Write all that is left in this process."""
    pool = stack.enter_context(WatchedThreads(job.settings.num_workers, "semdis-write"))
    for stored in job.source.shards:
        yield from export_shard(job, sink, stored, pool, sink.add_record)
    sink.close()


def _write_there(
    engine: AbstractContextManager[Fleet[PlannedPart, ExportPart, WrittenPart]],
    sink: Sink,
    parts: Sequence[PlannedPart],
    report: dict[str, Any],
) -> Iterator[Event]:
    """Have all parts written by other processes; `report` gets what there is to say of these."""
    written: dict[str, WrittenPart] = {}
    left, damaged = deque(part.name for part in parts), dict[str, ShardFailed]()

    def next_ones() -> Iterator[Failure]:
        while left and left[0] in written:
            part = written.pop(left.popleft())
            deque(map(sink.add_record, part.records), maxlen=0)
            yield from _troubles(part, damaged)

    with engine as fleet, closing(fleet.run(parts, lambda part: written.update({part.name: part}))) as events:
        for event in events:
            yield event
            yield from next_ones()
        yield from next_ones()
        report |= fleet.report()
    yield from damaged.values()


def _troubles(part: WrittenPart, damaged: dict[str, ShardFailed]) -> Iterator[Failure]:
    """Yield the failures of a part; a shard of which several have images is told once, of all of them."""
    for trouble in part.troubles:
        if isinstance(trouble, ShardFailed):
            before = damaged.get(trouble.name)
            number = trouble.num_images + (0 if before is None else before.num_images)
            damaged[trouble.name] = replace(trouble, num_images=number)
        else:
            yield trouble


def _note(job: ExportJob, kind: type[Sink], left_out: Sequence[str]) -> str:
    """Return what a person should know before it goes on: a line, or nothing."""
    nowhere = f"{job.settings.format} has no place for {', '.join(left_out)}: left out" if left_out else ""
    return "; ".join(filter(None, (kind.note(job), nowhere, _say_what_stays(job.source))))


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


def _conclude(sink: Sink) -> TimeSpent:
    started = time.perf_counter()
    sink.conclude()
    return TimeSpent(StageTimes(write_s=time.perf_counter() - started))


def _num_failed(event: Event) -> int:
    return event.num_images if isinstance(event, ShardFailed) else int(isinstance(event, Failure))
