"""Shards of latents -> images."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semdis_cli.data.geometry import undo_padding
from semdis_cli.defaults import DECODE_MARKER
from semdis_cli.errors import CheckpointError, StoreError, UnreadableImageError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, ShardFailed, StageTimes
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import ModelIdentity, Tokenizer, TokenizerSettings
from semdis_cli.pipeline.images_out import ImageSink, ImageWriter, WriteSettings, output_names, too_long
from semdis_cli.pipeline.report import RunTotals, compute_record
from semdis_cli.store.claim import claimed_folder
from semdis_cli.store.reader import LatentSource
from semdis_cli.store.shards import Shard


@dataclass(frozen=True)
class DecodeSettings:
    """How latents become image files. `sampling.seed` None counts as 0: decoding is always reproducible."""

    sampling: FCDMDiffAEInferenceConfig
    write: WriteSettings
    num_workers: int


def load_recorded_model(source: LatentSource, override: str | None, settings: TokenizerSettings) -> Tokenizer:
    """The model that made `source`, from where the record says or from `override`.

    Raises `CheckpointError` if it cannot be loaded, `StoreError` if it is another model than the record's.
    """
    record = _recorded_model(source)
    try:
        if override is None:
            tokenizer = Tokenizer.load(record.name, settings, revision=record.revision, source=record.source)
        else:
            tokenizer = Tokenizer.load(override, settings)
    except CheckpointError as error:
        hint = "" if override else f" (the model recorded in {source.path}; give --model if it is elsewhere)"
        raise CheckpointError(f"{error}{hint}") from error
    found = tokenizer.identity
    if (found.weights_sha256, found.config_sha256) != (record.weights_sha256, record.config_sha256):
        raise StoreError(
            f"{source.path}: made by {record.name} (weights {record.weights_sha256:.12}), but {found.name} has other "
            f"weights or another config (weights {found.weights_sha256:.12}); give --model the one that made it"
        )
    facts = {"channels": tokenizer.latent_channels, "whitened": tokenizer.is_whitened}
    if any(source.provenance.get(name) != value for name, value in facts.items()):
        raise StoreError(f"{source.path}: its record does not fit its own model; damaged or edited")
    return tokenizer


def _recorded_model(source: LatentSource) -> ModelIdentity:
    """Which model made the latents, as their record says; a file's record is checked like all else in it."""
    try:
        identity = ModelIdentity(**source.provenance["model"])
    except (KeyError, TypeError) as error:
        raise StoreError(f"{source.path}: does not say which model made it") from error
    texts = (identity.name, identity.source, identity.weights_sha256, identity.config_sha256, identity.revision or "")
    if not all(isinstance(text, str) for text in texts):
        raise StoreError(f"{source.path}: does not say which model made it")
    return identity


def decode(source: LatentSource, tokenizer: Tokenizer, settings: DecodeSettings, output: Path) -> Iterator[Event]:
    """Decode every latent of `source` into an image below `output`; images that an earlier run finished are kept.

    A damaged shard is a `ShardFailed` event, and the others are decoded all the same. Raises `UsageError` if the folder
    holds something else or cannot be written, `NoSpaceError`, and `StoreError` for keys that lead out of the folder.
    """
    totals = RunTotals("decode", tokenizer)
    names = output_names(source.keys, settings.write.format)
    num_failed = 0
    with (
        claimed_folder(output, DECODE_MARKER, _decode_record(source, tokenizer, settings), names.values()),
        ImageWriter(output, names, settings.write, settings.num_workers) as writer,
    ):
        # What there is to do
        failures = too_long(names)
        done = {failure.key for failure in failures}
        done |= {key for key in source.keys if key not in done and writer.exists(key)}
        yield RunStarted(len(source.keys), len(done) - len(failures), 0.0)
        yield from failures
        num_failed += len(failures)

        # Shard -> latents -> pixels -> files
        for stored in source.shards:
            try:
                started = time.perf_counter()
                shard = source.read(stored)
                check_fit(shard, tokenizer, names.keys(), str(stored.path))
                read_s = time.perf_counter() - started
            except StoreError as error:
                num_lost = sum(key not in done for key in stored.rows)
                num_failed += num_lost
                yield ShardFailed(stored.path.name, str(error), num_lost)
                continue
            rows = [row for row, key in enumerate(shard.keys) if key not in done]
            yield totals.add(BatchDone(0, 0.0, StageTimes(read_s=read_s)))
            for event in decode_rows(shard, rows, tokenizer, settings.sampling, writer):
                num_failed += isinstance(event, Failure)
                yield totals.add(event)
    yield totals.finish(
        output,
        num_ok=len(source.keys) - num_failed,
        num_failed=num_failed,
        sampling=asdict(settings.sampling),
        latents=str(source.path),
    )


def decode_rows(
    shard: Shard, rows: Sequence[int], tokenizer: Tokenizer, sampling: FCDMDiffAEInferenceConfig, writer: ImageSink
) -> Iterator[Event]:
    """Decode the given rows of a shard, one model call at a time, and write their images."""
    height, width = (side * tokenizer.patch_size for side in shard.latents.shape[-2:])
    size = tokenizer.images_per_call(height, width)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        started = time.perf_counter()
        keys = [shard.keys[row] for row in batch]
        try:
            images = tokenizer.decode(shard.latents[batch].float(), keys, sampling)
        except UnreadableImageError as error:
            yield from (Failure(key, str(error)) for key in keys)
            continue
        decoded = time.perf_counter()
        for row, image in zip(batch, images, strict=True):
            writer.submit(shard.keys[row], undo_padding(image.numpy(), shard.geometries[row]))
        writer.drain()
        times = StageTimes(decode_s=decoded - started, write_s=time.perf_counter() - decoded)
        yield BatchDone(len(batch), len(batch) * height * width / 1e6, times)


def check_fit(shard: Shard, tokenizer: Tokenizer, keys: Collection[str], path: str) -> None:
    """Raise `StoreError` if a shard's rows do not belong to the set, or are not what the model takes."""
    grid, patch = tuple(shard.latents.shape[-2:]), tokenizer.patch_size
    if shard.latents.shape[1] != tokenizer.latent_channels:
        raise StoreError(f"{path}: {shard.latents.shape[1]} channels, but the model has {tokenizer.latent_channels}")
    if not shard.latents.isfinite().all():
        raise StoreError(f"{path}: latents that are not finite; not made by semdis encode")
    for key, geometry in zip(shard.keys, shard.geometries, strict=True):
        if key not in keys or geometry.bucket != (grid[0] * patch, grid[1] * patch):
            raise StoreError(f"{path}: row {key!r:.80} does not belong to this set; damaged or edited")


def _decode_record(source: LatentSource, tokenizer: Tokenizer, settings: DecodeSettings) -> dict[str, Any]:
    return {"latents_sha256": source.sha256, **decode_provenance(tokenizer, settings)}


def decode_provenance(tokenizer: Tokenizer, settings: DecodeSettings) -> dict[str, Any]:
    """Every setting that decides the bytes of an image beyond its latents, as plain JSON values."""
    return {
        "model": asdict(tokenizer.identity),
        "compute": compute_record(tokenizer),
        "sampling": asdict(settings.sampling),
        "write": asdict(settings.write),
    }
