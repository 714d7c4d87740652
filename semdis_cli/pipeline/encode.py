"""Images -> shards of latents."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from semdis_cli.events import Event, Failure, RunStarted, ShardPublished, StageTimes, Tell, TimeSpent, untold
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import (
    EncodedCall,
    busy_threads,
    encoded_calls,
    image_calls,
    start_workers,
)
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, plan_encode
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.records import EncodedImage
from semdis_cli.settings import EncodeSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.stops import wait_for
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.shard_writer import ShardWriter

_MOST_HELD_BYTES = 512 << 20  # of latents in shards that are not on disk yet: two of the usual size


def encode(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    output: Path,
    tell: Tell = untold,
) -> Iterator[Event]:
    """Encode the images of `found` into `output`, continuing an earlier run; of a finished set only what has changed.

    A bad image is a `Failure` event and a row of the index. `tell` hears of the planning, before there are events.
    Raises what `LatentSetWriter`, `plan_encode` and `within_limit` raise.
    """
    return within_limit(_encode(found, loader, tokenizer, settings, output, tell), settings.max_errors)


def _encode(
    found: FoundImages, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, output: Path, tell: Tell
) -> Iterator[Event]:
    totals = RunTotals("encode", tokenizer, busy_threads(tokenizer, settings.num_workers))
    with (
        LatentSetWriter(
            output,
            encode_provenance(tokenizer, loader.settings, settings.latents),
            tokenizer.latent_channels,
            mix_versions=settings.shards.mix_versions,
        ) as latents,
        start_workers(tokenizer, settings.num_workers) as workers,
        _Publisher() as publisher,
    ):
        # What there is to do
        plan = plan_encode(found, loader, tokenizer, settings, latents.base, latents.provenance, tell)
        while not latents.begin(plan.contents, partial(loader.hashes, tell=tell)):
            plan = plan_encode(found, loader, tokenizer, settings, latents.base, latents.provenance, tell)
        latents.check_space(plan.layout)
        megapixels = plan.megapixels(latents.remaining)
        done = latents.num_done, megapixels, latents.num_failed_before
        yield RunStarted(plan.num_inputs, *done, latents.note())
        yield from plan.failures

        # Read -> encode -> shard
        calls = image_calls(latents.remaining, tokenizer)
        encoded = encoded_calls(calls, loader, tokenizer, settings.latents, workers)
        shard: ShardWriter | None = None
        for result in encoded:
            shard = shard or latents.open_shard(result.call.shard, plan.layout)
            told = list(take_call(result, shard))
            if shard.is_full:  # before anything is told: what is told may end the run, and so may the next call
                publisher.publish(shard)
                shard = None
            yield from map(totals.add, told)
            yield from map(totals.add, publisher.news())
        yield from map(totals.add, publisher.wait())

        # Index, checksums and, last, the manifest
        manifest = latents.finished or latents.finish()
    facts = _set_report(plan, manifest, tokenizer)
    yield totals.finish(output, num_ok=manifest.num_ok, num_failed=manifest.num_failed, **facts)


def _set_report(plan: EncodePlan, manifest: Manifest, tokenizer: Tokenizer) -> dict[str, Any]:
    """Give the closing report's figures of the set, and of what the run changed in it."""
    return {
        "unchanged": plan.num_unchanged,
        "changed": plan.contents.changes.num_changed,
        "removed": manifest.num_removed,
        "passed_over": dict(plan.passed_over),
        "jpeg_decoder": jpeg_decoder(),
        "shards": len(manifest.shards),
        "latent_bytes": sum(shard.file.num_bytes for shard in manifest.shards),
        "whitened": tokenizer.is_whitened,
        **far_off_report(manifest.sums, tokenizer),
    }


def far_off_report(sums: ChannelSums, tokenizer: Tokenizer) -> dict[str, Any]:
    """Give the closing report's words on whitened latents far from mean 0 and std 1; nothing if all is well."""
    far_off = sums.far_off() if tokenizer.is_whitened else None
    return {} if far_off is None else {"far_off": far_off}


class _Publisher:
    """Publishes filled shards in a thread beside the others, one after the other, while the next ones are filled.

    Leaving its `with` waits for them, whatever ended the run: what is encoded is kept.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "semdis-publish")
        self._waiting: deque[tuple[ShardWriter, int, Future[None]]] = deque()
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def publish(self, shard: ShardWriter) -> None:
        """Have `shard` published after those before it."""
        num_bytes = shard.num_bytes  # before it is written: that gives the latents back
        self._waiting.append((shard, num_bytes, self._thread.submit(self._publish, shard)))

    def _publish(self, shard: ShardWriter) -> None:
        if self._has_failed:  # the error of the one before it ends the run
            return
        self._has_failed = True
        shard.publish()
        self._has_failed = False

    def news(self) -> Iterator[Event]:
        """Tell of the shards that are on disk by now; waits while the others are too much to hold.

        Raises what writing them raised.
        """
        while self._waiting and (self._waiting[0][2].done() or self._holds_too_much()):
            yield from self._first()

    def _holds_too_much(self) -> bool:
        return len(self._waiting) > 1 and sum(held for _, held, _ in self._waiting) > _MOST_HELD_BYTES

    def wait(self) -> Iterator[Event]:
        """Wait for all shards, and tell of them. Raises what writing them raised."""
        while self._waiting:
            yield from self._first()

    def _first(self) -> Iterator[Event]:
        shard, _, published = self._waiting.popleft()
        wait_for(published)
        yield TimeSpent(StageTimes(publish_s=shard.publish_s))
        if shard.published is not None:
            yield ShardPublished(shard.name, shard.num_images, shard.published.num_bytes)


class LatentSink(Protocol):
    """Where latents go: into a shard, or a stream."""

    def add(self, image: EncodedImage) -> None:
        """Take one image."""

    def add_failure(self, failure: Failure) -> None:
        """Take note of an image that could not be used."""


def take_call(result: EncodedCall, sink: LatentSink) -> Iterator[Event]:
    """Hand what came out of a model call to `sink`, and tell of it."""
    for image in result.images:
        sink.add(image)
    for failure in result.failures:
        sink.add_failure(failure)
    yield result.done()
    yield from result.failures
