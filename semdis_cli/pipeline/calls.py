"""Planned images -> latents, a model call at a time, with reading and computing overlapped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import BatchDone, ColumnTrouble, Failure, StageTimes
from semdis_cli.images.formats.jpeg.on_device import device_jpegs
from semdis_cli.images.loader import Loader
from semdis_cli.model.call_sizes import Half
from semdis_cli.model.devices import calls_at_once
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.parts import LATENTS, LOG_SNR, QUANTISED, TWINS, part_dtype
from semdis_cli.pipeline.device_reading import DeviceReading
from semdis_cli.pipeline.fit import COPIES_HELD, CallMemory
from semdis_cli.pipeline.processes.reading import reading_ahead
from semdis_cli.pipeline.reading import LoadedCall, Reading, ThreadReading
from semdis_cli.pipeline.workers import Workers, done_already, in_order, timed
from semdis_cli.records import EncodedImage, LoadedImage, PlannedImage
from semdis_cli.settings import LatentSettings, PartSettings
from semdis_cli.store.quantised import are_sound, store_as
from semdis_cli.store.shards import STORE_DTYPES
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.tensors import is_out_of_memory


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
    """The outcome of a model call; `rows`: the tensors of all `images` by name, where they lie in one piece."""

    call: ImageCall
    images: tuple[EncodedImage, ...]
    failures: tuple[Failure, ...]
    times: StageTimes
    troubles: tuple[ColumnTrouble, ...] = ()
    rows: Mapping[str, Tensor] | None = None

    def done(self) -> BatchDone:
        """The event that tells of it."""
        height, width = self.call.bucket
        return BatchDone(len(self.images), len(self.images) * height * width / 1e6, self.times)


def start_workers(tokenizer: Tokenizer, num_workers: int, num_processes: int = 1) -> Workers:
    """The threads for a run with this model, `num_workers` of them for CPU work.

    On a CPU a model call is CPU work like all other; if it uses several threads itself, fewer run at once. On a GPU two
    calls are under way: one is copied while the other computes. `num_processes`: that share the memory.
    """
    num_model_threads = _num_model_threads(tokenizer, num_workers)
    return Workers(num_workers, num_model_threads, shares_cores=tokenizer.is_on_cpu, num_processes=num_processes)


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


class Volume(NamedTuple):
    """Images that are to be read, and bytes of the pixels of the largest call for them."""

    num_images: int
    call_bytes: int

    @classmethod
    def of(cls, shards: Iterable[PlannedShard], tokenizer: Tokenizer) -> "Volume":
        """Return that of `shards`."""
        num_images = call_bytes = 0
        for shard in shards:
            num_images += len(shard.images)
            call_bytes = max(call_bytes, _call_bytes(shard, tokenizer))
        return cls(num_images, call_bytes)


def reading_of(
    volume: Volume, loader: Loader, tokenizer: Tokenizer, workers: Workers
) -> AbstractContextManager[tuple[Reading, str]]:
    """Return what reads so many images, and what is to be said of it, as `reading_ahead` has them.

    Raises `UsageError` where a device is to decode that cannot.
    """
    if loader.settings.read.decode_on == "cuda":
        jpegs = device_jpegs(tokenizer.model.device)
        return nullcontext((DeviceReading(ThreadReading(loader, workers), jpegs, tokenizer.without_calls), ""))
    return reading_ahead(loader, workers, *volume, is_on_cpu=tokenizer.is_on_cpu)


def _call_bytes(shard: PlannedShard, tokenizer: Tokenizer) -> int:
    """Return the bytes of the pixels of a full call."""
    height, width = shard.bucket
    return 3 * height * width * tokenizer.images_per_call(height, width)


def encoded_calls(
    calls: Iterable[ImageCall], reading: Reading, tokenizer: Tokenizer, settings: PartSettings, workers: Workers
) -> Iterator[EncodedCall]:
    """Read and encode the images of `calls`, several at once; results come in their order.

    What can never fit into memory is a failure, and never read.
    """
    memory = CallMemory(tokenizer, reading.room, "encode")

    def start(call: ImageCall) -> "Future[EncodedCall]":
        if refused := refused_call(call, memory):
            return done_already(refused)
        return reading.submit(call.images, lambda loaded: encode_call(call, loaded, tokenizer, settings, memory))

    def portion(call: ImageCall) -> float:
        share = share_of_call(call.bucket, len(call.images), "encode", tokenizer, workers)
        return reading.share(call.images, share)

    yield from in_order(fitting(calls, memory), start, portion, workers.result)


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
    call: ImageCall, loaded: LoadedCall, tokenizer: Tokenizer, settings: PartSettings, memory: CallMemory
) -> EncodedCall:
    """Encode those images of `call` that could be read, once there is memory for it.

    Whatever is wrong with an image is a `Failure`.
    """
    with memory.taking(call.bucket, len(call.images)):
        (outcomes, rows), encode_s = timed(_store_images, loaded, tokenizer, settings)
    encoded = tuple(one for one in outcomes if isinstance(one, EncodedImage))
    failures = (*loaded.failures, *(one for one in outcomes if isinstance(one, Failure)))
    times = StageTimes(read_s=loaded.read_s, encode_s=encode_s)
    return EncodedCall(call, encoded, failures, times, loaded.troubles, rows)


class LatentSink(Protocol):
    """Takes latents: the rows of a shard, or a stream."""

    def add_call(self, images: Sequence[EncodedImage], rows: Mapping[str, Tensor] | None) -> None:
        """Take images; `rows`: as in an `EncodedCall`."""

    def add_failure(self, failure: Failure) -> None:
        """Take note of an image that could not be used."""


def take_call(result: EncodedCall, sink: LatentSink) -> None:
    """Hand what came out of a model call to `sink`."""
    sink.add_call(result.images, result.rows)
    for failure in result.failures:
        sink.add_failure(failure)


def _store_images(
    loaded: LoadedCall, tokenizer: Tokenizer, settings: PartSettings
) -> tuple[Sequence[EncodedImage | Failure], Mapping[str, Tensor] | None]:
    """Encode what could be read; return the outcome for each image, and `rows` of an `EncodedCall`."""
    if not loaded.images:
        return (), None
    rounded = torch.float32 if settings.store_dtype in QUANTISED else STORE_DTYPES[settings.store_dtype]
    try:
        stored = _as_stored(_encode_tensors(loaded, tokenizer, settings, rounded), settings.store_dtype)
        if are_sound(stored):  # all at once
            images = [
                _encoded(image, one | _as_stored(image.parts, settings.store_dtype))
                for image, one in zip(loaded.images, _rows(stored), strict=True)
            ]
            return images, None if any(image.parts for image in loaded.images) else stored
        tensors = _encode_tensors(loaded, tokenizer, settings, torch.float32)  # again, to tell what is wrong
    except UnreadableImageError as error:
        return [Failure(image.record.key, str(error)) for image in loaded.images], None
    return [
        _store(image, one | dict(image.parts), settings.store_dtype)
        for image, one in zip(loaded.images, _rows(tensors), strict=True)
    ], None


def _rows(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of each image of a call."""
    for row in zip(*(tensor.unbind() for tensor in tensors.values()), strict=True):
        yield dict(zip(tensors, row, strict=True))


