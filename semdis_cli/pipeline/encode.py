"""Images -> shards of latents."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from semdis_cli.data.loader import Loader, LoadSettings
from semdis_cli.data.sources import FoundImages
from semdis_cli.errors import UsageError
from semdis_cli.events import BatchDone, Event, Failure, RunStarted, ShardPublished, StageTimes
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.report import RunTotals, compute_record
from semdis_cli.records import ImageBatch
from semdis_cli.store.latent_set import LatentSetWriter, ShardWriter
from semdis_cli.store.plan import LatentLayout, PlannedShard, plan_sha256, plan_shards
from semdis_cli.store.shards import STORE_DTYPES

Posterior = Literal["mode", "sample"]
StoreDtype = Literal["bfloat16", "float16", "float32"]


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
    """Everything that is known before the first image is encoded.

    `failures`: inputs that are known to be unusable, sorted by key. `sha256`: of the whole plan, settings included.
    """

    shards: tuple[PlannedShard, ...]
    failures: tuple[Failure, ...]
    provenance: dict[str, Any]
    sha256: str
    layout: LatentLayout

    def latent_bytes(self, shards: Iterable[PlannedShard] | None = None) -> int:
        """Bytes of the latents of `shards` (default: all), headers not counted, if no image fails."""
        return sum(len(s.images) * self.layout.latent_bytes(s.bucket) for s in self._or_all(shards))

    def megapixels(self, shards: Iterable[PlannedShard] | None = None) -> float:
        """Model input pixels (10^6) of `shards` (default: all)."""
        return sum(len(s.images) * s.bucket[0] * s.bucket[1] for s in self._or_all(shards)) / 1e6

    def _or_all(self, shards: Iterable[PlannedShard] | None) -> Iterable[PlannedShard]:
        return self.shards if shards is None else shards

    @property
    def num_inputs(self) -> int:
        """All inputs, failures included."""
        return sum(len(shard.images) for shard in self.shards) + len(self.failures)


def plan_encode(found: FoundImages, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings) -> EncodePlan:
    """Which image goes where, and how large it all gets. Raises `UsageError` if there is no input at all."""
    if not found.images and not found.failures:
        raise UsageError(f"no images found ({found.num_ignored} other files were passed over)")
    planned, unreadable = loader.plan(found.images)
    failures = sorted((*found.failures, *unreadable), key=lambda failure: failure.key)
    layout = LatentLayout(tokenizer.patch_size, tokenizer.latent_channels, settings.store_dtype)
    shards = plan_shards(planned, layout, shard_bytes=settings.shard_mib * 2**20, shard_images=settings.shard_images)
    provenance = encode_provenance(tokenizer, settings)
    return EncodePlan(
        shards=tuple(shards),
        failures=tuple(failures),
        provenance=provenance,
        sha256=plan_sha256(provenance, shards, failures),
        layout=layout,
    )


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


def encode(
    plan: EncodePlan, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, output: Path
) -> Iterator[Event]:
    """Encode what `plan` says into `output`, continuing an earlier run of the same plan.

    A bad image is a `Failure` event and a row of the index. Raises what `LatentSetWriter` raises on entering.
    """
    totals = RunTotals("encode", tokenizer)
    with LatentSetWriter(output, plan.provenance, plan.sha256, plan.shards, tokenizer.latent_channels) as latents:
        # What there is to do
        latents.check_space(plan.latent_bytes(latents.remaining))
        yield RunStarted(plan.num_inputs, latents.num_done, plan.megapixels(latents.remaining))
        yield from plan.failures

        # Read -> encode -> shard
        for planned in latents.remaining:
            with latents.open_shard(planned) as shard:
                yield from map(totals.add, _encode_images(planned, loader, tokenizer, settings, shard))
            yield totals.add(BatchDone(0, 0.0, StageTimes(write_s=shard.publish_s)))
            if shard.published is not None:
                yield ShardPublished(planned.name, shard.num_images, shard.published.num_bytes)

        # Index, checksums and, last, the manifest
        manifest = latents.finished or latents.finish(plan.failures)
    yield totals.finish(
        output,
        num_ok=manifest.num_ok,
        num_failed=manifest.num_failed,
        shards=len(manifest.shards),
        latent_bytes=sum(shard.file.num_bytes for shard in manifest.shards),
        whitened=tokenizer.is_whitened,
    )


def _encode_images(
    planned: PlannedShard, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, shard: ShardWriter
) -> Iterator[Event]:
    """Read and encode the images of one shard, a model call at a time."""
    for batch in loader.batches(planned.images, tokenizer.images_per_call(*planned.bucket)):
        done, failures = _encode_batch(batch, tokenizer, settings, shard)
        yield done
        yield from failures


def _encode_batch(
    batch: ImageBatch, tokenizer: Tokenizer, settings: EncodeSettings, shard: ShardWriter
) -> tuple[BatchDone, list[Failure]]:
    """One model call; its latents go to `shard`. Returns what was done and the images that failed."""
    started = time.perf_counter()
    failures = list(batch.failures)
    if not batch.images:
        latents = torch.empty(0)
    else:
        images = torch.stack([image.pixels for image in batch.images])
        keys = [image.key for image in batch.images]
        latents = tokenizer.encode(images, keys, sample_seed=settings.sample_seed)
    encoded = time.perf_counter()
    for image, latent in zip(batch.images, latents, strict=True):
        stored = latent.to(STORE_DTYPES[settings.store_dtype])
        if stored.isfinite().all():
            shard.add(image, stored)
        elif latent.isfinite().all():
            failures.append(Failure(image.key, f"its latents are too large for --store-dtype {settings.store_dtype}"))
        else:
            failures.append(Failure(image.key, "its latents are not finite (NaN or infinity)"))
    for failure in failures:
        shard.add_failure(failure)
    times = StageTimes(read_s=batch.read_s, encode_s=encoded - started, write_s=time.perf_counter() - encoded)
    megapixels = sum(image.pixels.shape[1] * image.pixels.shape[2] for image in batch.images) / 1e6
    return BatchDone(len(batch.images), megapixels, times), failures


def estimate_s(plan: EncodePlan, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings) -> float:
    """Seconds that encoding `plan` would take, from reading and encoding a few images of its largest shard."""
    if not plan.shards:
        return 0.0
    shard = max(plan.shards, key=lambda shard: len(shard.images))
    size = tokenizer.images_per_call(*shard.bucket)
    sample = shard.images[: max(3 * size, 8)]
    calls: list[tuple[int, float]] = []
    for batch in loader.batches(sample, size):
        started = time.perf_counter()
        if batch.images:
            images = torch.stack([image.pixels for image in batch.images])
            keys = [image.key for image in batch.images]
            tokenizer.encode(images, keys, sample_seed=settings.sample_seed)
        calls.append((len(batch.images) + len(batch.failures), batch.read_s + time.perf_counter() - started))
    warm = calls[1:] or calls  # the first call pays for start-up
    pixels = sum(count for count, _ in warm) * shard.bucket[0] * shard.bucket[1]
    return sum(seconds for _, seconds in warm) / pixels * 1e6 * plan.megapixels()
