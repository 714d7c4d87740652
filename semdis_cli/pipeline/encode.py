"""Images -> shards of latents."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from semdis_cli.data.loader import Loader, LoadSettings
from semdis_cli.data.sources import FoundImages
from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, ShardPublished, StageTimes
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.report import RunTotals, compute_record
from semdis_cli.records import ImageBatch, LoadedImage
from semdis_cli.store.changes import find_changes
from semdis_cli.store.finished import NO_BASE, Base
from semdis_cli.store.latent_set import LatentSetWriter, finished_base
from semdis_cli.store.plan import LatentLayout, PlannedShard, SetPlan, plan_sha256, plan_shards
from semdis_cli.store.shards import STORE_DTYPES

Posterior = Literal["mode", "sample"]
StoreDtype = Literal["bfloat16", "float16", "float32"]
_SHARDS_TRIED = 3  # for an estimate


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

    @property
    def sample_seed(self) -> int | None:
        """Seed of the posterior samples, or None for the mode."""
        return self.seed if self.posterior == "sample" else None


@dataclass(frozen=True)
class EncodePlan:
    """Everything that is known before the first image is encoded: what is to be written, and how."""

    contents: SetPlan
    provenance: dict[str, Any]
    layout: LatentLayout

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
    found: FoundImages, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, base: Base | None = None
) -> EncodePlan:
    """Which image goes where, and how large it all gets; with `base`, what is to be done beyond what that holds.

    Raises `UsageError` if there is no input at all.
    """
    if not found.images and not found.failures:
        raise UsageError(f"no images found ({found.num_ignored} other files were passed over)")
    base = base or NO_BASE
    changes = find_changes(base, found.images, found.failures, loader.hashes)
    planned, unreadable = loader.plan(changes.to_encode)
    failures = sorted((*found.failures, *unreadable), key=lambda failure: failure.key)
    layout = LatentLayout(tokenizer.patch_size, tokenizer.latent_channels, settings.store_dtype)
    shards = plan_shards(
        planned,
        layout,
        shard_bytes=settings.shard_mib * 2**20,
        shard_images=settings.shard_images,
        first_number=base.next_number,
    )
    provenance = encode_provenance(tokenizer, settings)
    sha256 = plan_sha256(provenance, shards, failures, base, changes)
    return EncodePlan(SetPlan(tuple(shards), tuple(failures), changes, sha256), provenance, layout)


def plan_output(
    found: FoundImages, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, output: Path | None
) -> EncodePlan:
    """What `encode` would do, without touching anything; `output` None: into a stream.

    Raises what `encode` would. An unfinished run counts as none.
    """
    base = NO_BASE if output is None else finished_base(output, encode_provenance(tokenizer, settings))
    return plan_encode(found, loader, tokenizer, settings, base)


def encode_provenance(tokenizer: Tokenizer, settings: EncodeSettings) -> dict[str, Any]:
    """Every setting that decides the bytes of a latent, as plain JSON values: equal records, equal bytes."""
    posterior: dict[str, Any] = {"kind": settings.posterior}
    if settings.sample_seed is not None:
        posterior["seed"] = settings.sample_seed
    load = settings.load
    return {
        "model": asdict(tokenizer.identity),
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
    found: FoundImages, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, output: Path
) -> Iterator[Event]:
    """Encode the images of `found` into `output`, continuing an earlier run; of a finished set only what has changed.

    A bad image is a `Failure` event and a row of the index. Raises what `LatentSetWriter` and `plan_encode` raise.
    """
    totals = RunTotals("encode", tokenizer)
    with LatentSetWriter(output, encode_provenance(tokenizer, settings), tokenizer.latent_channels) as latents:
        # What there is to do
        plan = plan_encode(found, loader, tokenizer, settings, latents.base)
        while not latents.begin(plan.contents, loader.hashes):
            plan = plan_encode(found, loader, tokenizer, settings, latents.base)
        latents.check_space(plan.layout)
        megapixels = plan.megapixels(latents.remaining)
        yield RunStarted(plan.num_inputs, latents.num_done, megapixels, latents.num_failed_before)
        yield from plan.failures

        # Read -> encode -> shard
        for planned in latents.remaining:
            with latents.open_shard(planned, plan.layout) as shard:
                yield from map(totals.add, encode_shard(planned, loader, tokenizer, settings, shard))
            yield totals.add(BatchDone(0, 0.0, StageTimes(write_s=shard.publish_s)))
            if shard.published is not None:
                yield ShardPublished(planned.name, shard.num_images, shard.published.num_bytes)

        # Index, checksums and, last, the manifest
        manifest = latents.finished or latents.finish()
    yield totals.finish(
        output,
        num_ok=manifest.num_ok,
        num_failed=manifest.num_failed,
        unchanged=plan.num_unchanged,
        changed=plan.contents.changes.num_changed,
        removed=manifest.num_removed,
        shards=len(manifest.shards),
        latent_bytes=sum(shard.file.num_bytes for shard in manifest.shards),
        whitened=tokenizer.is_whitened,
    )


class LatentSink(Protocol):
    """Where latents go: into a shard, or a stream."""

    def add(self, image: LoadedImage, latents: Tensor) -> None:
        """Take one image's latents [Z,h,w] in the stored dtype, all finite."""

    def add_failure(self, failure: Failure) -> None:
        """Take note of an image that could not be used."""


