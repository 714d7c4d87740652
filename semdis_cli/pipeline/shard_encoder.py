"""Planned shards -> shards on disk, in whichever process has what it takes: several calls and shards at once."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, Self

from semdis_cli.events import Event, ShardPublished, StageTimes, TimeSpent
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import (
    EncodedCall,
    Volume,
    busy_threads,
    encoded_calls,
    image_calls,
    reading_of,
    start_workers,
    take_call,
)
from semdis_cli.pipeline.reading import Reading, decoding_report
from semdis_cli.pipeline.workers import Timed, Workers, compute_alone, timed
from semdis_cli.settings import PartSettings
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.shard_writer import EncodedShard, ShardRows, WrittenShard
from semdis_cli.threads import WatchedThreads

Record = Callable[[WrittenShard], object]
MOST_WRITERS = 4  # threads that publish shards of a set on a disk
_MOST_HELD_BYTES = 512 << 20  # of latents in full shards that are not on disk yet: two of the usual size


class ShardTarget(Protocol):
    """Place where shards are written: `SetWriter`, and in other processes `ShardFolder`."""

    def open_shard(self, planned: PlannedShard) -> ShardRows:
        """Begin to collect a planned shard. Raises `NoSpaceError`."""

    def write(self, shard: EncodedShard) -> WrittenShard:
        """Write a shard; several threads may at once."""


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes planned shards and writes them to `target`, with as many as `num_writers` threads.

    `note`: what a person should know of it, a line.
    """

    reading: Reading
    tokenizer: Tokenizer
    settings: PartSettings
    workers: Workers
    target: ShardTarget
    num_writers: int
    note: str = ""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once."""
        return busy_threads(self.tokenizer, self.workers.num_threads)

    def report(self) -> dict[str, Any]:
        """Return what the closing report says of it."""
        return decoding_report(self.reading.decoded_on)

    def run(self, shards: Iterable[PlannedShard], record: Record) -> Generator[Event, None, None]:
        """Encode and write `shards`, which are asked for as they are needed; yield what becomes of images and shards.

        `record` is called with each shard that is on disk, in their order, one after the other, in threads. Closed
        early, those that are full are still written and recorded. Raises what reading, encoding and writing raise.
        """
        with _Publisher(self.target, record, self.num_writers) as publisher:
            calls = image_calls(shards, self.tokenizer)
            encoded = encoded_calls(calls, self.reading, self.tokenizer, self.settings, self.workers)
            yield from _fill_shards(encoded, self.target, publisher)


@dataclass(frozen=True)
class Portion:
    """What a process is going to encode, and the threads that it has for that: `num_writers` of them write shards.

    `num_processes`: that share the memory of the machine.
    """

    volume: Volume
    num_workers: int
    num_writers: int = MOST_WRITERS
    num_processes: int = 1


@contextmanager
def shard_encoder(
    loader: Loader, tokenizer: Tokenizer, settings: PartSettings, target: ShardTarget, portion: Portion
) -> Iterator[ShardEncoder]:
    """Begin the threads, and beside an accelerator processes, that encode shards."""
    with (
        start_workers(tokenizer, portion.num_workers, portion.num_processes) as workers,
        reading_of(portion.volume, loader, tokenizer, workers) as (reading, note),
    ):
        num_writers = min(portion.num_workers, portion.num_writers)
        yield ShardEncoder(reading, tokenizer, settings, workers, target, num_writers, note)


def _fill_shards(encoded: Iterable[EncodedCall], target: ShardTarget, publisher: "_Publisher") -> Iterator[Event]:
    """Put encoded calls into shards, and have these published as they fill; yield what became of images and shards."""
    rows: ShardRows | None = None
    for result in encoded:
        rows = rows or target.open_shard(result.call.shard)
        take_call(result, rows)
        if rows.is_full:  # published before yielding: the caller may close this generator at any yield
            publisher.publish(rows)
            rows = None
        else:
            publisher.fold(rows)
        yield result.done()
        yield from result.failures
        yield from result.troubles
        yield from publisher.news()
    yield from publisher.wait()


class _Publisher:
    """Publishes shards in threads beside the others, several at once, while the next ones are filled.

    They are noted in the order in which they were filled. Leaving its `with` waits for all, whatever ended the run:
    what is encoded is kept.
    """

    def __init__(self, target: ShardTarget, record: Record, num_threads: int) -> None:
        self._target, self._record = target, record
        self._threads = WatchedThreads(num_threads, "semdis-publish", compute_alone)
        self._waiting: deque[tuple[int, Future[Timed[ShardPublished | None]]]] = deque()
        self._num_shards = 0
        self._noting = Lock()
        self._written: dict[int, WrittenShard] = {}  # by their turn, of shards that wait for one before them
        self._next_turn = 0
        self._failed_turn = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def fold(self, rows: ShardRows) -> None:
        """Have `rows`, which are not all there, prepared as far as they are."""
        self._waiting.append((0, self._threads.submit(timed, rows.fold)))

    def publish(self, rows: ShardRows) -> None:
        """Have the shard of `rows`, which are all there, published."""
        self._waiting.append((rows.num_bytes, self._threads.submit(timed, self._publish, rows, self._num_shards)))
        self._num_shards += 1

    def _publish(self, rows: ShardRows, turn: int) -> ShardPublished | None:
        if turn > self._failed_turn:
            raise CancelledError  # nobody waits for it: the error of one before it ends the run
        is_done = False
        try:
            written = self._target.write(rows.finish())
            self._note(written, turn)
            is_done = True
        finally:
            if not is_done:
                self._failed_turn = min(turn, self._failed_turn)
        return written.published

    def _note(self, written: WrittenShard, turn: int) -> None:
        """Note a shard, and those after it that waited for it; or let it wait for its turn."""
        with self._noting:
            self._written[turn] = written
            while self._next_turn in self._written:
                self._record(self._written.pop(self._next_turn))
                self._next_turn += 1

    def news(self) -> Iterator[Event]:
        """Tell of the shards that are on disk by now; waits while the others are too much to hold.

        Raises what writing them raised.
        """
        while self._waiting and (self._waiting[0][1].done() or self._holds_too_much()):
            yield from self._first()

    def _holds_too_much(self) -> bool:
        held = [num_bytes for num_bytes, publishing in self._waiting if num_bytes and not publishing.done()]
        return len(held) > 1 and sum(held) > _MOST_HELD_BYTES

    def wait(self) -> Iterator[Event]:
        """Wait for all shards, and tell of them. Raises what writing them raised."""
        while self._waiting:
            yield from self._first()

    def _first(self) -> Iterator[Event]:
        published, publish_s = self._threads.result(self._waiting.popleft()[1])
        yield TimeSpent(StageTimes(publish_s=publish_s))
        if published is not None:
            yield published
