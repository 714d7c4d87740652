"""Images -> latents -> images, without storing latents: what the tokenizer does to these pictures, in dB."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from semdis_cli.atomic import publish
from semdis_cli.data.geometry import undo_padding
from semdis_cli.data.loader import Loader
from semdis_cli.defaults import ROUNDTRIP_MARKER
from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import BatchDone, Event, Failure, ImageMeasured, RunStarted, StageTimes
from semdis_cli.metrics import psnr_db
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import DecodeSettings
from semdis_cli.pipeline.encode import EncodePlan, EncodeSettings, encode_images
from semdis_cli.pipeline.images_out import ImageWriter, output_names, too_long
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.records import ImageBatch
from semdis_cli.store.claim import claimed_folder
from semdis_cli.store.index import to_line
from semdis_cli.store.shards import STORE_DTYPES

_PER_IMAGE_FILE = "psnr.jsonl"
_MAX_PSNR_DB = 100.0


def roundtrip(
    plan: EncodePlan,
    loader: Loader,
    tokenizer: Tokenizer,
    encode_settings: EncodeSettings,
    decode_settings: DecodeSettings,
    output: Path,
) -> Iterator[Event]:
    """Encode and decode every planned image, write the reconstructions into `output` and measure them.

    Latents pass through the stored dtype, so the figures are those of `encode` followed by `decode`. PSNR is against
    the pixels that the model was given, padding left out, and counts as 100 dB where nothing differs. `psnr.jsonl` has
    one row per input. Raises `UsageError` if the folder holds something else, `NoSpaceError` if the disk fills up.
    """
    totals = RunTotals("roundtrip", tokenizer)
    keys = (image.source.key for shard in plan.shards for image in shard.images)
    names = output_names(keys, decode_settings.write.format)
    record = {
        "encode": plan.provenance,
        "plan_sha256": plan.sha256,
        "sampling": asdict(decode_settings.sampling),
        "write": asdict(decode_settings.write),
    }
    yield RunStarted(plan.num_inputs, 0, plan.megapixels())
    known = [*plan.failures, *too_long(names)]
    errors = {failure.key: failure.reason for failure in known}
    yield from known

    # Read -> encode -> decode -> measure -> file
    scores: dict[str, float] = {}
    with (
        claimed_folder(output, ROUNDTRIP_MARKER, record, names.values()),
        ImageWriter(output, names, decode_settings.write, decode_settings.num_workers) as writer,
    ):
        for loaded in _all_batches(plan, loader, tokenizer):
            errors.update((failure.key, failure.reason) for failure in loaded.failures)
            yield from loaded.failures
            batch = replace(loaded, images=tuple(image for image in loaded.images if image.key not in errors))
            if not batch.images:
                continue
            try:
                done, measured = _roundtrip_batch(batch, tokenizer, encode_settings, decode_settings, writer)
            except UnreadableImageError as error:
                errors.update((image.key, str(error)) for image in batch.images)
                yield from (Failure(image.key, str(error)) for image in batch.images)
            else:
                scores.update((image.key, image.psnr_db) for image in measured)
                yield totals.add(done)
                yield from measured

    # Figures
    _publish_figures(output / _PER_IMAGE_FILE, scores, errors)
    yield totals.finish(
        output,
        num_ok=len(scores),
        num_failed=len(errors),
        sampling=asdict(decode_settings.sampling),
        psnr_db=_summary(list(scores.values())),
    )


def _all_batches(plan: EncodePlan, loader: Loader, tokenizer: Tokenizer) -> Iterator[ImageBatch]:
    for shard in plan.shards:
        yield from loader.batches(shard.images, tokenizer.images_per_call(*shard.bucket))


def _roundtrip_batch(
    batch: ImageBatch,
    tokenizer: Tokenizer,
    encode_settings: EncodeSettings,
    decode_settings: DecodeSettings,
    writer: ImageWriter,
) -> tuple[BatchDone, list[ImageMeasured]]:
    keys = [image.key for image in batch.images]
    started = time.perf_counter()
    latents = encode_images(batch.images, tokenizer, encode_settings)
    stored = latents.to(STORE_DTYPES[encode_settings.store_dtype]).float()
    encoded = time.perf_counter()
    decoded_pixels = tokenizer.decode(stored, keys, decode_settings.sampling)
    decoded = time.perf_counter()
    measured = []
    for image, reconstruction in zip(batch.images, decoded_pixels, strict=True):
        kept = undo_padding(reconstruction.numpy(), image.geometry)
        given = undo_padding(image.pixels.numpy(), image.geometry)
        writer.submit(image.key, kept)
        score = min(psnr_db(torch.from_numpy(kept), torch.from_numpy(given)), _MAX_PSNR_DB)
        measured.append(ImageMeasured(image.key, score))
    writer.drain()
    times = StageTimes(
        read_s=batch.read_s,
        encode_s=encoded - started,
        decode_s=decoded - encoded,
        write_s=time.perf_counter() - decoded,
    )
    megapixels = sum(image.pixels.shape[1] * image.pixels.shape[2] for image in batch.images) / 1e6
    return BatchDone(len(keys), megapixels, times), measured


def _publish_figures(path: Path, scores: dict[str, float], errors: dict[str, str]) -> None:
    """One row per input, sorted by key: its PSNR, or why it has none."""
    rows = {key: to_line({"key": key, "psnr_db": round(score, 4)}) for key, score in scores.items()}
    rows |= {key: to_line({"key": key, "error": reason}) for key, reason in errors.items()}
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
