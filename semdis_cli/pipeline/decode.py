"""Shards of latents -> images."""

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from semdis_cli.defaults import BUNDLED_MODEL, DECODE_MARKER
from semdis_cli.errors import CheckpointError, StoreError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, ShardFailed, StageTimes, TimeSpent
from semdis_cli.files.claim import claimed_folder, claimed_settings
from semdis_cli.files.json_text import unescape_name
from semdis_cli.files.spelling import give_own_names
from semdis_cli.memory import available_memory
from semdis_cli.model.checkpoint import resolve_model, weights_sha256
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import busy_threads, share_of_call, start_workers
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import ImageWriter, Writing, output_names, renamed_record, too_long
from semdis_cli.pipeline.report import RunTotals, compute_record, model_record
from semdis_cli.pipeline.shard import bucket_of, decode_call, fitting_parts, read_shard, shard_calls
from semdis_cli.pipeline.workers import Timed, Workers, done_already, in_order, read_ahead, timed
from semdis_cli.pipeline.writing_processes import PictureSink, writing_ahead
from semdis_cli.provenance import ModelIdentity, Provenance
from semdis_cli.settings import DecodeSettings, TokenizerSettings
from semdis_cli.stops import look, looking
from semdis_cli.store.mapped_shard import grid_of_name
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard

_MOST_SHARDS_AHEAD, _PART_FOR_SHARDS = 3, 8  # in an eighth of the memory
_SHARE_OF_EVENT = 1 / 1024  # of the room for calls: they are small, but there may be very many


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
    totals = RunTotals("decode", tokenizer, busy_threads(tokenizer, settings.num_workers))
    settings = decoded_as(settings, claimed_settings(output, DECODE_MARKER))
    sampling = sampling_of(settings)
    names = output_names(source.keys, settings.write.format)
    num_failed = 0
    with (
        claimed_folder(output, DECODE_MARKER, _decode_record(source, tokenizer, settings), names.values()),
        start_workers(tokenizer, settings.num_workers) as workers,
    ):
        # What there is to do
        names, renamed = give_own_names(names, output)
        writer = ImageWriter(output, names, settings.write)
        failures = too_long(names)
        done = {failure.key for failure in failures}
        done |= {key for key in looking(source.keys) if key not in done and writer.exists(key)}
        facts = len(source.keys) - len(done), _call_bytes(source, tokenizer)
        with writing_ahead(writer, workers, *facts, is_on_cpu=tokenizer.is_on_cpu) as (sink, trouble):
            yield RunStarted(len(source.keys), len(done) - len(failures), 0.0, note=trouble)
            yield from failures
            num_failed += len(failures)

            # Shard -> latents -> pixels -> files
            calls = _read_calls(source, tokenizer, done, workers)
            for event in decode_calls(calls, tokenizer, sampling, sink, workers):
                num_failed += _num_failed(event)
                yield totals.add(event)
    yield totals.finish(
        output,
        num_ok=len(source.keys) - num_failed,
        num_failed=num_failed,
        sampling=sampling_record(sampling),
        latents=str(source.path),
        **renamed_record(renamed),
    )


def _call_bytes(source: LatentSource, tokenizer: Tokenizer) -> int:
    """Return the bytes of the pixels of the largest call, as far as the names of the shards tell."""
    grids = {grid for stored in source.shards if (grid := grid_of_name(stored.path.name)) is not None}
    sizes = [(height * tokenizer.patch_size, width * tokenizer.patch_size) for height, width in grids]
    return max((3 * height * width * tokenizer.images_per_call(height, width) for height, width in sizes), default=1)


def _num_failed(event: Event) -> int:
    return event.num_images if isinstance(event, ShardFailed) else int(isinstance(event, Failure))


def _read_calls(
    source: LatentSource, tokenizer: Tokenizer, done: Collection[str], workers: Workers
) -> Iterator[Shard | Event]:
    """The latents of every model call, as a shard of those rows alone, and what is to be told of reading them.

    The next ones are read while a shard is decoded. `done`: keys to leave out.
    """
    keys = frozenset(source.keys)

    def start(stored: StoredShard) -> "Future[Timed[Shard | ShardFailed]]":
        return workers.submit_disk(timed, read_shard, source, stored, tokenizer, keys, done)

    for read in read_ahead(map(start, source.shards), workers.result, _num_ahead(source, tokenizer)):
        yield TimeSpent(StageTimes(read_s=read.seconds))
        if isinstance(read.value, ShardFailed):
            yield read.value
        else:
            yield from shard_calls(read.value, tokenizer, done)
        del read  # or one more shard would be held while the next one is waited for


def _num_ahead(source: LatentSource, tokenizer: Tokenizer) -> int:
    """Return how many shards are read while one is decoded: an accelerator is faster than one thread that reads."""
    largest = max((stored.expected.num_bytes for stored in source.shards), default=1)
    fitting = available_memory() // _PART_FOR_SHARDS // largest
    return 1 if tokenizer.is_on_cpu else max(1, min(_MOST_SHARDS_AHEAD, fitting))


def decode_calls(
    calls: Iterable[Shard | Event],
    tokenizer: Tokenizer,
    sampling: FCDMDiffAEInferenceConfig,
    writer: PictureSink,
    workers: Workers,
) -> Iterator[Event]:
    """Decode `calls`, each the rows of a model call, several at once, and write their images.

    A `BatchDone` comes once its images are on disk. Events among `calls` are handed on in their place. Raises what
    writing raises.
    """
    memory = CallMemory(tokenizer, workers.room, "decode", sampling.pdg)

    def start(call: Shard | Event) -> "Future[_WrittenCall | Event]":
        return workers.submit_model(decode_and_write, call) if isinstance(call, Shard) else done_already(call)

    def decode_and_write(call: Shard) -> _WrittenCall:
        decoded = decode_call(call, tokenizer, sampling, memory)
        look()
        writing = writer.submit(decoded.images, workers)
        return _WrittenCall(writing, len(decoded.images), decoded.failures, decoded.megapixels, decoded.decode_s)

    def share(call: Shard | Event) -> float:
        if not isinstance(call, Shard):
            return _SHARE_OF_EVENT
        return share_of_call(bucket_of(call, tokenizer), len(call.records), "decode", tokenizer, workers)

    for result in in_order(_fitting(calls, tokenizer, memory), start, share, workers.result):
        yield from result.events(workers) if isinstance(result, _WrittenCall) else [result]


def _fitting(calls: Iterable[Shard | Event], tokenizer: Tokenizer, memory: CallMemory) -> Iterator[Shard | Event]:
    for call in calls:
        yield from fitting_parts(call, tokenizer, memory) if isinstance(call, Shard) else [call]


@dataclass(frozen=True)
class _WrittenCall:
    """A model call whose images are being written. It does not hold them: they are gone once their files are made."""

    writing: Writing
    num_images: int
    failures: list[Failure]
    megapixels: float
    decode_s: float

    def events(self, workers: Workers) -> Iterator[Event]:
        """Tell of it once all images are on disk; waits for that."""
        written = workers.result(self.writing)
        times = StageTimes(decode_s=self.decode_s, write_s=written.seconds)
        yield BatchDone(self.num_images - len(written.failures), self.megapixels, times)
        yield from (*self.failures, *written.failures)


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
