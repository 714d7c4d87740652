"""Planned images -> latents, a model call at a time, with reading and computing overlapped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from typing import Protocol

import torch
from torch import Tensor

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import BatchDone, ColumnTrouble, Failure, StageTimes
from semdis_cli.images.geometry import mirror
from semdis_cli.images.loader import Loader
from semdis_cli.model.call_sizes import Half
from semdis_cli.model.devices import calls_at_once
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.parts import LATENTS, LOG_SNR, TWINS, part_dtype
from semdis_cli.pipeline.fit import COPIES_HELD, CallMemory
from semdis_cli.pipeline.workers import Timed, Workers, done_already, in_order, timed
from semdis_cli.records import EncodedImage, LoadedImage, PlannedImage
from semdis_cli.settings import LatentSettings, PartSettings
from semdis_cli.store.quantised import are_sound, store_as
from semdis_cli.store.shards import STORE_DTYPES
from semdis_cli.store.writing.plan import PlannedShard


@dataclass(frozen=True, slots=True)
class ImageCall:
    """The images of one model call, and the shard that they are for."""

    shard: PlannedShard
    images: tuple[PlannedImage, ...]

    @property
    def bucket(self) -> tuple[int, int]:
        """(H, W) in px of every image."""
        return self.shard.bucket

    @property
    def keys(self) -> list[str]:
        """Of its images."""
        return [image.source.key for image in self.images]


@dataclass(frozen=True, slots=True)
class EncodedCall:
    """The outcome of a model call."""

    call: ImageCall
    images: tuple[EncodedImage, ...]
    failures: tuple[Failure, ...]
    times: StageTimes
    troubles: tuple[ColumnTrouble, ...] = ()

    def done(self) -> BatchDone:
        """The event that tells of it."""
        height, width = self.call.bucket
        return BatchDone(len(self.images), len(self.images) * height * width / 1e6, self.times)


def start_workers(tokenizer: Tokenizer, num_workers: int) -> Workers:
    """The threads for a run with this model, `num_workers` of them for CPU work.

    On a CPU a model call is CPU work like all other; if it uses several threads itself, fewer run at once. On a GPU two
    calls are under way: one is copied while the other computes.
    """
    return Workers(num_workers, _num_model_threads(tokenizer, num_workers), shares_cores=tokenizer.is_on_cpu)


def busy_threads(tokenizer: Tokenizer, num_workers: int) -> int:
    """Threads that can be at work at once in such a run."""
    return num_workers + (_num_model_threads(tokenizer, num_workers) or 0)


def _num_model_threads(tokenizer: Tokenizer, num_workers: int) -> int | None:
    """Threads for model calls alone; None where they are CPU work like all other."""
    if not tokenizer.is_on_cpu:
        return calls_at_once(tokenizer.model.device)
    return None if tokenizer.num_threads == 1 else max(1, num_workers // tokenizer.num_threads)


def image_calls(shards: Iterable[PlannedShard], tokenizer: Tokenizer) -> Iterator[ImageCall]:
    """The model calls for all images of `shards`, in order."""
    for shard in shards:
        size = tokenizer.images_per_call(*shard.bucket)
        for start in range(0, len(shard.images), size):
            yield ImageCall(shard, tuple(shard.images[start : start + size]))


def encoded_calls(
    calls: Iterable[ImageCall], loader: Loader, tokenizer: Tokenizer, settings: PartSettings, workers: Workers
) -> Iterator[EncodedCall]:
    """Read and encode the images of `calls`, several at once; results come in their order.

    What can never fit into memory is a failure, and never read.
    """
    memory = CallMemory(tokenizer, loader.room, "encode")

    def start(call: ImageCall) -> "Future[EncodedCall]":
        if refused := refused_call(call, memory):
            return done_already(refused)
        loader.expect(call.images)

        def encode(loaded: list[list[Timed[LoadedImage | Failure]]]) -> EncodedCall:
            return encode_call(call, [*chain.from_iterable(loaded)], tokenizer, settings, memory)

        return workers.submit_call(partial(read_views, loader), by_file(call.images), encode)

    def share(call: ImageCall) -> float:
        return share_of_call(call.bucket, len(call.images), "encode", tokenizer, workers)

    yield from in_order(fitting(calls, memory), start, share, workers.result)


def by_file(images: Iterable[PlannedImage]) -> list[list[PlannedImage]]:
    """Group images that are views of one file; these follow one another."""
    return [list(views) for _, views in groupby(images, key=lambda image: image.source.file)]


def read_views(loader: Loader, images: Sequence[PlannedImage]) -> list[Timed[LoadedImage | Failure]]:
    """Read views of one file, with the seconds that each took."""
    loaded, seconds = timed(loader.load_views, images)
    return [Timed(image, seconds / len(images)) for image in loaded]


def fitting(calls: Iterable[ImageCall], memory: CallMemory) -> Iterator[ImageCall]:
    """`calls`, those that do not fit into memory whole in parts: no image's bits depend on others in its call."""
    for call in calls:
        for part in memory.parts(call.bucket, len(call.images)):
            yield replace(call, images=call.images[part])


def share_of_call(
    bucket: tuple[int, int], num_images: int, half: Half, tokenizer: Tokenizer, workers: Workers
) -> float:
    """Return the share of the room of `workers` that a call takes: by its pixels, and by the network's tensors.

    `half`: of the model; where a call takes both, "decode", which needs more.
    """
    pixel_bytes = 3 * num_images * bucket[0] * bucket[1]
    model_bytes = tokenizer.call_bytes(*bucket, half) if tokenizer.is_on_cpu else 0
    return workers.share_of_room(num_images, COPIES_HELD * pixel_bytes, model_bytes)


