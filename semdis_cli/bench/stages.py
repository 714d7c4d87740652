"""Each stage of `encode` and `decode` by itself, over real files: the same functions that the verbs call."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

from torch import Tensor

from semdis_cli.bench.limit import StageCost
from semdis_cli.bench.timing import (
    MODEL_DECODE,
    MODEL_ENCODE,
    PUBLISH_IMAGES,
    READ_IMAGES,
    READ_LATENTS,
    WRITE_IMAGES,
    WRITE_LATENTS,
    StageBench,
)
from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.files.together import Publisher
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.loader import Loader
from semdis_cli.memory import Room
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import EncodedCall, ImageCall, encode_call, image_calls
from semdis_cli.pipeline.decode import sampling_of
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, plan_encode
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import image_file
from semdis_cli.pipeline.reading import LoadedCall
from semdis_cli.pipeline.shard import check_fit, shard_calls
from semdis_cli.pipeline.workers import Timed
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import EncodedImage, Geometry, LoadedImage, PlannedImage
from semdis_cli.settings import DecodeSettings, EncodeSettings, ImageFormat, PartSettings, WriteSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.store.quantised import join_rows, real_values
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.shard_writer import ShardRows, publish_shard

_ALL_ROOM = Room(sys.maxsize)
_LEAST_STORED = 64  # latents in shards: of a few, all time would go into waiting for the disk, which a run does once


@dataclass(frozen=True)
class Stages:
    """Costs of the stages of both verbs, and of writing images in other formats.

    `scaled_reading`: cost of reading with `jpeg_scaling`; None if that is what was measured.
    `megapixels_per_image`: model input pixels (10^6) of the images that it was measured with, on average.
    """

    encode: tuple[StageCost, ...]
    decode: tuple[StageCost, ...]
    other_formats: dict[str, StageCost]
    scaled_reading: StageCost | None
    megapixels_per_image: float

    @classmethod
    def over(cls, passes: Sequence["Stages"]) -> "Stages":
        """Join measurements of the same stages at several times: a shared machine is not always as fast."""
        scaled = [one.scaled_reading for one in passes if one.scaled_reading is not None]
        return cls(
            _over([one.encode for one in passes]),
            _over([one.decode for one in passes]),
            {name: StageCost.over([one.other_formats[name] for one in passes]) for name in passes[0].other_formats},
            StageCost.over(scaled) if scaled else None,
            passes[0].megapixels_per_image,
        )


def _over(passes: Sequence[tuple[StageCost, ...]]) -> tuple[StageCost, ...]:
    return tuple(StageCost.over(same) for same in zip(*passes, strict=True))


@dataclass(frozen=True)
class Picture:
    """A decoded image, uint8 [3,H,W] with its padding."""

    pixels: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class FullShard:
    """A shard that is ready to be written; `rows`: the tensors of its images by name."""

    planned: PlannedShard
    images: tuple[EncodedImage, ...]
    rows: dict[str, Tensor]


def measure_stages(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: tuple[EncodeSettings, DecodeSettings],
    bench: StageBench,
    folder: Path,
) -> Stages:
    """Measure each stage over the images of `found`; files go into `folder`, which exists.

    Raises `UsageError` if an image cannot be used.
    """
    encode_settings, decode_settings = settings
    plan = plan_encode(found, loader, tokenizer, encode_settings)
    if plan.failures:
        raise UsageError(f"{plan.failures[0].reason}; measure with images that can be read", place=plan.failures[0].key)
    stored, encode = _measure_encode(plan, loader, tokenizer, encode_settings, bench, folder)
    decoded, decode = _measure_decode(stored, tokenizer, decode_settings, bench, folder)
    others = [one for one in get_args(ImageFormat) if one != decode_settings.write.format]
    quality = decode_settings.write.quality
    return Stages(
        encode,
        decode,
        {other: decoded.write(bench, WriteSettings(other, quality))[1] for other in others},
        _scaled_reading(_images(plan), loader, encode_settings.num_workers, bench),
        plan.megapixels() / len(_images(plan)),
    )


def _images(plan: EncodePlan) -> list[PlannedImage]:
    return [image for shard in plan.shards for image in shard.images]


def _copies_that_fill_calls(shard: PlannedShard, tokenizer: Tokenizer) -> int:
    """Return how often to take its images so that no model call is partly empty: in long runs hardly any is."""
    size = tokenizer.images_per_call(*shard.bucket)
    return size // math.gcd(size, len(shard.images))


@dataclass(frozen=True)
class _Stored:
    """A set of one shard on disk with every image `copies` times, of which `filling` fill model calls."""

    on_disk: LatentSource
    copies: int
    filling: int


def _measure_encode(
    plan: EncodePlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    bench: StageBench,
    folder: Path,
) -> tuple[list[_Stored], tuple[StageCost, ...]]:
    """Measure files -> pixels -> latents -> shards."""
    images = _images(plan)
    loaded, read_images = bench.run(READ_IMAGES, [partial(loader.load, image) for image in images])
    ready = dict(zip((image.source.key for image in images), loaded, strict=True))
    filling = {shard.name: _copies_that_fill_calls(shard, tokenizer) for shard in plan.shards}
    full = [replace(shard, images=filling[shard.name] * tuple(shard.images)) for shard in plan.shards]
    calls = list(image_calls(full, tokenizer))
    encoding = [partial(encode_images, call, ready, tokenizer, settings.latents) for call in calls]
    bench.warm_up(MODEL_ENCODE, {call.bucket: task for call, task in zip(calls, encoding, strict=True)}.values())
    encoded, model_encode = bench.run(MODEL_ENCODE, encoding, [filling[call.shard.name] for call in calls])
    loaded, ready, encoding = [], {}, []

    copies = [max(filling[shard.name], _LEAST_STORED // len(images)) for shard in plan.shards]
    shards = [full_shard(shard, encoded, count) for shard, count in zip(plan.shards, copies, strict=True)]
    provenance = encode_provenance(tokenizer, loader.settings, settings.latents)
    writing = [partial(write_shard, folder, shard, provenance, provenance.layout) for shard in shards]
    on_disk, write_latents = bench.run(WRITE_LATENTS, writing, copies)
    stored = [_Stored(*one) for one in zip(on_disk, copies, filling.values(), strict=True)]
    return stored, (read_images, model_encode, write_latents)


@dataclass(frozen=True)
class _Decoded:
    """Pictures, and how many copies there are of each."""

    pictures: list[Picture]
    copies: list[int]

    def write(self, bench: StageBench, settings: WriteSettings) -> tuple[list[bytes], StageCost]:
        """Make the files of all pictures, and measure it."""
        making = [partial(file_of, picture, settings) for picture in self.pictures]
        return bench.run(WRITE_IMAGES, making, self.copies)


def _measure_decode(
    stored: Sequence[_Stored], tokenizer: Tokenizer, settings: DecodeSettings, bench: StageBench, folder: Path
) -> tuple[_Decoded, tuple[StageCost, ...]]:
    """Measure shards -> latents -> pixels -> files."""
    reading = [partial(read_shard, one.on_disk, tokenizer) for one in stored]
    shards, read_latents = bench.run(READ_LATENTS, reading, [one.copies for one in stored])
    calls = [
        (call, one.filling)
        for one, shard in zip(stored, shards, strict=True)
        for call in shard_calls(some_copies(shard, one.filling, one.copies), tokenizer)
    ]
    decoding = [partial(decode_latents, call, tokenizer, sampling_of(settings)) for call, _ in calls]
    sizes = [call.latents.shape for call, _ in calls]
    bench.warm_up(MODEL_DECODE, dict(zip(sizes, decoding, strict=True)).values())
    results, model_decode = bench.run(MODEL_DECODE, decoding, [copies for _, copies in calls])
    of_pictures = [(picture, call[1]) for call, result in zip(calls, results, strict=True) for picture in result]
    decoded = _Decoded([picture for picture, _ in of_pictures], [copies for _, copies in of_pictures])
    files, write_images = decoded.write(bench, settings.write)
    publisher, made = Publisher(folder), iter(enumerate(files))
    together = [[(folder / str(number), data) for number, data in islice(made, len(result))] for result in results]
    publishing = [partial(publisher.publish, some) for some in together]
    _, publish_files = bench.run(PUBLISH_IMAGES, publishing, [copies for _, copies in calls])
    return decoded, (read_latents, model_decode, write_images, publish_files)


def _scaled_reading(
    images: Sequence[PlannedImage], loader: Loader, num_workers: int, bench: StageBench
) -> StageCost | None:
    """Measure reading with JPEGs decoded at a fraction of their size; None if they were already, or may not be."""
    load = loader.settings
    if load.read.jpeg_scaling or load.geometry.resize == "adm":  # which are exact pixels or none
        return None
    scaled = replace(load, read=replace(load.read, jpeg_scaling=True))
    with Loader(scaled, loader.multiple_px, num_workers) as scaling:
        return bench.run(READ_IMAGES, [partial(scaling.load, image) for image in images])[1]


# --- What a stage does with one call, shard or image: the functions that the verbs call ---


def encode_images(
    call: ImageCall, loaded: Mapping[str, LoadedImage | Failure], tokenizer: Tokenizer, settings: PartSettings
) -> EncodedCall:
    """Encode one model call. Raises `UsageError` if an image of it cannot be used."""
    images = LoadedCall.of(Timed(loaded[image.source.key], 0.0) for image in call.images)
    encoded = encode_call(call, images, tokenizer, settings, CallMemory(tokenizer, _ALL_ROOM, "encode"))
    if encoded.failures:
        failure = encoded.failures[0]
        raise UsageError(f"{failure.reason}; measure with images that can be used", place=failure.key)
    return encoded


def full_shard(planned: PlannedShard, encoded: Sequence[EncodedCall], copies: int) -> FullShard:
    """Repeat the latents of a shard under keys that differ."""
    by_key = {image.record.key: image for call in encoded for image in call.images}
    rows = [by_key[image.source.key] for image in planned.images]
    keys = [f"{number:04d}/" for number in range(copies)]
    images = [
        replace(one, source=replace(one.source, key=key + one.source.key)) for key in keys for one in planned.images
    ]
    copied = [replace(row, record=replace(row.record, key=key + row.record.key)) for key in keys for row in rows]
    tensors = {name: join_rows([row.tensors[name][None] for row in copied]) for name in copied[0].tensors}
    return FullShard(PlannedShard(planned.name, tuple(images)), tuple(copied), tensors)


def some_copies(shard: Shard, wanted: int, copies: int) -> Shard:
    """Return `wanted` of the `copies` that `shard` has of its images."""
    return shard.select(range(len(shard.records) // copies * wanted))


def write_shard(folder: Path, full: FullShard, provenance: Provenance, layout: LatentLayout) -> LatentSource:
    """Collect the latents of one shard, hash them, and publish the file."""
    rows = ShardRows(full.planned, layout)
    rows.add_call(full.images, full.rows)
    entry = publish_shard(rows.finish(), folder, provenance)
    assert entry.file is not None, "a shard with latents is published"
    keys = tuple(image.record.key for image in full.images)
    places = {key: row for row, key in enumerate(keys)}
    stored = StoredShard(folder / entry.name, len(keys), entry.file, places)
    return LatentSource(folder, provenance, "", (stored,), keys)


def read_shard(source: LatentSource, tokenizer: Tokenizer) -> Shard:
    """Read and check the shard of a set of one."""
    [stored] = source.shards
    shard = source.read(stored)
    check_fit(shard, tokenizer, frozenset(source.keys), str(stored.path))
    return shard


def decode_latents(call: Shard, tokenizer: Tokenizer, sampling: FCDMDiffAEInferenceConfig) -> list[Picture]:
    """Decode one model call."""
    images = tokenizer.decode(real_values(call.tensors).float(), call.keys, sampling)
    return [Picture(image, record.geometry) for image, record in zip(images, call.records, strict=True)]


def file_of(picture: Picture, settings: WriteSettings) -> bytes:
    """Return the bytes of an image file."""
    return image_file(undo_padding(picture.pixels.numpy(), picture.geometry), settings)