def _encode_tensors(
    loaded: LoadedCall, tokenizer: Tokenizer, settings: PartSettings, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Encode one call; return its tensors by name, [B,Z,h,w] each, latents in `dtype`. Raises as `encode_images`."""
    tensors = _encode_once(loaded, tokenizer, settings, dtype, are_mirrored=False)
    if settings.flip == "both":
        twins = _encode_once(loaded, tokenizer, settings, dtype, are_mirrored=True)
        tensors |= {TWINS[name]: tensor for name, tensor in twins.items()}
    return tensors


def _encode_once(
    loaded: LoadedCall, tokenizer: Tokenizer, settings: PartSettings, dtype: torch.dtype, *, are_mirrored: bool
) -> dict[str, Tensor]:
    if settings.posterior != "moments":
        return {LATENTS: encode_images(loaded, tokenizer, settings, are_mirrored=are_mirrored, dtype=dtype)}
    moments = tokenizer.moments(_batch(loaded, are_mirrored=are_mirrored), loaded.keys)
    return dict(zip((LATENTS, LOG_SNR), moments.unbind(1), strict=True))


def encode_images(
    loaded: LoadedCall,
    tokenizer: Tokenizer,
    settings: LatentSettings,
    *,
    are_mirrored: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Latents [B,Z,h,w] of one call in `dtype`, `are_mirrored`: of the mirrored pixels.

    Raises `UnreadableImageError` for an image too large for the memory.
    """
    pixels, seed = _batch(loaded, are_mirrored=are_mirrored), settings.sample_seed
    return tokenizer.encode(
        pixels, loaded.keys, sample_seed=seed, noise=settings.noise, are_mirrored=are_mirrored, dtype=dtype
    )


def _batch(loaded: LoadedCall, *, are_mirrored: bool) -> Tensor:
    """Return the pixels of a call. Raises `UnreadableImageError` where there is no memory to have them mirrored."""
    try:
        return loaded.batch(are_mirrored=are_mirrored)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UnreadableImageError("not enough memory for the pixels of a call") from error


def _store(image: LoadedImage, tensors: Mapping[str, Tensor], store_dtype: str) -> EncodedImage | Failure:
    parts = as_stored(image, tensors, store_dtype)
    return parts if isinstance(parts, Failure) else _encoded(image, parts)


def _encoded(image: LoadedImage, tensors: dict[str, Tensor]) -> EncodedImage:
    return EncodedImage(image.record, tensors.pop(LATENTS), image.mtime_ns, image.ctime_ns, tensors)


def _as_stored(tensors: Mapping[str, Tensor], store_dtype: str) -> dict[str, Tensor]:
    """Return tensors of one image or of a call, float32, as they are stored."""
    stored: dict[str, Tensor] = {}
    for name, values in tensors.items():
        stored |= store_as(name, values, STORE_DTYPES[part_dtype(name, store_dtype)])
    return stored


def as_stored(image: LoadedImage, tensors: Mapping[str, Tensor], store_dtype: str) -> dict[str, Tensor] | Failure:
    """The tensors of an image, [Z,h,w] float32 each, as they are stored, if they are finite in that."""
    stored = _as_stored(tensors, store_dtype)
    if are_sound(stored):
        return stored
    if are_sound(tensors):
        reason = f"its latents are too large for --store-dtype {store_dtype}"
    else:
        reason = "its latents are not finite (NaN or infinity)"
    return Failure(image.record.key, reason, image.record.source.num_bytes, image.mtime_ns, image.ctime_ns)