def refused_call(call: ImageCall, memory: CallMemory) -> EncodedCall | None:
    """Return the failures of a call that can never fit into memory, so that it is not read; None if it can."""
    failures = memory.refused(call.bucket, call.keys)
    return EncodedCall(call, (), tuple(failures), StageTimes()) if failures else None


def encode_call(
    call: ImageCall,
    loaded: Sequence[Timed[LoadedImage | Failure]],
    tokenizer: Tokenizer,
    settings: PartSettings,
    memory: CallMemory,
) -> EncodedCall:
    """Encode those images of `call` that could be read, once there is memory for it.

    Whatever is wrong with an image is a `Failure`.
    """
    images, failures, read_s = split_loaded(loaded)
    with memory.taking(call.bucket, len(call.images)):
        stored = timed(_store_images, images, tokenizer, settings) if images else Timed([], 0.0)
    encoded = tuple(one for one in stored.value if isinstance(one, EncodedImage))
    failures += [one for one in stored.value if isinstance(one, Failure)]
    times = StageTimes(read_s=read_s, encode_s=stored.seconds)
    troubles = tuple(trouble for image in images for trouble in image.troubles)
    return EncodedCall(call, encoded, tuple(failures), times, troubles)


class LatentSink(Protocol):
    """Takes latents: the rows of a shard, or a stream."""

    def add(self, image: EncodedImage) -> None:
        """Take one image."""

    def add_failure(self, failure: Failure) -> None:
        """Take note of an image that could not be used."""


def take_call(result: EncodedCall, sink: LatentSink) -> None:
    """Hand what came out of a model call to `sink`."""
    for image in result.images:
        sink.add(image)
    for failure in result.failures:
        sink.add_failure(failure)


def split_loaded(loaded: Sequence[Timed[LoadedImage | Failure]]) -> tuple[list[LoadedImage], list[Failure], float]:
    """The images that could be read, why the others could not, and the seconds that all took."""
    images = [one.value for one in loaded if isinstance(one.value, LoadedImage)]
    failures = [one.value for one in loaded if isinstance(one.value, Failure)]
    return images, failures, sum(one.seconds for one in loaded)


def _store_images(
    images: Sequence[LoadedImage], tokenizer: Tokenizer, settings: PartSettings
) -> list[EncodedImage | Failure]:
    try:
        tensors = _encode_tensors(images, tokenizer, settings)
        if settings.flip == "both":
            twins = _encode_tensors(images, tokenizer, settings, are_mirrored=True)
            tensors |= {TWINS[name]: tensor for name, tensor in twins.items()}
    except UnreadableImageError as error:
        return [Failure(image.record.key, str(error)) for image in images]
    return [
        _store(image, {name: rows[row] for name, rows in tensors.items()} | dict(image.parts), settings.store_dtype)
        for row, image in enumerate(images)
    ]


def _encode_tensors(
    images: Sequence[LoadedImage], tokenizer: Tokenizer, settings: PartSettings, *, are_mirrored: bool = False
) -> dict[str, Tensor]:
    """Encode one call; return its tensors by name, [B,Z,h,w] float32 each. Raises as `encode_images`."""
    if settings.posterior != "moments":
        return {LATENTS: encode_images(images, tokenizer, settings, are_mirrored=are_mirrored)}
    moments = tokenizer.moments(_stack(images, are_mirrored=are_mirrored), _keys(images))
    return dict(zip((LATENTS, LOG_SNR), moments.unbind(1), strict=True))


def encode_images(
    images: Sequence[LoadedImage], tokenizer: Tokenizer, settings: LatentSettings, *, are_mirrored: bool = False
) -> Tensor:
    """Latents [B,Z,h,w] float32 of one call, `are_mirrored`: of the mirrored pixels.

    Raises `UnreadableImageError` for an image too large for the memory.
    """
    pixels = _stack(images, are_mirrored=are_mirrored)
    seed, noise = settings.sample_seed, settings.noise
    return tokenizer.encode(pixels, _keys(images), sample_seed=seed, noise=noise, are_mirrored=are_mirrored)


def _stack(images: Sequence[LoadedImage], *, are_mirrored: bool) -> Tensor:
    """uint8 [B,3,H,W], which lie as [B,H,W,3] in memory, as those of each image do: the other order takes long."""
    pixels = [mirror(image.pixels, image.record.geometry) if are_mirrored else image.pixels for image in images]
    return torch.stack([one.permute(1, 2, 0) for one in pixels]).permute(0, 3, 1, 2)


def _keys(images: Sequence[LoadedImage]) -> list[str]:
    return [image.record.key for image in images]


def _store(image: LoadedImage, tensors: Mapping[str, Tensor], store_dtype: str) -> EncodedImage | Failure:
    parts = as_stored(image, tensors, store_dtype)
    if isinstance(parts, Failure):
        return parts
    return EncodedImage(image.record, parts.pop(LATENTS), image.mtime_ns, image.ctime_ns, parts)


def as_stored(image: LoadedImage, tensors: Mapping[str, Tensor], store_dtype: str) -> dict[str, Tensor] | Failure:
    """The tensors of an image, [Z,h,w] float32 each, as they are stored, if they are finite in that."""
    stored: dict[str, Tensor] = {}
    for name, values in tensors.items():
        stored |= store_as(name, values, STORE_DTYPES[part_dtype(name, store_dtype)])
    if are_sound(stored):
        return stored
    if are_sound(tensors):
        reason = f"its latents are too large for --store-dtype {store_dtype}"
    else:
        reason = "its latents are not finite (NaN or infinity)"
    return Failure(image.record.key, reason, image.record.source.num_bytes, image.mtime_ns, image.ctime_ns)
