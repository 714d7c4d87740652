"""Planned shards -> latents -> image files and their PSNR, in whichever process has what it takes."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import BatchDone, Event, Failure, ImageMeasured, ShardDecoded, StageTimes
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.loader import Loader
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.parts import LATENTS
from semdis_cli.pipeline.calls import (
    ImageCall,
    as_stored,
    busy_threads,
    encode_images,
    fitting,
    image_calls,
    share_of_call,
    start_workers,
)
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import NOTHING_WRITTEN, ImageWriter, Writing, parts
from semdis_cli.pipeline.reading import LoadedCall
from semdis_cli.pipeline.shard_decoder import SHARE_OF_EVENT
from semdis_cli.pipeline.workers import Timed, Workers, done_already, in_order, timed
from semdis_cli.records import LoadedImage
from semdis_cli.settings import LatentSettings
from semdis_cli.store.quantised import real_values
from semdis_cli.store.writing.plan import PlannedShard

_MAX_PSNR_DB = 100.0


@dataclass(frozen=True)
class RoundtripWork:
    """Everything that an image goes through: reading, the two halves of the model, measuring and writing."""

    loader: Loader
    tokenizer: Tokenizer
    latents: LatentSettings
    sampling: FCDMDiffAEInferenceConfig
    writer: ImageWriter


@dataclass(frozen=True)
class _RoundtripCall:
    """Outcome of a model call; its images are being measured and written."""

    failures: list[Failure]
    times: StageTimes
    megapixels: float = 0.0
    measuring: "Sequence[Future[list[ImageMeasured]]]" = ()
    writing: Writing = NOTHING_WRITTEN

    def events(self, workers: Workers) -> Iterator[Event]:
        """Wait until all images are on disk, and return the events that tell of them."""
        measured = [score for scores in self.measuring for score in workers.result(scores)]
        written = workers.result(self.writing)
        refused = {failure.key for failure in written.failures}
        scores = [score for score in measured if score.key not in refused]
        yield BatchDone(len(scores), self.megapixels, self.times + StageTimes(write_s=written.seconds))
        yield from scores
        yield from (*self.failures, *written.failures)


@dataclass(frozen=True)
class ShardRoundtrip:
    """Encodes and decodes planned shards in threads. `note`: what a person should know, a line."""

    work: RoundtripWork
    workers: Workers
    note: str = ""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once."""
        return busy_threads(self.work.tokenizer, self.workers.num_threads)

    def report(self) -> dict[str, Any]:
        """Return nothing that the closing report would not say of a run anyway."""
        return {}

    def run(
        self, shards: Iterable[PlannedShard], record: Callable[[ShardDecoded], object]
    ) -> Generator[Event, None, None]:
        """Several calls at once; events come in their order. `record` is called with each shard that is done."""
        for result in in_order(self._calls(shards), self._start, self._share, self.workers.result):
            if isinstance(result, ShardDecoded):
                record(result)
            else:
                yield from result.events(self.workers)

    def _calls(self, shards: Iterable[PlannedShard]) -> Iterator[ImageCall | ShardDecoded]:
        for shard in shards:
            yield from fitting(image_calls([shard], self.work.tokenizer), self._memory)
            yield ShardDecoded(shard.name)

    @property
    def _memory(self) -> CallMemory:
        return CallMemory(self.work.tokenizer, self.work.loader.room, "decode", self.work.sampling.pdg)

    def _start(self, call: ImageCall | ShardDecoded) -> "Future[_RoundtripCall | ShardDecoded]":
        if isinstance(call, ShardDecoded):
            return done_already(call)
        if failures := self._memory.refused(call.bucket, call.keys):
            return done_already(_RoundtripCall(failures, StageTimes()))
        self.work.loader.expect(call.images)
        return self.workers.submit_call(partial(timed, self.work.loader.load), call.images, self._finish)

    def _share(self, call: ImageCall | ShardDecoded) -> float:
        if isinstance(call, ShardDecoded):
            return SHARE_OF_EVENT
        return share_of_call(call.bucket, len(call.images), "decode", self.work.tokenizer, self.workers)

    def _finish(self, loaded: Sequence[Timed[LoadedImage | Failure]]) -> _RoundtripCall:
        """Encode and decode what could be read, measure it, and hand it to the threads that write."""
        call = LoadedCall.of(loaded)
        images, failures, times = call.images, list(call.failures), StageTimes(read_s=call.read_s)
        if not images:
            return _RoundtripCall(failures, times)
        try:
            with self._memory.taking(images[0].record.geometry.bucket, len(images)):
                encoded = timed(encode_images, call, self.work.tokenizer, self.work.latents)
                times += StageTimes(encode_s=encoded.seconds)
                images, stored, unusable = self._stored(images, encoded.value)
                failures += unusable
                if not images:
                    return _RoundtripCall(failures, times)
                decoded = timed(
                    self.work.tokenizer.decode, stored, [image.record.key for image in images], self.work.sampling
                )
        except UnreadableImageError as error:
            failures += [Failure(image.record.key, str(error)) for image in images]
            return _RoundtripCall(failures, times)
        times += StageTimes(decode_s=decoded.seconds)
        megapixels = decoded.value[:, 0].numel() / 1e6
        return _RoundtripCall(failures, times, megapixels, *self._hand_on(images, decoded.value))

    def _stored(
        self, images: Sequence[LoadedImage], latents: Tensor
    ) -> tuple[list[LoadedImage], Tensor, list[Failure]]:
        """Pass `latents` [B,Z,h,w] through the stored dtype, to float32; what `encode` would refuse is a failure."""
        dtype = self.work.latents.store_dtype
        tried = [as_stored(image, {LATENTS: one}, dtype) for image, one in zip(images, latents, strict=True)]
        stored = [real_values(one).float() for one in tried if not isinstance(one, Failure)]
        kept = [image for image, one in zip(images, tried, strict=True) if not isinstance(one, Failure)]
        failures = [one for one in tried if isinstance(one, Failure)]
        return kept, torch.stack(stored) if stored else latents[:0], failures

    def _hand_on(
        self, images: Sequence[LoadedImage], reconstructions: Tensor
    ) -> "tuple[Sequence[Future[list[ImageMeasured]]], Writing]":
        """Have `reconstructions`, uint8 [B,3,H,W], measured and their files written."""
        pairs = [_Pair.of(image, one) for image, one in zip(images, reconstructions, strict=True)]
        num_pixels = reconstructions[0, 0].numel()
        measuring = self.workers.after_call(_measured, parts(pairs, num_pixels, self.workers.num_threads))
        return measuring, self.work.writer.submit([(pair.key, pair.kept) for pair in pairs], self.workers)