def encode_shard(
    planned: PlannedShard, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, sink: LatentSink
) -> Iterator[Event]:
    """Read and encode the images of one shard, a model call at a time."""
    for batch in loader.batches(planned.images, tokenizer.images_per_call(*planned.bucket)):
        done, failures = _encode_batch(batch, tokenizer, settings, sink)
        yield done
        yield from failures


def _encode_batch(
    batch: ImageBatch, tokenizer: Tokenizer, settings: EncodeSettings, sink: LatentSink
) -> tuple[BatchDone, list[Failure]]:
    """One model call; its latents go to `sink`. Returns what was done and the images that failed."""
    started = time.perf_counter()
    failures = list(batch.failures)
    images, latents = batch.images, torch.empty(0)
    if images:
        try:
            latents = encode_images(images, tokenizer, settings)
        except UnreadableImageError as error:
            failures += [Failure(image.key, str(error)) for image in images]
            images = ()
    encoded = time.perf_counter()
    for image, latent in zip(images, latents, strict=True):
        stored = latent.to(STORE_DTYPES[settings.store_dtype])
        if stored.isfinite().all():
            sink.add(image, stored)
        elif latent.isfinite().all():
            failures.append(_failure_of(image, f"its latents are too large for --store-dtype {settings.store_dtype}"))
        else:
            failures.append(_failure_of(image, "its latents are not finite (NaN or infinity)"))
    for failure in failures:
        sink.add_failure(failure)
    times = StageTimes(read_s=batch.read_s, encode_s=encoded - started, write_s=time.perf_counter() - encoded)
    megapixels = sum(image.pixels.shape[1] * image.pixels.shape[2] for image in images) / 1e6
    return BatchDone(len(images), megapixels, times), failures


def _failure_of(image: LoadedImage, reason: str) -> Failure:
    return Failure(image.key, reason, image.num_bytes, image.mtime_ns)


def encode_images(images: Sequence[LoadedImage], tokenizer: Tokenizer, settings: EncodeSettings) -> Tensor:
    """Latents [B,Z,h,w] float32 of one call. Raises `UnreadableImageError` for an image too large for the memory."""
    pixels = torch.stack([image.pixels for image in images])
    return tokenizer.encode(pixels, [image.key for image in images], sample_seed=settings.sample_seed)


def estimate_s(plan: EncodePlan, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings) -> float:
    """Seconds that encoding `plan` would take, from reading and encoding a few images of its largest shards."""
    num_read, read_s, num_pixels, encode_s = 0, 0.0, 0, 0.0
    for shard in sorted(plan.shards, key=lambda shard: -len(shard.images))[:_SHARDS_TRIED]:
        size = tokenizer.images_per_call(*shard.bucket)
        for number, batch in enumerate(loader.batches(shard.images[: 2 * size], size)):
            started = time.perf_counter()
            if batch.images:
                encode_images(batch.images, tokenizer, settings)
            num_read, read_s = num_read + len(batch.images) + len(batch.failures), read_s + batch.read_s
            if number or len(shard.images) <= size:  # the first call of a size pays for its start-up
                num_pixels += size * shard.bucket[0] * shard.bucket[1]
                encode_s += time.perf_counter() - started
    num_images = sum(len(shard.images) for shard in plan.shards)
    called_pixels = sum(_called_pixels(shard, tokenizer) for shard in plan.shards)
    return num_images * read_s / max(num_read, 1) + called_pixels * encode_s / max(num_pixels, 1)


def _called_pixels(shard: PlannedShard, tokenizer: Tokenizer) -> int:
    """Pixels that the model sees for a shard, the padding of its last call included."""
    size = tokenizer.images_per_call(*shard.bucket)
    return -(-len(shard.images) // size) * size * shard.bucket[0] * shard.bucket[1]
