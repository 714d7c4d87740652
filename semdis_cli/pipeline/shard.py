"""A shard as a function: its planned images -> its latents, and its latents -> the files of its images.

They compute in the calling thread and need nothing of other shards, so that any engine can map them over a plan: other
processes, or other machines. `encode` and `decode` make the same model calls in threads, of several shards at once.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from semdis_cli.errors import StoreError, UnreadableImageError
from semdis_cli.events import ColumnTrouble, Failure, ShardFailed
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.loader import Loader
from semdis_cli.memory import room_for_images
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.parts import LATENTS, SCALE
from semdis_cli.pipeline.calls import encode_call, fitting, image_calls, refused_call, take_call
from semdis_cli.pipeline.encode_plan import latent_layout
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import ImageWriter
from semdis_cli.pipeline.reading import LoadedCall, by_file, read_views
from semdis_cli.pipeline.workers import timed
from semdis_cli.settings import PartSettings
from semdis_cli.store.quantised import are_sound, real_values
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.shard_writer import EncodedShard, ShardRows


def encode_shard(planned: PlannedShard, loader: Loader, tokenizer: Tokenizer, settings: PartSettings) -> EncodedShard:
    """Read and encode the images of a planned shard; `publish_shard` writes it, with the same bytes as a run of many.

    An image that cannot be used is a failure in it.
    """
    rows = ShardRows(planned, latent_layout(tokenizer, settings))
    memory = CallMemory(tokenizer, loader.room, "encode")
    troubles: list[ColumnTrouble] = []
    for call in fitting(image_calls([planned], tokenizer), memory):
        encoded = refused_call(call, memory)
        if encoded is None:
            loaded = chain.from_iterable(read_views(loader, views) for views in by_file(call.images))
            encoded = encode_call(call, LoadedCall.of(loaded), tokenizer, settings, memory)
        take_call(encoded, rows)
        troubles += encoded.troubles
    return replace(rows.finish(), troubles=tuple(troubles))


def decode_shard(
    source: LatentSource,
    stored: StoredShard,
    tokenizer: Tokenizer,
    sampling: FCDMDiffAEInferenceConfig,
    writer: ImageWriter,
    done: Collection[str] = (),
) -> list[Failure | ShardFailed]:
    """Read one shard of `source`, decode it and write its images; returns those that could not be.

    `done`: keys to leave out. Raises `UsageError` or `NoSpaceError` where images cannot be written at all.
    """
    shard = read_shard(source, stored, tokenizer, done)
    if isinstance(shard, ShardFailed):
        return [shard]
    memory = CallMemory(tokenizer, room_for_images(), "decode", sampling.pdg)
    failures: list[Failure | ShardFailed] = []
    for call in shard_calls(shard, tokenizer, done):
        for part in fitting_parts(call, tokenizer, memory):
            decoded = decode_call(part, tokenizer, sampling, memory)
            failures += [*decoded.failures, *writer.write(decoded.images).failures]
    return failures


def read_shard(
    source: LatentSource, stored: StoredShard, tokenizer: Tokenizer, done: Collection[str]
) -> Shard | ShardFailed:
    """Read one shard of `source`, and check that it is what the model takes."""
    try:
        shard = source.read(stored)
        check_fit(shard, tokenizer, stored.rows, str(stored.path))
    except StoreError as error:
        return ShardFailed(stored.path.name, str(error), sum(key not in done for key in stored.rows))
    return shard


def check_fit(shard: Shard, tokenizer: Tokenizer, keys: Collection[str], path: str) -> None:
    """Raise `StoreError` if a shard's rows do not belong to the set, or are not what the model takes."""
    grid, patch = tuple(shard.latents.shape[-2:]), tokenizer.patch_size
    if shard.latents.shape[1] != tokenizer.latent_channels:
        raise StoreError(
            f"{shard.latents.shape[1]} channels, but the model has {tokenizer.latent_channels}", place=path
        )
    if not are_sound({name: shard.tensors[name] for name in (LATENTS, SCALE) if name in shard.tensors}):
        raise StoreError("latents that are not finite; not made by semdis encode", place=path)
    for record in shard.records:
        if record.key not in keys or record.geometry.bucket != (grid[0] * patch, grid[1] * patch):
            raise StoreError(f"row {record.key!r:.80} does not belong to this set; damaged or edited", place=path)


def shard_calls(shard: Shard, tokenizer: Tokenizer, done: Collection[str] = ()) -> Iterator[Shard]:
    """Yield the rows of `shard` whose keys are not in `done`, a model call at a time."""
    rows = [row for row, key in enumerate(shard.keys) if key not in done]
    size = tokenizer.images_per_call(*bucket_of(shard, tokenizer))
    for start in range(0, len(rows), size):
        yield shard.select(rows[start : start + size])


def fitting_parts(call: Shard, tokenizer: Tokenizer, memory: CallMemory) -> Iterator[Shard]:
    """Yield a call, in parts if it does not fit into memory whole."""
    num_images = len(call.records)
    for part in memory.parts(bucket_of(call, tokenizer), num_images):
        is_all = part == slice(0, num_images)
        yield call if is_all else call.select(range(num_images)[part])


def bucket_of(shard: Shard, tokenizer: Tokenizer) -> tuple[int, int]:
    """Return (H, W) in px of all images of a shard."""
    height, width = shard.latents.shape[-2:]
    return height * tokenizer.patch_size, width * tokenizer.patch_size


@dataclass(frozen=True)
class DecodedCall:
    """The images of a model call, (key, uint8 [3,H,W]) each without padding, or why there are none."""

    images: list[tuple[str, np.ndarray]]
    failures: list[Failure]
    megapixels: float = 0.0
    decode_s: float = 0.0


def decode_call(
    call: Shard, tokenizer: Tokenizer, sampling: FCDMDiffAEInferenceConfig, memory: CallMemory
) -> DecodedCall:
    """Decode the rows of one model call, once there is memory for it; what can never fit is a failure."""
    bucket = bucket_of(call, tokenizer)
    if refused := memory.refused(bucket, call.keys):
        return DecodedCall([], refused)
    with memory.taking(bucket, len(call.records)):
        try:
            images, decode_s = timed(tokenizer.decode, real_values(call.tensors).float(), call.keys, sampling)
        except UnreadableImageError as error:
            return DecodedCall([], [Failure(key, str(error)) for key in call.keys])
    rows = zip(call.records, images, strict=True)
    files = [(record.key, undo_padding(image.numpy(), record.geometry)) for record, image in rows]
    return DecodedCall(files, [], len(images) * bucket[0] * bucket[1] / 1e6, decode_s)
