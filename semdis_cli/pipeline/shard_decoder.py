"""Shards of latents -> image files, in whichever process has what it takes: several calls and shards at once."""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from semdis_cli.events import BatchDone, Event, Failure, ShardDecoded, ShardFailed, StageTimes, TimeSpent
from semdis_cli.memory import available_memory
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import busy_threads, share_of_call, start_workers
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.pipeline.images_out import ImageWriter, Writing
from semdis_cli.pipeline.processes.writing import PictureSink, writing_ahead
from semdis_cli.pipeline.shard import bucket_of, decode_call, fitting_parts, read_shard, shard_calls
from semdis_cli.pipeline.workers import Timed, Workers, done_already, in_order, read_ahead, timed
from semdis_cli.stops import look
from semdis_cli.store.mapped_shard import grid_of_name
from semdis_cli.store.reader import LatentSource, StoredShard
from semdis_cli.store.shards import Shard

_MOST_SHARDS_AHEAD, _PART_FOR_SHARDS = 3, 8  # in an eighth of the memory
SHARE_OF_EVENT = 1 / 1024  # of the room for calls: they are small, but there may be very many


@dataclass(frozen=True)
class DecodePortion:
    """What a process is going to decode, and the threads that it has for that.

    `num_images` in calls of at most `call_bytes` of pixels; `num_ahead`: shards that are read while one is decoded.
    `num_processes`: that share the memory of the machine.
    """

    num_images: int
    call_bytes: int
    num_ahead: int
    num_workers: int
    num_processes: int = 1


