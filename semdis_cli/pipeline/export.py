"""Shards of latents -> files that other programs read, one or a pair for each image."""

from collections.abc import Iterator
from pathlib import Path

from semdis_cli.events import Event, Failure, RunStarted, ShardFailed
from semdis_cli.files.atomic import check_free_space
from semdis_cli.pipeline.export_files import FileExport
from semdis_cli.pipeline.export_source import ExportSettings, ShardReader
from semdis_cli.pipeline.export_tars import TarExport
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.store.exchange.export import EXPORT_MARKER, alike_names, file_names, impossible_names
from semdis_cli.store.reader import LatentSource
from semdis_cli.store.writing.claim import claimed_folder


def export(source: LatentSource, settings: ExportSettings, output: Path) -> Iterator[Event]:
    """Write the latents of `source` below `output`; what an earlier run finished is kept.

    A damaged shard is a `ShardFailed` event, and the others are exported all the same. Raises `UsageError` if the
    folder holds something else or cannot be written, `NoSpaceError`, and `StoreError` for keys that lead out of the
    folder and settings that say nothing of the latents.
    """
    totals = RunTotals("export", None)
    shards = ShardReader(source)
    names = file_names(source.keys, settings.member)
    record = {
        "latents_sha256": source.sha256,
        "num_images": len(source.keys),
        "provenance": source.provenance.to_json(),
        **({"later_versions": [record.to_json() for record in source.later_versions]} if source.later_versions else {}),
        **settings.to_json(),
    }
    is_tar = settings.format == "webdataset"
    with claimed_folder(output, EXPORT_MARKER, record, () if is_tar else names.values()):
        # What there is to do
        work: TarExport | FileExport
        if is_tar:
            work = TarExport(shards, settings, output)
        else:
            impossible = impossible_names(names, output)
            impossible += alike_names(names, output, impossible)
            work = FileExport(shards, settings, output, impossible)
        failures = work.failures
        num_failed, num_done = len(failures), work.num_done
        check_free_space(output, work.bytes_left)
        yield RunStarted(len(source.keys), num_done, 0.0)
        yield from failures

        # Shard -> rows -> files
        for event in work.run():
            num_failed += _num_failed(event)
            yield totals.add(event)
    yield totals.finish(
        output,
        num_ok=len(source.keys) - num_failed,
        num_failed=num_failed,
        latents=str(source.path),
        lossless=not settings.is_lossy(shards.layout.dtype),
        **settings.to_json(),
    )


def _num_failed(event: Event) -> int:
    return event.num_images if isinstance(event, ShardFailed) else int(isinstance(event, Failure))
