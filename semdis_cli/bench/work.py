"""What the stages do with one image, call or shard: the functions that the verbs call, put into tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import publish
from semdis_cli.images.geometry import undo_padding
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import EncodedCall, ImageCall, encode_call
from semdis_cli.pipeline.images_out import image_file
from semdis_cli.pipeline.shard import check_fit
from semdis_cli.pipeline.workers import Timed
from semdis_cli.records import EncodedImage, Geometry, LoadedImage
from semdis_cli.settings import ImageFormat, LatentSettings, WriteSettings
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.shard_writer import ShardWriter

FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


@dataclass(frozen=True)
class Picture:
    """A decoded image, uint8 [3,H,W] with its padding."""

    pixels: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class FullShard:
    """A shard that is ready to be written."""

    planned: PlannedShard
    images: tuple[EncodedImage, ...]


@dataclass(frozen=True)
class StoredSet:
    """A shard on disk, and the set that it is all of."""

    source: LatentSource
    shard: StoredShard


def encode(
    call: ImageCall, loaded: Mapping[str, LoadedImage | Failure], tokenizer: Tokenizer, settings: LatentSettings
) -> EncodedCall:
    """One model call. Raises `UsageError` if an image of it cannot be used."""
    images = [Timed(loaded[image.source.key], 0.0) for image in call.images]
    encoded = encode_call(call, images, tokenizer, settings)
    if encoded.failures:
        failure = encoded.failures[0]
        raise UsageError(f"{failure.key}: {failure.reason}; measure with images that can be used")
    return encoded


def full_shard(planned: PlannedShard, encoded: Sequence[EncodedCall], copies: int) -> FullShard:
    """The latents of a shard, `copies` times under keys that differ."""
    by_key = {image.record.key: image for call in encoded for image in call.images}
    rows = [by_key[image.source.key] for image in planned.images]
    keys = [f"{number:04d}/" for number in range(copies)]
    images = [
        replace(one, source=replace(one.source, key=key + one.source.key)) for key in keys for one in planned.images
    ]
    copied = [replace(row, record=replace(row.record, key=key + row.record.key)) for key in keys for row in rows]
    return FullShard(PlannedShard(planned.name, tuple(images)), tuple(copied))


def some_copies(shard: Shard, wanted: int, copies: int) -> Shard:
    """`wanted` of the `copies` that `shard` has of its images."""
    return shard.select(range(len(shard.records) // copies * wanted))


def write_shard(folder: Path, full: FullShard, provenance: dict[str, Any]) -> StoredSet:
    """Collect the latents of one shard, hash them, and publish the file."""
    planned, images = full.planned, full.images
    shard = ShardWriter(folder, planned, provenance, images[0].latents.shape[0], lambda: None, lambda _: None)
    for image in images:
        shard.add(image)
    shard.publish()
    assert shard.published is not None, "a shard with latents is published"
    keys = tuple(image.record.key for image in images)
    places = {key: row for row, key in enumerate(keys)}
    stored = StoredShard(folder / planned.name, len(keys), shard.published, places)
    return StoredSet(LatentSource(folder, provenance, "", (stored,), keys), stored)


def read_shard(stored: StoredSet, tokenizer: Tokenizer) -> Shard:
    """Read and check one shard."""
    shard = stored.source.read(stored.shard)
    check_fit(shard, tokenizer, frozenset(stored.source.keys), str(stored.shard.path))
    return shard


def decode(call: Shard, tokenizer: Tokenizer, sampling: FCDMDiffAEInferenceConfig) -> list[Picture]:
    """One model call."""
    images = tokenizer.decode(call.latents.float(), call.keys, sampling)
    return [Picture(image, record.geometry) for image, record in zip(images, call.records, strict=True)]


def file_of(picture: Picture, settings: WriteSettings) -> bytes:
    """The bytes of an image file."""
    return image_file(undo_padding(picture.pixels.numpy(), picture.geometry), settings)


def publish_file(folder: Path, number: int, data: bytes) -> None:
    """Put the bytes of an image on disk."""
    publish(folder / f"{number}", [data])