@dataclass(frozen=True)
class DecodeWork:
    """What there is to decode: shards of `source`, into files of `writer`, but for keys that are `done`."""

    source: LatentSource
    tokenizer: Tokenizer
    sampling: FCDMDiffAEInferenceConfig
    writer: ImageWriter
    done: Collection[str]

    def portion(self, num_workers: int, num_processes: int = 1) -> DecodePortion:
        """Return what one of so many processes has of it, with its part of so many threads."""
        return DecodePortion(
            -(-(len(self.source.keys) - len(self.done)) // num_processes),
            _call_bytes(self.source, self.tokenizer),
            _num_ahead(self.source, self.tokenizer, num_processes),
            max(1, num_workers // num_processes),
            num_processes,
        )


def _call_bytes(source: LatentSource, tokenizer: Tokenizer) -> int:
    """Return the bytes of the pixels of the largest call, as far as the names of the shards tell."""
    grids = {grid for stored in source.shards if (grid := grid_of_name(stored.path.name)) is not None}
    sizes = [(height * tokenizer.patch_size, width * tokenizer.patch_size) for height, width in grids]
    return max((3 * height * width * tokenizer.images_per_call(height, width) for height, width in sizes), default=1)


def _num_ahead(source: LatentSource, tokenizer: Tokenizer, num_processes: int) -> int:
    """Return how many shards are read while one is decoded: an accelerator is faster than one thread that reads."""
    largest = max((stored.expected.num_bytes for stored in source.shards), default=1)
    fitting = available_memory() // _PART_FOR_SHARDS // num_processes // largest
    return 1 if tokenizer.is_on_cpu else max(1, min(_MOST_SHARDS_AHEAD, fitting))


@dataclass(frozen=True)
class ShardDecoder:
    """Decodes shards of latents and has their images written to `sink`. `note`: what a person should know, a line."""

    work: DecodeWork
    sink: PictureSink
    workers: Workers
    num_ahead: int
    note: str = ""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once."""
        return busy_threads(self.work.tokenizer, self.workers.num_threads)

    def report(self) -> dict[str, Any]:
        """Return nothing that the closing report would not say of a run anyway."""
        return {}

    def run(
        self, shards: Iterable[StoredShard], record: Callable[[ShardDecoded], object]
    ) -> Generator[Event, None, None]:
        """Decode `shards`, which are asked for as they are needed; `record` is called with each that is done, in order.

        Raises what writing images raises.
        """
        work = self.work
        for event in decode_calls(self._read_calls(shards), work.tokenizer, work.sampling, self.sink, self.workers):
            if isinstance(event, ShardDecoded):
                record(event)
            else:
                yield event

    def _read_calls(self, shards: Iterable[StoredShard]) -> Iterator[Shard | Event]:
        """The latents of every model call, as a shard of those rows alone, and what is to be told of reading them.

        The next ones are read while a shard is decoded.
        """
        work = self.work

        def start(stored: StoredShard) -> "Future[Timed[tuple[str, Shard | ShardFailed]]]":
            return self.workers.submit_disk(timed, _read_shard, stored, work)

        for read in read_ahead(map(start, shards), self.workers.result, self.num_ahead):
            yield TimeSpent(StageTimes(read_s=read.seconds))
            name, shard = read.value
            yield from [shard] if isinstance(shard, ShardFailed) else shard_calls(shard, work.tokenizer, work.done)
            yield ShardDecoded(name)
            del read, shard  # or one more would be held while the next one is waited for


def _read_shard(stored: StoredShard, work: DecodeWork) -> tuple[str, Shard | ShardFailed]:
    return stored.name, read_shard(work.source, stored, work.tokenizer, work.done)


@contextmanager
def shard_decoder(work: DecodeWork, portion: DecodePortion) -> Iterator[ShardDecoder]:
    """Begin the threads, and beside an accelerator processes, that decode shards."""
    tokenizer, facts = work.tokenizer, (portion.num_images, portion.call_bytes)
    with (
        start_workers(tokenizer, portion.num_workers, portion.num_processes) as workers,
        writing_ahead(work.writer, workers, *facts, is_on_cpu=tokenizer.is_on_cpu) as (sink, note),
    ):
        yield ShardDecoder(work, sink, workers, portion.num_ahead, note)


def decode_calls(
    calls: Iterable[Shard | Event],
    tokenizer: Tokenizer,
    sampling: FCDMDiffAEInferenceConfig,
    writer: PictureSink,
    workers: Workers,
) -> Iterator[Event]:
    """Decode `calls`, each the rows of a model call, several at once, and write their images.

    A `BatchDone` comes once its images are on disk. Events among `calls` are handed on in their place. Raises what
    writing raises.
    """
    memory = CallMemory(tokenizer, workers.room, "decode", sampling.pdg)

    def start(call: Shard | Event) -> "Future[_WrittenCall | Event]":
        return workers.submit_model(decode_and_write, call) if isinstance(call, Shard) else done_already(call)

    def decode_and_write(call: Shard) -> _WrittenCall:
        decoded = decode_call(call, tokenizer, sampling, memory)
        look()
        writing = writer.submit(decoded.images, workers)
        return _WrittenCall(writing, len(decoded.images), decoded.failures, decoded.megapixels, decoded.decode_s)

    def portion(call: Shard | Event) -> float:
        if not isinstance(call, Shard):
            return SHARE_OF_EVENT
        return share_of_call(bucket_of(call, tokenizer), len(call.records), "decode", tokenizer, workers)

    for result in in_order(_fitting(calls, tokenizer, memory), start, portion, workers.result):
        yield from result.events(workers) if isinstance(result, _WrittenCall) else [result]


def _fitting(calls: Iterable[Shard | Event], tokenizer: Tokenizer, memory: CallMemory) -> Iterator[Shard | Event]:
    for call in calls:
        yield from fitting_parts(call, tokenizer, memory) if isinstance(call, Shard) else [call]


@dataclass(frozen=True)
class _WrittenCall:
    """A model call whose images are being written. It does not hold them: they are gone once their files are made."""

    writing: Writing
    num_images: int
    failures: list[Failure]
    megapixels: float
    decode_s: float

    def events(self, workers: Workers) -> Iterator[Event]:
        """Tell of it once all images are on disk; waits for that."""
        written = workers.result(self.writing)
        times = StageTimes(decode_s=self.decode_s, write_s=written.seconds)
        yield BatchDone(self.num_images - len(written.failures), self.megapixels, times)
        yield from (*self.failures, *written.failures)
