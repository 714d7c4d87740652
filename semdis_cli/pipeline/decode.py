"""Shards of latents -> images."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from semdis_cli.defaults import BUNDLED_MODEL, DECODE_MARKER
from semdis_cli.errors import CheckpointError, StoreError
from semdis_cli.events import Event, Failure, RunStarted, ShardDecoded, ShardFailed
from semdis_cli.files.claim import claimed_folder, claimed_settings
from semdis_cli.files.json_text import unescape_name
from semdis_cli.files.spelling import give_own_names
from semdis_cli.model.checkpoint import resolve_model, weights_sha256
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.fleet.decode_job import decode_engine
from semdis_cli.pipeline.images_out import ImageWriter, output_names, renamed_record, too_long
from semdis_cli.pipeline.report import RunTotals, compute_record, model_record
from semdis_cli.pipeline.shard_decoder import DecodeWork
from semdis_cli.provenance import ModelIdentity, Provenance
from semdis_cli.settings import DecodeSettings, TokenizerSettings
from semdis_cli.stops import looking
from semdis_cli.store.reader import LatentSource


def sampling_of(settings: DecodeSettings) -> FCDMDiffAEInferenceConfig:
    """Return how the model decodes under `settings`."""
    how = settings.sampling
    steps = how.num_steps, how.sampler, how.schedule
    return FCDMDiffAEInferenceConfig(*steps, how.pdg, how.pdg_strength, settings.seed, settings.noise)


def sampling_record(sampling: FCDMDiffAEInferenceConfig) -> dict[str, Any]:
    """Record how images are decoded; noise that PyTorch draws as it was when there was no other, by no word."""
    record = asdict(sampling)
    return {name: record[name] for name in record if (name, record[name]) != ("noise", "torch")}


def decoded_as(settings: DecodeSettings, recorded: dict[str, Any]) -> DecodeSettings:
    """Return `settings`, with noise that PyTorch draws if the settings on record in the output folder are so."""
    sampling = recorded.get("sampling")
    is_former = isinstance(sampling, dict) and "noise" not in sampling
    return replace(settings, noise="torch") if is_former else settings


def load_recorded_model(
    source: LatentSource, override: str | None, settings: TokenizerSettings, num_alike: int = 0
) -> Tokenizer:
    """The model that made `source`, from where the record says or from `override`; `num_alike`: as for `Tokenizer`.

    Raises `CheckpointError` if it cannot be loaded, `StoreError` if it is another model than the record's.
    """
    record = _recorded_model(source)
    try:
        if override is None:
            name = record.name if Path(record.name).exists() else unescape_name(record.name)
            tokenizer = Tokenizer.load(
                name, settings, revision=record.revision, source=record.source, num_alike=num_alike
            )
        else:
            tokenizer = Tokenizer.load(override, settings, num_alike=num_alike)
    except CheckpointError as error:
        if override is None and weights_sha256(resolve_model(BUNDLED_MODEL).folder) == record.weights_sha256:
            # A copy that has moved, of what is at hand
            return load_recorded_model(source, BUNDLED_MODEL, settings, num_alike)
        hint = "" if override else f" (the model recorded in {source.path}; give --model if it is elsewhere)"
        raise error.adding(hint) from error
    found = tokenizer.identity
    if (found.weights_sha256, found.config_sha256) != (record.weights_sha256, record.config_sha256):
        raise StoreError(
            f"made by {record.name} (weights {record.weights_sha256:.12}), but {found.name} has other "
            f"weights or another config (weights {found.weights_sha256:.12}); give --model the one that made it",
            place=source.path,
        )
    if not _are_latents_of(source.provenance, tokenizer):
        raise StoreError("its record does not fit its own model; damaged or edited", place=source.path)
    return tokenizer


def _recorded_model(source: LatentSource) -> ModelIdentity:
    """Which model made the latents, as their record says; a file's record is checked like all else in it."""
    try:
        return source.provenance.model
    except ValueError as error:
        raise StoreError("does not say which model made it", place=source.path) from error


def _are_latents_of(provenance: Provenance, tokenizer: Tokenizer) -> bool:
    """Tell whether the record has the channels of the model's latents, whitened as it does it."""
    try:
        recorded = provenance.layout.channels, provenance.is_whitened
    except ValueError:
        return False
    return recorded == (tokenizer.latent_channels, tokenizer.is_whitened)


def decode(source: LatentSource, tokenizer: Tokenizer, settings: DecodeSettings, output: Path) -> Iterator[Event]:
    """Decode every latent of `source` into an image below `output`; images that an earlier run finished are kept.

    A damaged shard is a `ShardFailed` event, and the others are decoded all the same. Raises `UsageError` if the folder
    holds something else or cannot be written, `NoSpaceError`, and `StoreError` for keys that lead out of the folder.
    """
    totals = RunTotals("decode", tokenizer)
    settings = decoded_as(settings, claimed_settings(output, DECODE_MARKER))
    sampling = sampling_of(settings)
    names = output_names(source.keys, settings.write.format)
    failed: dict[str, int] = {}  # images, by the name of an image or of a shard
    with claimed_folder(output, DECODE_MARKER, _decode_record(source, tokenizer, settings), names.values()):
        # What there is to do
        names, renamed = give_own_names(names, output)
        writer = ImageWriter(output, names, settings.write)
        failures = too_long(names)
        done = {failure.key for failure in failures}
        done |= {key for key in looking(source.keys) if key not in done and writer.exists(key)}
        work = DecodeWork(source, tokenizer, sampling, writer, done)
        with (
            decode_engine(work, settings.num_workers, settings.processes) as engine,
            closing(engine.run(source.shards, _nothing)) as events,
        ):
            yield RunStarted(len(source.keys), len(done) - len(failures), 0.0, note=engine.note)
            yield from failures

            # Shard -> latents -> pixels -> files
            for event in events:
                failed |= _failed(event)
                yield totals.add(event)
            totals.num_threads = engine.num_threads
    num_failed = len(failures) + sum(failed.values())
    yield totals.finish(
        output,
        num_ok=len(source.keys) - num_failed,
        num_failed=num_failed,
        sampling=sampling_record(sampling),
        latents=str(source.path),
        **renamed_record(renamed),
        **engine.report(),
    )


def _nothing(_: ShardDecoded) -> None:
    """Note nothing: what is done shows in the folder."""


def _failed(event: Event) -> dict[str, int]:
    match event:
        case Failure():
            return {event.key: 1}
        case ShardFailed():
            return {event.name: event.num_images}
    return {}


def _decode_record(source: LatentSource, tokenizer: Tokenizer, settings: DecodeSettings) -> dict[str, Any]:
    return {"latents_sha256": source.sha256, **decode_provenance(tokenizer, settings)}


def decode_provenance(tokenizer: Tokenizer, settings: DecodeSettings) -> dict[str, Any]:
    """Every setting that decides the bytes of an image beyond its latents, as plain JSON values."""
    return {
        "model": model_record(tokenizer),
        "compute": compute_record(tokenizer),
        "sampling": sampling_record(sampling_of(settings)),
        "write": asdict(settings.write),
    }
