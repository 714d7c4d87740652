"""Images -> shards of latents."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from torch import Tensor

from semdis_cli.data.jpeg_decoder import jpeg_decoder
from semdis_cli.data.loader import Loader, LoadSettings
from semdis_cli.data.resize import resize_name
from semdis_cli.data.sources import FoundImages
from semdis_cli.errors import UsageError
from semdis_cli.events import BatchDone, Event, Failure, Planning, RunStarted, ShardPublished, StageTimes, Tell, untold
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import (
    EncodedCall,
    LatentSettings,
    busy_threads,
    encoded_calls,
    image_calls,
    start_workers,
)
from semdis_cli.pipeline.overlap import Workers
from semdis_cli.pipeline.report import RunTotals, compute_record, model_record
from semdis_cli.records import LoadedImage
from semdis_cli.store.changes import find_changes
from semdis_cli.store.finished import NO_BASE, Base
from semdis_cli.store.latent_set import LatentSetWriter, finished_base
from semdis_cli.store.plan import LatentLayout, PlannedShard, SetPlan, plan_sha256, plan_shards
from semdis_cli.store.shard_writer import ShardWriter
from semdis_cli.store.statistics import ChannelSums

Posterior = Literal["mode", "sample"]
StoreDtype = Literal["bfloat16", "float16", "float32"]
_MOST_HELD_BYTES = 512 << 20  # of latents in shards that are not on disk yet: two of the usual size


@dataclass(frozen=True)
class EncodeSettings:
    """What decides the latents' bytes beyond model and inputs.

    `seed` counts for posterior "sample" alone. A shard holds about `shard_mib` MiB, or exactly `shard_images` images.
    """

    load: LoadSettings
    store_dtype: StoreDtype = "bfloat16"
    posterior: Posterior = "mode"
    seed: int = 0
    shard_mib: int = 256
    shard_images: int | None = None
    mix_versions: bool = False  # go on in a set that other versions of what computes and reads have begun

    @property
    def sample_seed(self) -> int | None:
        """Seed of the posterior samples, or None for the mode."""
        return self.seed if self.posterior == "sample" else None

    @property
    def latents(self) -> LatentSettings:
        """What is stored of an image's posterior."""
        return LatentSettings(self.store_dtype, self.sample_seed)


