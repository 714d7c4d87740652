"""Each stage of `encode` and `decode` by itself, over real files: the same functions that the verbs call."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from semdis_cli.bench import work
from semdis_cli.bench.limit import Resource, StageCost
from semdis_cli.bench.rounds import Effort
from semdis_cli.errors import UsageError
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import image_calls
from semdis_cli.pipeline.decode import sampling_of
from semdis_cli.pipeline.encode_plan import EncodePlan, encode_provenance, plan_encode
from semdis_cli.pipeline.shard import shard_calls
from semdis_cli.pipeline.workers import Workers
from semdis_cli.records import PlannedImage
from semdis_cli.settings import DecodeSettings, EncodeSettings, WriteSettings
from semdis_cli.sources.sources import FoundImages
from semdis_cli.store.writing.plan import PlannedShard

READ_IMAGES, MODEL_ENCODE, WRITE_LATENTS = "reading images", "model encode", "writing latents"
READ_LATENTS, MODEL_DECODE = "reading latents", "model decode"
WRITE_IMAGES, PUBLISH_IMAGES = "writing images", "publishing files"

_TASKS_A_THREAD = 2  # at least
_LEAST_STORED = 64  # latents in shards: of a few, all time would go into waiting for the disk, which a run does once

T = TypeVar("T")
Task = Callable[[], T]


@dataclass(frozen=True)
class Stages:
    """What the stages of the two verbs cost, and what writing images would cost in other formats.

    `scaled_reading`: what reading would cost with `jpeg_scaling`; None if that is what was measured.
    `megapixels_per_image`: model input pixels (10^6) of the images that it was measured with, on average.
    """

    encode: tuple[StageCost, ...]
    decode: tuple[StageCost, ...]
    other_formats: dict[str, StageCost]
    scaled_reading: StageCost | None
    megapixels_per_image: float

    @classmethod
    def over(cls, passes: Sequence["Stages"]) -> "Stages":
        """The same stages, measured at several times: a machine that is not ours alone is not always as fast."""
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


def measure_stages(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: tuple[EncodeSettings, DecodeSettings],
    bench: "StageBench",
    folder: Path,
) -> Stages:
    """What each stage costs over the images of `found`; files go into `folder`, which exists.

    Raises `UsageError` if an image cannot be used.
    """
    encode_settings, decode_settings = settings
    plan = plan_encode(found, loader, tokenizer, encode_settings)
    if plan.failures:
        raise UsageError(f"{plan.failures[0].key}: {plan.failures[0].reason}; measure with images that can be read")
    stored, encode = _measure_encode(plan, loader, tokenizer, encode_settings, bench, folder)
    decoded, decode = _measure_decode(stored, tokenizer, decode_settings, bench, folder)
    others = [one for one in work.FORMATS if one != decode_settings.write.format]
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
    """How many times its images are taken so that no model call is partly empty: in long runs hardly any is."""
    size = tokenizer.images_per_call(*shard.bucket)
    return size // math.gcd(size, len(shard.images))


@dataclass(frozen=True)
class _Stored:
    """A shard on disk with every image `copies` times, of which `filling` fill model calls."""

    on_disk: work.StoredSet
    copies: int
    filling: int


def _measure_encode(
    plan: EncodePlan,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    bench: "StageBench",
    folder: Path,
) -> tuple[list[_Stored], tuple[StageCost, ...]]:
    """Files -> pixels -> latents -> shards."""
    images = _images(plan)
    loaded, read_images = bench.run(READ_IMAGES, [partial(loader.load, image) for image in images])
    ready = dict(zip((image.source.key for image in images), loaded, strict=True))
    filling = {shard.name: _copies_that_fill_calls(shard, tokenizer) for shard in plan.shards}
    full = [replace(shard, images=filling[shard.name] * shard.images) for shard in plan.shards]
    calls = list(image_calls(full, tokenizer))
    encoding = [partial(work.encode, call, ready, tokenizer, settings.latents) for call in calls]
    bench.warm_up(MODEL_ENCODE, {call.bucket: task for call, task in zip(calls, encoding, strict=True)}.values())
    encoded, model_encode = bench.run(MODEL_ENCODE, encoding, [filling[call.shard.name] for call in calls])
    loaded, ready, encoding = [], {}, []

    copies = [max(filling[shard.name], _LEAST_STORED // len(images)) for shard in plan.shards]
    shards = [work.full_shard(shard, encoded, count) for shard, count in zip(plan.shards, copies, strict=True)]
    provenance = encode_provenance(tokenizer, loader.settings, settings.latents)
    writing = [partial(work.write_shard, folder, shard, provenance) for shard in shards]
    on_disk, write_latents = bench.run(WRITE_LATENTS, writing, copies)
    stored = [_Stored(*one) for one in zip(on_disk, copies, filling.values(), strict=True)]
    return stored, (read_images, model_encode, write_latents)


@dataclass(frozen=True)
class _Decoded:
    """Pictures, and how many copies there are of each."""

    pictures: list[work.Picture]
    copies: list[int]

    def write(self, bench: "StageBench", settings: WriteSettings) -> tuple[list[bytes], StageCost]:
        """The files of all of them, and what making these costs."""
        making = [partial(work.file_of, picture, settings) for picture in self.pictures]
        return bench.run(WRITE_IMAGES, making, self.copies)


def _measure_decode(
    stored: Sequence[_Stored], tokenizer: Tokenizer, settings: DecodeSettings, bench: "StageBench", folder: Path
) -> tuple[_Decoded, tuple[StageCost, ...]]:
    """Shards -> latents -> pixels -> files."""
    reading = [partial(work.read_shard, one.on_disk, tokenizer) for one in stored]
    shards, read_latents = bench.run(READ_LATENTS, reading, [one.copies for one in stored])
    calls = [
        (call, one.filling)
        for one, shard in zip(stored, shards, strict=True)
        for call in shard_calls(work.some_copies(shard, one.filling, one.copies), tokenizer)
    ]
    sampling = sampling_of(settings)
    decoding = [partial(work.decode, call, tokenizer, sampling) for call, _ in calls]
    sizes = [call.latents.shape for call, _ in calls]
    bench.warm_up(MODEL_DECODE, dict(zip(sizes, decoding, strict=True)).values())
    results, model_decode = bench.run(MODEL_DECODE, decoding, [copies for _, copies in calls])
    of_pictures = [(picture, call[1]) for call, result in zip(calls, results, strict=True) for picture in result]
    decoded = _Decoded([picture for picture, _ in of_pictures], [copies for _, copies in of_pictures])
    files, write_images = decoded.write(bench, settings.write)
    publishing = [partial(work.publish_file, folder, number, data) for number, data in enumerate(files)]
    _, publish_files = bench.run(PUBLISH_IMAGES, publishing, decoded.copies)
    return decoded, (read_latents, model_decode, write_images, publish_files)


def _scaled_reading(
    images: Sequence[PlannedImage], loader: Loader, num_workers: int, bench: "StageBench"
) -> StageCost | None:
    """What reading costs where JPEGs may be decoded at a fraction of their size; None if they were already."""
    load = loader.settings
    if load.read.jpeg_scaling:
        return None
    scaled = replace(load, read=replace(load.read, jpeg_scaling=True))
    with Loader(scaled, loader.multiple_px, num_workers) as scaling:
        return bench.run(READ_IMAGES, [partial(scaling.load, image) for image in images])[1]


@dataclass(frozen=True)
class StageBench:
    """Runs a stage by itself, with the threads that it has in a run."""

    num_images: int
    workers: Workers
    is_on_cpu: bool
    effort: Effort

    def run(
        self, name: str, tasks: Sequence[Task[T]], copies: Sequence[int] | None = None
    ) -> tuple[list[T], StageCost]:
        """Time `tasks`, all that a stage has to do; also returns what they gave.

        `copies`: how many times each task's images are there, default once. Few tasks are run several times in a round,
        so that every thread is at work.
        """
        place: tuple[_Submit[T], Resource, int] = self._place(name)
        submit, resource, num_threads = place
        again = -(-_TASKS_A_THREAD * num_threads // len(tasks))
        times = [again * count for count in copies or [1] * len(tasks)] * again
        _run_all(tasks[:: max(1, len(tasks) // num_threads)], submit)
        rounds: list[tuple[float, float]] = []
        results: list[_Done[T]] = []
        started = time.perf_counter()
        while not rounds or (len(rounds) < self.effort.num_rounds and not self._is_over(started)):
            results = []  # or those of two rounds would be held
            results = _run_all([*tasks] * again, submit)
            done = list(zip(results, times, strict=True))
            rounds.append((sum(one.thread_s / n for one, n in done), sum(one.cpu_s / n for one, n in done)))
            del done
        cost = StageCost.of(name, resource, num_threads, self.num_images, rounds)
        return [one.value for one in results[: len(tasks)]], cost

    def warm_up(self, name: str, tasks: Iterable[Task[T]]) -> None:
        """Run `tasks` of a stage untimed: the first of their kind, which take longer."""
        place: tuple[_Submit[T], Resource, int] = self._place(name)
        _run_all(list(tasks), place[0])

    def _is_over(self, started: float) -> bool:
        """Whether the time for a stage is over: large images would take minutes a round."""
        return time.perf_counter() - started > self.effort.num_rounds * self.effort.round_s

    def _place(self, name: str) -> "tuple[_Submit[T], Resource, int]":
        """Where the tasks of a stage run, what they share with other stages, and how many run at once."""
        if name == PUBLISH_IMAGES:
            return self.workers.submit_disk, "disk", self.workers.num_disk_threads
        if name == WRITE_LATENTS:
            return self.workers.submit_disk, "disk", 1  # one shard at a time
        if name not in {MODEL_ENCODE, MODEL_DECODE}:
            return self.workers.submit, "cores", self.workers.num_threads
        resource: Resource = "cores" if self.is_on_cpu else "accelerator"
        return self.workers.submit_model, resource, self.workers.num_model_threads


_Submit = Callable[..., "Future[_Done[T]]"]


@dataclass(frozen=True)
class _Done(Generic[T]):
    """What a task gave, and the seconds that it took of its thread, and of a core."""

    value: T
    thread_s: float
    cpu_s: float


def _run_all(tasks: Sequence[Task[T]], submit: "_Submit[T]") -> "list[_Done[T]]":
    return [future.result() for future in [submit(_timed, task) for task in tasks]]


def _timed(task: Task[T]) -> "_Done[T]":
    started, cpu_started = time.perf_counter(), time.thread_time()
    value = task()
    return _Done(value, time.perf_counter() - started, time.thread_time() - cpu_started)
