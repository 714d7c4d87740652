"""Images -> shards of latents."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Self

from semdis_cli.errors import UsageError
from semdis_cli.events import Event, RunFinished, RunStarted, ShardPublished, StageTimes, Tell, TimeSpent, untold
from semdis_cli.images.formats.jpeg.decoder import jpeg_decoder
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import (
    EncodedCall,
    busy_threads,
    encoded_calls,
    image_calls,
    reading_of,
    start_workers,
    take_call,
)
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, plan_encode, sampled_as
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.pipeline.workers import Timed, compute_alone, timed
from semdis_cli.provenance import Provenance
from semdis_cli.settings import EncodeSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.store.writing.far_set import FarSet
from semdis_cli.store.writing.finished import recorded_settings
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.set_share import SetShareWriter
from semdis_cli.store.writing.set_writer import SetWriter, ShareOutcome
from semdis_cli.store.writing.shard_writer import ShardRows, WrittenShard
from semdis_cli.threads import WatchedThreads

_MOST_THREADS = 4  # that publish shards of a set on a disk; the stage of one in a store holds few shards at a time
_MOST_HELD_BYTES = 512 << 20  # of latents in full shards that are not on disk yet: two of the usual size


def encode(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    output: Path | FarSet,
    tell: Tell = untold,
) -> Iterator[Event]:
    """Encode the images of `found` into `output`, continuing an earlier run; of a finished set only what has changed.

    A bad image is a `Failure` event and a row of the index. `tell` hears of the planning, before there are events.
    Raises what `LatentSetWriter`, `plan_encode` and `within_limit` raise.
    """
    root, far = (output.stage, output) if isinstance(output, FarSet) else (output, None)
    return within_limit(_encode(found, loader, tokenizer, settings, root, far, tell), settings.max_errors)


def _encode(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    root: Path,
    far: FarSet | None,
    tell: Tell,
) -> Iterator[Event]:
    totals = RunTotals("encode", tokenizer, busy_threads(tokenizer, settings.num_workers), far)
    settings = replace(settings, latents=sampled_as(settings.latents, recorded_settings(root)))
    with (
        _open_writer(root, far, encode_provenance(tokenizer, loader.settings, settings.latents), settings) as latents,
        start_workers(tokenizer, settings.num_workers) as workers,
        _Publisher(latents, 1 if far else min(settings.num_workers, _MOST_THREADS)) as publisher,
    ):
        plan = _take_up_plan(found, loader, tokenizer, settings, latents, tell)
        done = latents.num_done, plan.megapixels(latents.remaining), latents.num_failed_before
        with reading_of(latents.remaining, loader.with_columns(plan.columns), tokenizer, workers) as (reading, trouble):
            note = "; ".join(filter(None, (latents.note(), plan.columns.note, loader.note, trouble)))
            yield RunStarted(latents.num_inputs, *done, note)
            if settings.share is None or settings.share.index == 0:  # the others plan, and find, the same
                yield from plan.failures
                yield from plan.contents.left_out
                yield from map(totals.add, plan.columns.troubles(found.all_keys))
            calls = image_calls(latents.remaining, tokenizer)
            encoded = encoded_calls(calls, reading, tokenizer, settings.latents, workers)
            yield from map(totals.add, _fill_shards(encoded, latents, publisher))
        # Index, checksums and, last, the manifest
        share = latents.outcome()
        of_share = None if share is None or latents.finished else _share_finished(totals, root, share)
        manifest = latents.finish()
        share = latents.outcome()
    if manifest is None:
        assert of_share is not None, "a run of the whole set finishes it"
        yield of_share
    else:
        yield totals.finish(
            root,
            num_ok=manifest.num_ok,
            num_failed=manifest.num_failed,
            **_changes_report(plan, manifest.num_removed),
            jpeg_decoder=jpeg_decoder(),
            **manifest.figures(),
            whitened=tokenizer.is_whitened,
            **far_off_report(manifest.sums.far_off(), tokenizer),
            **({} if share is None else _share_report(share)),
        )


def _open_writer(
    root: Path, far: FarSet | None, provenance: Provenance, settings: EncodeSettings
) -> LatentSetWriter | SetShareWriter:
    """Return what writes the set, or the share of it that is this run's."""
    mix_versions = settings.shards.mix_versions
    if settings.share is None:
        return LatentSetWriter(root, provenance, mix_versions=mix_versions, far=far)
    if far is not None:
        raise UsageError("parts need a folder that all of them see; encode to one, and copy the set", place=far.url)
    return SetShareWriter(root, provenance, settings.share, mix_versions=mix_versions)


def _share_finished(totals: RunTotals, root: Path, share: ShareOutcome) -> RunFinished:
    """Return the closing event of a share where others are missing; its report lies in the journal.

    It is written before the share is marked as done: then others may put the journal away.
    """
    return totals.finish(
        root,
        num_ok=share.num_ok,
        num_failed=share.num_failed,
        report_path=share.report_path,
        shards=share.num_shards,
        latent_bytes=share.num_bytes,
        jpeg_decoder=jpeg_decoder(),
        **_share_report(share),
    )


