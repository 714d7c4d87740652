"""Planned shards -> latents -> image files and their figures, in whichever process has what it takes."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from semdis_cli.errors import UnreadableImageError
from semdis_cli.events import BatchDone, Event, Failure, ImageMeasured, ShardDecoded, StageTimes
from semdis_cli.images.geometry import undo_padding
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import (
    ImageCall,
    Volume,
    busy_threads,
    fitting,
    image_calls,
    reading_of,
    share_of_call,
    start_workers,
)
from semdis_cli.pipeline.contenders.contender import Contender, Version
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.contenders.tokenized import Kept, TokenizedContender
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import NOTHING_WRITTEN, ImageWriter, Writing, parts
from semdis_cli.pipeline.measuring.comparing import Measuring
from semdis_cli.pipeline.measuring.kept_pictures import Trial
from semdis_cli.pipeline.processes.writing import PictureSink, writing_ahead
from semdis_cli.pipeline.reading import LoadedCall, Reading, decoding_report
from semdis_cli.pipeline.shard_decoder import SHARE_OF_EVENT
from semdis_cli.pipeline.workers import Timed, Workers, done_already, in_order, timed
from semdis_cli.store.writing.plan import PlannedShard


@dataclass(frozen=True)
class RoundtripWork:
    """Everything that an image goes through: reading, the contenders, measuring and writing.

    `first`: the contender whose images are written, by `writer` (None: they are not), and whose bytes `others` are
    given.
    """

    loader: Loader
    first: TokenizedContender
    measuring: Measuring
    writer: ImageWriter | None
    others: tuple[Contender, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the first contender."""
        return self.first.tokenizer


@dataclass(frozen=True)
class _RoundtripCall:
    """Outcome of a model call; its images are being measured and written."""

    failures: list[Failure]
    times: StageTimes
    megapixels: float = 0.0
    measuring: "Sequence[Future[Timed[list[ImageMeasured]]]]" = ()
    writing: Writing = NOTHING_WRITTEN

    def events(self, workers: Workers) -> Iterator[Event]:
        """Wait until all images are on disk, and return the events that tell of them."""
        measured = [workers.result(part) for part in self.measuring]
        written = workers.result(self.writing)
        refused = {failure.key for failure in written.failures}
        scores = [score for part in measured for score in part.value if score.key not in refused]
        later = StageTimes(write_s=written.seconds, measure_s=sum(part.seconds for part in measured))
        yield BatchDone(len(scores), self.megapixels, self.times + later)
        yield from scores
        yield from (*self.failures, *written.failures)