class _Pair(NamedTuple):
    """An image that came back, `kept`, and what was `given` to the model, both uint8 [3,H,W] without padding."""

    key: str
    kept: np.ndarray
    given: np.ndarray

    @classmethod
    def of(cls, image: LoadedImage, reconstruction: Tensor) -> Self:
        """Leave the padding of both out."""
        geometry = image.record.geometry
        kept, given = (undo_padding(pixels.numpy(), geometry) for pixels in (reconstruction, image.pixels))
        return cls(image.record.key, kept, given)


def _measured(pairs: Sequence[_Pair]) -> list[ImageMeasured]:
    return [ImageMeasured(pair.key, _psnr_db(pair.kept, pair.given)) for pair in pairs]


def _psnr_db(kept: np.ndarray, given: np.ndarray) -> float:
    return min(psnr_db(torch.from_numpy(kept), torch.from_numpy(given)), _MAX_PSNR_DB)


@contextmanager
def shard_roundtrip(work: RoundtripWork, num_workers: int, num_processes: int = 1) -> Iterator[ShardRoundtrip]:
    """Begin the threads that encode and decode shards; `num_processes` share the memory of the machine."""
    with start_workers(work.tokenizer, num_workers, num_processes) as workers:
        yield ShardRoundtrip(work, workers)
