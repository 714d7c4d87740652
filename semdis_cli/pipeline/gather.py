"""Exported files -> shards of latents, as `encode` would have cut them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from semdis_cli.errors import StoreError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, StageTimes, TimeSpent
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.workers import timed
from semdis_cli.provenance import Provenance
from semdis_cli.records import UNKNOWN_MASK, EncodedImage, PlannedImage, SourceImage, content_of
from semdis_cli.settings import ShardSettings
from semdis_cli.sources.files import ON_DISK
from semdis_cli.store.exchange.samples import FoundSample, FoundSamples
from semdis_cli.store.writing.changes import Hashes
from semdis_cli.store.writing.comparison import find_changes
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import PlannedShard, SetPlan, plan_sha256, plan_shards
from semdis_cli.store.writing.shard_writer import ShardRows

_IMAGES_AT_ONCE = 256


def gather(found: FoundSamples, settings: ShardSettings, output: Path) -> Iterator[Event]:
    """Write the latents of `found` into the set `output`, continuing an earlier run; of a finished set what changed.

    A damaged file is a `Failure` event and a row of the index. Equal images and settings give the bytes that encoding
    gave. Images that an export lacks are counted in the report. Raises what `LatentSetWriter` raises.
    """
    totals = RunTotals("import", None)
    samples = {sample.key: sample for sample in found.samples}
    mask = UNKNOWN_MASK if found.provenance.to_json().get("mask") == "files" else None  # exports do not say which file

    def hashes(images: Sequence[SourceImage]) -> Iterator[str]:
        """Yield what is recorded of the files that the latents were made from."""
        return (content_of(samples[image.key].source.sha256, mask) for image in images)

    with LatentSetWriter(
        output,
        found.provenance,
        mix_versions=settings.mix_versions or len(found.records.all) > 1,
        later_versions=found.records.all[1:],
    ) as latents:
        # What there is to do
        plan = plan_gather(found, settings, latents.base, hashes, latents.provenance)
        while not latents.begin(plan, hashes):
            plan = plan_gather(found, settings, latents.base, hashes, latents.provenance)
        latents.check_space()
        megapixels = _megapixels(latents.remaining)
        done = latents.num_done, megapixels, latents.num_failed_before
        yield RunStarted(plan.num_inputs, *done, latents.note())
        yield from plan.failures

        # Read -> check -> shard
        for planned in latents.remaining:
            rows = latents.open_shard(planned)
            yield from map(totals.add, _gather_shard(planned, found, samples, rows, mask))
            published, write_s = timed(latents.publish, rows.finish())
            yield totals.add(TimeSpent(StageTimes(write_s=write_s)))
            if published is not None:
                yield published

        # Index, checksums and, last, the manifest
        manifest = latents.finish()
    yield totals.finish(
        output,
        num_ok=manifest.num_ok,
        num_failed=manifest.num_failed,
        num_missing=found.num_missing,
        **manifest.figures(),
    )


def plan_gather(
    found: FoundSamples, settings: ShardSettings, base: Base, hashes: Hashes, provenance: Provenance
) -> SetPlan:
    """Return which image goes where, beyond what `base` holds; shards hold latents of one version each.

    `provenance`: the record under which those of the first version are kept.
    """
    images = [SourceImage(each.key, ON_DISK, each.data.path, each.source.num_bytes) for each in found.samples]
    changes = find_changes(base, images, found.failures, hashes)
    known = {sample.key: sample for sample in found.samples}
    shards: list[PlannedShard] = []
    for version in range(len(found.records.all)):
        images = [image for image in changes.to_encode if known[image.key].version == version]
        shards += plan_shards(
            (PlannedImage(image, known[image.key].bucket) for image in images),
            found.layout,
            shard_bytes=settings.shard_mib * 2**20,
            shard_images=settings.shard_images,
            first_number=base.next_number + len(shards),
            version=version,
        )
    sha256 = plan_sha256(provenance, shards, found.failures, base, changes)
    return SetPlan(tuple(shards), found.failures, changes, sha256)


def _gather_shard(
    planned: PlannedShard, found: FoundSamples, samples: dict[str, FoundSample], rows: ShardRows, mask: str | None
) -> Iterator[Event]:
    """Read the images of one shard, and check each."""
    keys = [image.source.key for image in planned.images]
    for start in range(0, len(keys), _IMAGES_AT_ONCE):
        started, num_ok = time.perf_counter(), 0
        for key in keys[start : start + _IMAGES_AT_ONCE]:
            try:
                one = found.read(samples[key])
            except StoreError as error:
                failure = Failure(key, str(error))
                rows.add_failure(failure)
                yield failure
                continue
            parts = {name: tensor[0] for name, tensor in one.parts.items()}
            rows.add(EncodedImage(replace(one.records[0], mask_sha256=mask), one.latents[0], parts=parts))
            num_ok += 1
        megapixels = num_ok * planned.bucket[0] * planned.bucket[1] / 1e6
        yield BatchDone(num_ok, megapixels, StageTimes(read_s=time.perf_counter() - started))


def _megapixels(shards: tuple[PlannedShard, ...]) -> float:
    return sum(len(shard.images) * shard.bucket[0] * shard.bucket[1] for shard in shards) / 1e6