@dataclass(frozen=True)
class EncodePlan:
    """Everything that is known before the first image is encoded: what is to be written, and how."""

    contents: SetPlan
    provenance: dict[str, Any]
    layout: LatentLayout
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files that are no inputs, by kind

    @property
    def shards(self) -> tuple[PlannedShard, ...]:
        """The shards to be written."""
        return self.contents.shards

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Inputs that are known to be unusable, sorted by key."""
        return self.contents.failures

    @property
    def sha256(self) -> str:
        """Of the whole plan, settings included."""
        return self.contents.sha256

    def latent_bytes(self, shards: Iterable[PlannedShard] | None = None) -> int:
        """Bytes of the latents of `shards` (default: all), headers not counted, if no image fails."""
        return sum(len(s.images) * self.layout.latent_bytes(s.bucket) for s in self._or_all(shards))

    def megapixels(self, shards: Iterable[PlannedShard] | None = None) -> float:
        """Model input pixels (10^6) of `shards` (default: all)."""
        return sum(len(s.images) * s.bucket[0] * s.bucket[1] for s in self._or_all(shards)) / 1e6

    def _or_all(self, shards: Iterable[PlannedShard] | None) -> Iterable[PlannedShard]:
        return self.shards if shards is None else shards

    @property
    def num_unchanged(self) -> int:
        """Inputs whose latents are there already."""
        return len(self.contents.changes.kept)

    @property
    def num_inputs(self) -> int:
        """All inputs, failures and those that have latents already included."""
        return self.contents.num_inputs


def plan_encode(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    base: Base | None = None,
    provenance: dict[str, Any] | None = None,
    tell: Tell = untold,
) -> EncodePlan:
    """Which image goes where, and how large it all gets; with `base`, what is to be done beyond what that holds.

    `provenance`: under which record it is done, if not under that of `tokenizer` and `settings`. `tell` hears of it as
    it goes. Raises `UsageError` if there is no input at all.
    """
    if not found.images and not found.failures:
        kinds = f": {found.ignored_kinds}" if found.num_ignored else ""
        raise UsageError(f"no images found ({found.num_ignored} other files were passed over{kinds})")
    base = base or NO_BASE
    tell(Planning("comparing with the set"))
    changes = find_changes(base, found.images, found.failures, partial(loader.hashes, tell=tell))
    planned, unreadable = loader.plan(changes.to_encode, tell)
    failures = sorted((*found.failures, *unreadable), key=lambda failure: failure.key)
    layout = LatentLayout(tokenizer.patch_size, tokenizer.latent_channels, settings.store_dtype)
    shards = plan_shards(
        planned,
        layout,
        shard_bytes=settings.shard_mib * 2**20,
        shard_images=settings.shard_images,
        first_number=base.next_number,
    )
    provenance = provenance or encode_provenance(tokenizer, settings)
    sha256 = plan_sha256(provenance, shards, failures, base, changes)
    return EncodePlan(SetPlan(tuple(shards), tuple(failures), changes, sha256), provenance, layout, found.passed_over)


def plan_output(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    output: Path | None,
    tell: Tell = untold,
) -> EncodePlan:
    """What `encode` would do, without touching anything; `output` None: into a stream.

    Raises what `encode` would. An unfinished run counts as none.
    """
    base = NO_BASE
    if output is not None:
        provenance = encode_provenance(tokenizer, settings)
        base = finished_base(output, provenance, mix_versions=settings.mix_versions)
    return plan_encode(found, loader, tokenizer, settings, base, tell=tell)


def encode_provenance(tokenizer: Tokenizer, settings: EncodeSettings) -> dict[str, Any]:
    """Every setting that decides the bytes of a latent, as plain JSON values: equal records, equal bytes."""
    posterior: dict[str, Any] = {"kind": settings.posterior}
    if settings.sample_seed is not None:
        posterior["seed"] = settings.sample_seed
    load = settings.load
    return {
        "model": model_record(tokenizer),
        "channels": tokenizer.latent_channels,
        "patch_size": tokenizer.patch_size,
        "whitened": tokenizer.is_whitened,
        "whitening": _whitening_record(tokenizer),
        "posterior": posterior,
        "dtype": settings.store_dtype,
        "preprocessing": {
            "geometry": asdict(load.geometry),
            "background": list(load.read.background),
            "max_image_pixels": load.read.max_image_pixels,
            "reader": f"pillow {version('pillow')}",
            "resize": resize_name(),
            "jpeg_scaling": load.read.jpeg_scaling,
        },
        "compute": compute_record(tokenizer),
    }


def _whitening_record(tokenizer: Tokenizer) -> dict[str, list[float]] | None:
    """What gives raw latents back without the model; each float in the fewest digits that tell float32 apart."""
    if tokenizer.whitening is None:
        return None
    mean, std = ([float(str(value)) for value in values.numpy()] for values in tokenizer.whitening)
    return {"mean": mean, "std": std}


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
    Raises what `LatentSetWriter` and `plan_encode` raise.
    """
    totals = RunTotals("encode", tokenizer, busy_threads(tokenizer, loader.num_workers))
    with (
        LatentSetWriter(
            output,
            encode_provenance(tokenizer, settings),
            tokenizer.latent_channels,
            mix_versions=settings.mix_versions,
        ) as latents,
        start_workers(tokenizer, loader.num_workers) as workers,
        _Publisher(workers) as publisher,
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
    yield totals.finish(
        output,
        num_ok=manifest.num_ok,
        num_failed=manifest.num_failed,
        unchanged=plan.num_unchanged,
        changed=plan.contents.changes.num_changed,
        removed=manifest.num_removed,
        passed_over=dict(plan.passed_over),
        jpeg_decoder=jpeg_decoder(),
        shards=len(manifest.shards),
        latent_bytes=sum(shard.file.num_bytes for shard in manifest.shards),
        whitened=tokenizer.is_whitened,
        **far_off_report(manifest.sums, tokenizer),
    )


def far_off_report(sums: ChannelSums, tokenizer: Tokenizer) -> dict[str, Any]:
    """Give the closing report's words on whitened latents far from mean 0 and std 1; nothing if all is well."""
    far_off = sums.far_off() if tokenizer.is_whitened else None
    return {} if far_off is None else {"far_off": far_off}


class _Publisher:
    """Publishes filled shards in a thread beside the others, one after the other, while the next ones are filled.

    Leaving its `with` waits for them, whatever ended the run: what is encoded is kept.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._waiting: deque[tuple[ShardWriter, int, Future[None]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        wait([published for _, _, published in self._waiting])

    def publish(self, shard: ShardWriter) -> None:
        """Have `shard` published after those before it."""
        num_bytes = shard.num_bytes  # before it is written: that gives the latents back
        if self._waiting:
            last = self._waiting[-1][2]
            published = self._workers.submit_disk_after(last, lambda _: shard.publish())
        else:
            published = self._workers.submit_disk(shard.publish)
        self._waiting.append((shard, num_bytes, published))

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
        published.result()
        yield BatchDone(0, 0.0, StageTimes(publish_s=shard.publish_s))
        if shard.published is not None:
            yield ShardPublished(shard.name, shard.num_images, shard.published.num_bytes)


class LatentSink(Protocol):
    """Where latents go: into a shard, or a stream."""

    def add(self, image: LoadedImage, latents: Tensor) -> None:
        """Take one image's latents [Z,h,w] in the stored dtype, all finite."""

    def add_failure(self, failure: Failure) -> None:
        """Take note of an image that could not be used."""


def take_call(result: EncodedCall, sink: LatentSink) -> Iterator[Event]:
    """Hand what came out of a model call to `sink`, and tell of it."""
    for image, latents in result.rows:
        sink.add(image, latents)
    for failure in result.failures:
        sink.add_failure(failure)
    yield result.done()
    yield from result.failures
