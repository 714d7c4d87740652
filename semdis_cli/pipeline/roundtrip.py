"""Images -> latents -> images, without storing latents: what the tokenizer does to these pictures, in dB."""

import statistics
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from semdis_cli.defaults import ROUNDTRIP_MARKER
from semdis_cli.events import Event, Failure, ImageMeasured, RunStarted, ShardDecoded
from semdis_cli.files.atomic import publish
from semdis_cli.files.claim import PLAN_SHA256, claimed_folder, claimed_settings
from semdis_cli.files.json_text import escape_text, key_fields, to_line
from semdis_cli.files.spelling import give_own_names
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decoded_as, sampling_of, sampling_record
from semdis_cli.pipeline.encode_plan import EncodePlan, sampled_as
from semdis_cli.pipeline.fleet.roundtrip_job import roundtrip_engine
from semdis_cli.pipeline.images_out import ImageWriter, output_names, renamed_record, too_long
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.shard_roundtrip import RoundtripWork
from semdis_cli.provenance import Provenance
from semdis_cli.settings import RoundtripSettings
from semdis_cli.store.writing.plan import PlannedShard, plan_sha256

_PER_IMAGE_FILE = "psnr.jsonl"


def roundtrip(
    plan: EncodePlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: RoundtripSettings,
    output: Path,
) -> Iterator[Event]:
    """Encode and decode every planned image, write the reconstructions into `output` and measure them.

    Latents pass through the stored dtype, so the figures are those of `encode` followed by `decode`. PSNR is against
    the pixels that the model was given, padding left out, and counts as 100 dB where nothing differs. `psnr.jsonl` has
    one row per input. Raises `UsageError` if the folder holds something else, `NoSpaceError` if the disk fills up, and
    what `within_limit` raises.
    """
    return within_limit(_roundtrip(plan, loader, tokenizer, settings, output), settings.max_errors, goes_on=False)


def _roundtrip(
    plan: EncodePlan, loader: Loader, tokenizer: Tokenizer, settings: RoundtripSettings, output: Path
) -> Iterator[Event]:
    decoding, sampling = settings.decode, sampling_of(settings.decode)
    totals = RunTotals("roundtrip", tokenizer)
    keys = (image.source.key for shard in plan.shards for image in shard.images)
    names = output_names(keys, decoding.write.format)
    record = {
        "encode": plan.provenance.to_json(),
        PLAN_SHA256: _plan_sha256(plan, _find_provenance(claimed_settings(output, ROUNDTRIP_MARKER))),
        "sampling": sampling_record(sampling),
        "write": asdict(decoding.write),
    }
    yield RunStarted(plan.num_inputs, 0, plan.megapixels())
    errors = {failure.key: failure.reason for failure in plan.failures}
    yield from plan.failures

    # Read -> encode -> decode -> measure -> file
    scores: dict[str, float] = {}
    with claimed_folder(output, ROUNDTRIP_MARKER, record, names.values()):
        names, renamed = give_own_names(names, output)
        unusable = too_long(names)
        errors |= {failure.key: failure.reason for failure in unusable}
        yield from unusable
        shards = _usable(plan.shards, {failure.key for failure in unusable})
        writer = ImageWriter(output, names, decoding.write)
        work = RoundtripWork(loader, tokenizer, settings.latents, sampling, writer)
        with (
            roundtrip_engine(work, decoding.num_workers, decoding.processes, shards) as engine,
            closing(engine.run(shards, _nothing)) as events,
        ):
            for event in events:
                _note(event, scores, errors)
                yield totals.add(event)
            totals.num_threads = engine.num_threads

    # Figures
    _publish_figures(output / _PER_IMAGE_FILE, scores, errors)
    yield totals.finish(
        output,
        num_ok=len(scores),
        num_failed=len(errors),
        passed_over=dict(plan.passed_over),
        sampling=sampling_record(sampling),
        jpeg_decoder=jpeg_decoder(),
        psnr_db=_summary(list(scores.values())),
        **renamed_record(renamed),
        **engine.report(),
    )


def _note(event: Event, scores: dict[str, float], errors: dict[str, str]) -> None:
    if isinstance(event, ImageMeasured):
        scores[event.key] = event.psnr_db
    elif isinstance(event, Failure):
        errors[event.key] = event.reason


def _nothing(_: ShardDecoded) -> None:
    """Note nothing: a run that is stopped begins anew."""


def as_begun(settings: RoundtripSettings, output: Path) -> RoundtripSettings:
    """Return `settings`, with the noise of an earlier run in `output`; before planning."""
    recorded = claimed_settings(output, ROUNDTRIP_MARKER)
    latents = sampled_as(settings.latents, _find_provenance(recorded))
    return replace(settings, latents=latents, decode=decoded_as(settings.decode, recorded))


def _find_provenance(recorded: dict[str, Any]) -> Provenance | None:
    """Return the record of encoding in that of a roundtrip; None for nothing on record, or what is no record."""
    with suppress(ValueError):
        return Provenance.from_json(recorded.get("encode"))
    return None


def _plan_sha256(plan: EncodePlan, before: Provenance | None) -> str:
    """Hash the images and settings; under the record of an earlier run if only the name of its model is another."""
    provenance = before if before is not None and before.is_same(plan.provenance) else plan.provenance
    return plan_sha256(provenance, plan.shards, plan.failures)


def _usable(shards: Sequence[PlannedShard], unusable: Collection[str]) -> Sequence[PlannedShard]:
    """Leave images out of shards, and shards without any others."""
    if not unusable:
        return shards
    images = [tuple(one for one in shard.images if one.source.key not in unusable) for shard in shards]
    return [replace(shard, images=left) for shard, left in zip(shards, images, strict=True) if left]


def _publish_figures(path: Path, scores: dict[str, float], errors: dict[str, str]) -> None:
    """One row per input, sorted by key: its PSNR, or why it has none."""
    rows = {key: to_line({**key_fields(key), "psnr_db": round(score, 4)}) for key, score in scores.items()}
    rows |= {key: to_line({**key_fields(key), "error": escape_text(reason)}) for key, reason in errors.items()}
    publish(path, (rows[key] for key in sorted(rows)))


def _summary(scores: list[float]) -> dict[str, float] | None:
    """Mean, median, least and greatest of the scores in dB; None without any."""
    if not scores:
        return None
    values = {
        "mean": statistics.fmean(scores),
        "median": statistics.median(scores),
        "min": min(scores),
        "max": max(scores),
    }
    return {name: round(value, 3) for name, value in values.items()}