@dataclass(frozen=True)
class ShardRoundtrip:
    """Encodes and decodes planned shards; `sink` takes what is to be written. `note`: what a person should know."""

    work: RoundtripWork
    reading: Reading
    sink: PictureSink | None
    workers: Workers
    note: str = ""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once."""
        return busy_threads(self.work.tokenizer, self.workers.num_threads)

    def report(self) -> dict[str, Any]:
        """Return what the closing report says of it."""
        return decoding_report(self.reading.decoded_on)

    def run(
        self, shards: Iterable[PlannedShard], record: Callable[[ShardDecoded], object]
    ) -> Generator[Event, None, None]:
        """Several calls at once; events come in their order. `record` is called with each shard that is done."""
        for result in in_order(self._calls(shards), self._start, self._share, self.workers.result):
            if isinstance(result, ShardDecoded):
                self.work.measuring.settle()
                record(result)
            else:
                yield from result.events(self.workers)

    def _calls(self, shards: Iterable[PlannedShard]) -> Iterator[ImageCall | ShardDecoded]:
        for shard in shards:
            yield from fitting(image_calls([shard], self.work.tokenizer), self._memory)
            yield ShardDecoded(shard.name)

    @property
    def _memory(self) -> CallMemory:
        work = self.work
        return CallMemory(work.tokenizer, self.reading.room, "decode", work.first.sampling.pdg, work.others)

    def _start(self, call: ImageCall | ShardDecoded) -> "Future[_RoundtripCall | ShardDecoded]":
        if isinstance(call, ShardDecoded):
            return done_already(call)
        if failures := self._memory.refused(call.bucket, call.keys):
            return done_already(_RoundtripCall(failures, StageTimes()))
        return self.reading.submit(call.images, self._finish)

    def _share(self, call: ImageCall | ShardDecoded) -> float:
        if isinstance(call, ShardDecoded):
            return SHARE_OF_EVENT
        share = share_of_call(call.bucket, len(call.images), "decode", self.work.tokenizer, self.workers)
        return self.reading.share(call.images, share)

    def _finish(self, loaded: LoadedCall) -> _RoundtripCall:
        """Encode and decode what could be read, and hand it to what measures and writes."""
        call = loaded.lasting()
        failures, times = list(call.failures), StageTimes(read_s=call.read_s)
        if not call.images:
            return _RoundtripCall(failures, times)
        bucket = call.images[0].record.geometry.bucket
        try:
            with self._memory.taking(bucket, len(call.images)):
                kept, encode_s = timed(self.work.first.keep, call)
                failures, times = failures + list(kept.failures), times + StageTimes(encode_s=encode_s)
                if not kept.images:
                    return _RoundtripCall(failures, times)
                (trials, failed), decode_s = timed(self._reconstruct, kept)
        except UnreadableImageError as error:
            failures = [*call.failures, *(Failure(image.record.key, str(error)) for image in call.images)]
            return _RoundtripCall(failures, times)
        failures, times = failures + failed, times + StageTimes(decode_s=decode_s)
        if not trials:
            return _RoundtripCall(failures, times)
        megapixels = len(trials) * bucket[0] * bucket[1] / 1e6
        return _RoundtripCall(failures, times, megapixels, *self._hand_on(trials))

    def _reconstruct(self, kept: Kept) -> tuple[list[Trial], list[Failure]]:
        """Return what comes back of each image from every contender; why not, where one of them cannot keep it."""
        given = self.work.first.hand_on(kept)
        columns = [self.work.first.give_back(kept), *(_versions(one, given) for one in self.work.others)]
        trials: list[Trial] = []
        failures: list[Failure] = []
        versions: list[Version | Failure]
        for image, latents, *versions in zip(kept.images, kept.latents.numpy(), *columns, strict=True):
            failed = [one for one in versions if isinstance(one, Failure)]
            pixels = undo_padding(image.pixels.numpy(), image.record.geometry)
            back = tuple(one for one in versions if not isinstance(one, Failure))
            trials += [] if failed else [Trial(image.record.key, pixels, back, latents)]
            failures += failed[:1]
        return trials, failures

    def _hand_on(self, trials: Sequence[Trial]) -> "tuple[Sequence[Future[Timed[list[ImageMeasured]]]], Writing]":
        """Have what came back measured, and that of the first contender written."""
        portions = parts(trials, trials[0].given[0].size, self.workers.num_threads)
        measuring = self.workers.after_call(partial(timed, self.work.measuring.measure), portions)
        if self.sink is None:
            return measuring, NOTHING_WRITTEN
        pictures = [(trial.key, trial.versions[0].pixels) for trial in trials]
        return measuring, self.sink.submit(pictures, self.workers)


def _versions(contender: Contender, given: Given) -> list[Version | Failure]:
    """Return what comes back of images from one that is compared; failures say from which."""
    try:
        versions = contender.reconstruct(given)
    except UnreadableImageError as error:
        versions = [Failure(image.record.key, str(error)) for image in given.images]
    return [
        replace(one, reason=f"{contender.title}: {one.reason}") if isinstance(one, Failure) else one for one in versions
    ]


@contextmanager
def shard_roundtrip(
    work: RoundtripWork, volume: Volume, num_workers: int, num_processes: int = 1
) -> Iterator[ShardRoundtrip]:
    """Begin the threads, and beside an accelerator processes, that encode and decode shards.

    `volume`: of all images that there are going to be; `num_processes`: that share the memory of the machine.
    """
    with (
        start_workers(work.tokenizer, num_workers, num_processes) as workers,
        reading_of(volume, work.loader, work.tokenizer, workers) as (reading, of_reading),
        _writing(work, volume, workers) as (sink, of_writing),
    ):
        yield ShardRoundtrip(work, reading, sink, workers, "; ".join(filter(None, (of_reading, of_writing))))


def _writing(
    work: RoundtripWork, volume: Volume, workers: Workers
) -> AbstractContextManager[tuple[PictureSink | None, str]]:
    """Return what writes so many images, None if they are not written, and what is to be said of it."""
    if work.writer is None:
        return nullcontext((None, ""))
    return writing_ahead(work.writer, workers, *volume, is_on_cpu=work.tokenizer.is_on_cpu)
