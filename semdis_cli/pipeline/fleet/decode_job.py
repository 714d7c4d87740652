"""Decoding as the job of other processes: all that they need beside the shards; and who decodes a set."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from semdis_cli.events import Event, ShardDecoded
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.pipeline.calls import busy_threads
from semdis_cli.pipeline.fleet.fleet import Fleet, Outcome, Worker
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.images_out import ImageWriter
from semdis_cli.pipeline.on_ray.engine import device_in_cluster, ray_engine
from semdis_cli.pipeline.processes.fork_server import start_early
from semdis_cli.pipeline.processes.shared import pays
from semdis_cli.pipeline.shard_decoder import DecodePortion, DecodeWork, shard_decoder
from semdis_cli.settings import ProcessSettings, WriteSettings
from semdis_cli.store.reader import LatentSource, StoredShard

_Record = Callable[[ShardDecoded], object]


class DecodeEngine(Protocol):
    """Has shards decoded; as an `Engine` for encoding."""

    @property
    def note(self) -> str:
        """Line that a person should know of it; empty if there is nothing."""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once, all processes together."""

    def run(self, shards: Iterable[StoredShard], record: _Record) -> Generator[Event, None, None]:
        """Decode `shards`; yield what becomes of them, and call `record` with each whose images are on disk."""

    def report(self) -> dict[str, Any]:
        """Return what the closing report says of it."""


class SentStored(NamedTuple):
    """A shard as it is sent. `names`: the files of its images that are to be written, by key; the others are done."""

    stored: StoredShard
    names: Mapping[str, PurePosixPath]

    @property
    def name(self) -> str:
        """Of the shard."""
        return self.stored.name


@dataclass(frozen=True)
class DecodeJob:
    """Decoding shards of `source` into files below `root`, in a process that has its `portion` of the run."""

    model: ModelCopy
    source: LatentSource
    sampling: FCDMDiffAEInferenceConfig
    root: Path
    write: WriteSettings
    portion: DecodePortion

    @property
    def device(self) -> str:
        """Name of the device of the model."""
        return self.model.settings.device

    def fitted(self, num_workers: int, num_processes: int) -> "DecodeJob":
        """Return the job for a process with so many threads, one of so many on its machine."""
        return replace(self, portion=replace(self.portion, num_workers=num_workers, num_processes=num_processes))

    def trouble(self, task: SentStored) -> str | None:
        """Return why the file of a shard cannot be opened here; None if it can."""
        try:
            task.stored.path.open("rb").close()
        except OSError as error:
            return f"{task.stored.path}: {error.strerror or error}"
        return None

    @contextmanager
    def begin(self) -> Iterator[Worker[SentStored, ShardDecoded]]:
        """Load the model and begin the threads. Raises what `ModelCopy.load` raises."""
        if pays(self.portion.num_images, is_on_cpu=self.device == "cpu"):
            start_early()
        received = _Received({}, set(), {})
        writer = ImageWriter(self.root, received.names, self.write)
        tokenizer = self.model.load()
        work = DecodeWork(self.source, tokenizer, self.sampling, writer, received.done)
        with shard_decoder(work, self.portion) as decoder:

            def run(shards: Iterable[SentStored], record: _Record) -> Generator[Event, None, None]:
                return decoder.run(map(received.unpack, shards), lambda done: record(received.forget(done)))

            yield Worker(run, lambda: Outcome(tokenizer.halved_to), decoder.note)


class _Received(NamedTuple):
    """Facts of shards under way: file names of images, by key; keys that are done; shards by name."""

    names: dict[str, PurePosixPath]
    done: set[str]
    shards: dict[str, SentStored]

    def unpack(self, sent: SentStored) -> StoredShard:
        """Take a shard."""
        self.shards[sent.stored.name] = sent
        self.names.update(sent.names)
        self.done.update(sent.stored.rows.keys() - sent.names.keys())
        return sent.stored

    def forget(self, decoded: ShardDecoded) -> ShardDecoded:
        """Let go of a shard that is decoded."""
        sent = self.shards.pop(decoded.name)
        for key in sent.names:
            del self.names[key]
        self.done.difference_update(sent.stored.rows)
        return decoded


def decode_engine(
    work: DecodeWork, num_workers: int, settings: ProcessSettings
) -> AbstractContextManager[DecodeEngine]:
    """Return what decodes a set: threads of this process, or as many processes as there are shards for."""
    devices = settings.places[: len(work.source.shards)]
    portion = work.portion(num_workers, max(1, len(devices)))
    is_in_cluster = settings.is_in_cluster and bool(work.source.shards)
    if len(devices) < 2 and not is_in_cluster:
        return shard_decoder(work, portion)
    source = replace(work.source, shards=(), keys=(), latents=None)
    how = work.sampling, work.writer.root, work.writer.settings, portion
    places = [device_in_cluster(work.tokenizer)] if is_in_cluster else devices
    jobs = [DecodeJob(ModelCopy.of(work.tokenizer, device), source, *how) for device in places]

    def pack(stored: StoredShard, _: set[int]) -> SentStored:
        return SentStored(stored, {key: work.writer.names[key] for key in stored.rows if key not in work.done})

    if is_in_cluster:
        return ray_engine(jobs[0], settings, pack, work.source.shards, work.writer.root)
    return Fleet(jobs, pack, len(jobs) * busy_threads(work.tokenizer, portion.num_workers))