def _share_report(share: ShareOutcome) -> dict[str, Any]:
    return {
        "part": str(share.share),
        "part_images": {"ok": share.num_ok, "failed": share.num_failed},
        "parts_missing": list(map(str, share.missing)),
    }


def _take_up_plan(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    latents: LatentSetWriter | SetShareWriter,
    tell: Tell,
) -> EncodePlan:
    """Plan what there is to do, again if an earlier run had published shards under another plan."""
    while True:
        plan = plan_encode(found, loader, tokenizer, settings, latents.base, latents.provenance, tell)
        if latents.begin(plan.contents, partial(loader.hashes, tell=tell)):
            latents.check_space()
            return plan


def _fill_shards(encoded: Iterable[EncodedCall], latents: SetWriter, publisher: "_Publisher") -> Iterator[Event]:
    """Put encoded calls into shards, and have these published as they fill; yield what became of images and shards."""
    rows: ShardRows | None = None
    for result in encoded:
        rows = rows or latents.open_shard(result.call.shard)
        take_call(result, rows)
        if rows.is_full:  # published before yielding: the caller may close this generator at any yield
            publisher.publish(rows)
            rows = None
        else:
            publisher.fold(rows)
        yield result.done()
        yield from result.failures
        yield from result.troubles
        yield from publisher.news()
    yield from publisher.wait()


def _changes_report(plan: EncodePlan, num_removed: int) -> dict[str, Any]:
    """Give the closing report's figures of what the run changed in the set."""
    return {
        "unchanged": plan.num_unchanged,
        "changed": plan.contents.changes.num_changed,
        "removed": num_removed,
        "passed_over": dict(plan.passed_over),
        "left_out": plan.num_left_out,
    }


def far_off_report(far_off: dict[str, float] | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """Give the closing report's words on whitened latents far from mean 0 and std 1; nothing if all is well."""
    return {"far_off": far_off} if far_off is not None and tokenizer.is_whitened else {}


class _Publisher:
    """Publishes shards in threads beside the others, several at once, while the next ones are filled.

    They are noted in the order in which they were filled. Leaving its `with` waits for all, whatever ended the run:
    what is encoded is kept.
    """

    def __init__(self, latents: SetWriter, num_threads: int) -> None:
        self._latents = latents
        self._threads = WatchedThreads(num_threads, "semdis-publish", compute_alone)
        self._waiting: deque[tuple[int, Future[Timed[ShardPublished | None]]]] = deque()
        self._num_shards = 0
        self._noting = Lock()
        self._written: dict[int, WrittenShard] = {}  # by their turn, of shards that wait for one before them
        self._next_turn = 0
        self._failed_turn = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def fold(self, rows: ShardRows) -> None:
        """Have `rows`, which are not all there, prepared as far as they are."""
        self._waiting.append((0, self._threads.submit(timed, rows.fold)))

    def publish(self, rows: ShardRows) -> None:
        """Have the shard of `rows`, which are all there, published."""
        self._waiting.append((rows.num_bytes, self._threads.submit(timed, self._publish, rows, self._num_shards)))
        self._num_shards += 1

    def _publish(self, rows: ShardRows, turn: int) -> ShardPublished | None:
        if turn > self._failed_turn:
            raise CancelledError  # nobody waits for it: the error of one before it ends the run
        is_done = False
        try:
            written = self._latents.write(rows.finish())
            self._note(written, turn)
            is_done = True
        finally:
            if not is_done:
                self._failed_turn = min(turn, self._failed_turn)
        return written.published

    def _note(self, written: WrittenShard, turn: int) -> None:
        """Note a shard, and those after it that waited for it; or let it wait for its turn."""
        with self._noting:
            self._written[turn] = written
            while self._next_turn in self._written:
                self._latents.record(self._written.pop(self._next_turn))
                self._next_turn += 1

    def news(self) -> Iterator[Event]:
        """Tell of the shards that are on disk by now; waits while the others are too much to hold.

        Raises what writing them raised.
        """
        while self._waiting and (self._waiting[0][1].done() or self._holds_too_much()):
            yield from self._first()

    def _holds_too_much(self) -> bool:
        held = [num_bytes for num_bytes, publishing in self._waiting if num_bytes and not publishing.done()]
        return len(held) > 1 and sum(held) > _MOST_HELD_BYTES

    def wait(self) -> Iterator[Event]:
        """Wait for all shards, and tell of them. Raises what writing them raised."""
        while self._waiting:
            yield from self._first()

    def _first(self) -> Iterator[Event]:
        published, publish_s = self._threads.result(self._waiting.popleft()[1])
        yield TimeSpent(StageTimes(publish_s=publish_s))
        if published is not None:
            yield published
