"""Pictures of the latents of a set: a PNG for each image, and the legend of them all."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from math import prod
from pathlib import Path

from torch import Tensor

from semdis_cli.defaults import PICTURES_MARKER
from semdis_cli.evaluation.pictures import PictureKind
from semdis_cli.evaluation.stored import read_checked
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, StageTimes
from semdis_cli.files.atomic import publish
from semdis_cli.files.claim import claimed_folder
from semdis_cli.files.json_text import strict_json
from semdis_cli.files.spelling import give_own_names
from semdis_cli.pipeline.images_out import ImageWriter, output_names, renamed_record, too_long
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.settings import WriteSettings
from semdis_cli.stops import look, looking
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard

LEGEND, LEGEND_PICTURE = "legend.json", "legend.svg"  # no picture of an image ends like that
_PIXELS_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class PictureJob:
    """Pictures to be drawn: of all images of `source`, into the folder `output` that the option `flag` names.

    `scale`: side of a position in px, None for what the kind has.
    """

    source: LatentSource
    kind: PictureKind
    output: Path
    flag: str
    scale: int | None = None


def draw_pictures(job: PictureJob) -> Iterator[Event]:
    """Write the picture of each image, under its key; those of an earlier run are kept.

    Raises `UsageError` if the folder holds something else or cannot be written, `NoSpaceError`, and `StoreError` for
    damaged shards and for keys that lead out of the folder.
    """
    totals, source, kind, output = RunTotals("inspect", None), job.source, job.kind, job.output
    names = output_names(source.keys, "png")
    record = {"latents_sha256": source.sha256, "pictures": kind.name, "scale": job.scale or "auto"}
    with claimed_folder(output, PICTURES_MARKER, record, names.values(), job.flag):
        # What there is to do
        names, renamed = give_own_names(names, output)
        writer = ImageWriter(output, names, WriteSettings())
        failures = too_long(names)
        done = {failure.key for failure in failures}
        done |= {key for key in looking(source.keys) if key not in done and writer.exists(key)}
        publish(output / LEGEND, [strict_json(kind.legend(), indent=1).encode() + b"\n"])
        publish(output / LEGEND_PICTURE, [kind.legend_picture().encode()])
        yield RunStarted(len(source.keys), len(done) - len(failures), 0.0)
        yield from failures

        # Shard -> pictures -> files
        num_failed = len(failures)
        for stored in source.shards:
            for event in _draw_shard(job, stored, done, writer):
                num_failed += isinstance(event, Failure)
                yield totals.add(event)
    num_ok = len(source.keys) - num_failed
    results = {"latents": str(source.path), "pictures": kind.name, **renamed_record(renamed)}
    yield totals.finish(output, num_ok=num_ok, num_failed=num_failed, **results)


def _draw_shard(job: PictureJob, stored: StoredShard, done: Collection[str], writer: ImageWriter) -> Iterator[Event]:
    """Write the pictures of a shard but for keys that are `done`, so many at a time as are not large together."""
    left = [key not in done for key in stored.rows]
    if not any(left):
        return
    shard, latents = read_checked(job.source, stored)
    size = max(1, _PIXELS_AT_ONCE // prod(shard.records[0].geometry.bucket))
    rows = list(compress(range(len(left)), left))
    for start in range(0, len(rows), size):
        yield from _draw_rows(shard, latents, rows[start : start + size], job, writer)


def _draw_rows(
    shard: Shard, latents: Tensor, rows: Sequence[int], job: PictureJob, writer: ImageWriter
) -> Iterator[Event]:
    """Write the pictures of some rows of a shard."""
    look()
    started = time.perf_counter()
    records = [shard.records[row] for row in rows]
    pictures = [
        job.kind.draw(latents[row], record.geometry, job.scale) for row, record in zip(rows, records, strict=True)
    ]
    written = writer.write([(record.key, picture) for record, picture in zip(records, pictures, strict=True)])
    megapixels = sum(prod(picture.shape[1:]) for picture in pictures) / 1e6
    yield BatchDone(len(rows) - len(written.failures), megapixels, StageTimes(write_s=time.perf_counter() - started))
    yield from written.failures
