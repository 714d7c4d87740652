"""Encoding and decoding in one go as the job of other processes; and who does it."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from semdis_cli.errors import UsageError
from semdis_cli.events import Event, ShardDecoded
from semdis_cli.images.loader import Loader
from semdis_cli.memory import room_for_images
from semdis_cli.metrics.measure import Measurer
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.pipeline.calls import Volume, busy_threads
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender
from semdis_cli.pipeline.encode_plan import reading_record
from semdis_cli.pipeline.fleet.fleet import Fleet, Outcome, Worker
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.fleet.sending import SentShard, ShardReceiver, ShardSender, why_unopened
from semdis_cli.pipeline.images_out import ImageWriter
from semdis_cli.pipeline.measuring.comparing import Measuring
from semdis_cli.pipeline.measuring.kept_pictures import PictureChoice, PictureKeeper
from semdis_cli.pipeline.on_ray.engine import device_in_cluster, ray_engine
from semdis_cli.pipeline.processes.fork_server import start_early
from semdis_cli.pipeline.processes.shared import pays
from semdis_cli.pipeline.shard_roundtrip import RoundtripWork, shard_roundtrip
from semdis_cli.settings import LatentSettings, LoadSettings, RoundtripSettings, WriteSettings
from semdis_cli.settings.measures import MeasureSettings
from semdis_cli.store.writing.plan import PlannedShard

_Record = Callable[[ShardDecoded], object]


class RoundtripEngine(Protocol):
    """Has shards encoded and decoded; as an `Engine` for encoding. `note`: what a person should know of it, a line."""

    @property
    def note(self) -> str:
        """Empty if there is nothing to say."""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once, all processes together."""

    def run(self, shards: Iterable[PlannedShard], record: _Record) -> Generator[Event, None, None]:
        """Do `shards`; yield what becomes of them, and call `record` with each whose images are on disk."""

    def report(self) -> dict[str, Any]:
        """Return what the closing report says of it."""


class _Sent(NamedTuple):
    """A shard as it is sent, and the file `names` of its images by key."""

    shard: SentShard
    names: Mapping[str, PurePosixPath]

    @property
    def name(self) -> str:
        """Of the shard."""
        return self.shard.name


@dataclass(frozen=True)
class RoundtripJob:
    """Encoding and decoding shards, `volume` in all, with image files below `root`, in one of `num_processes`.

    `reading`: what decodes and resizes images where the plan is.
    """

    model: ModelCopy
    load: LoadSettings
    reading: Mapping[str, str]
    latents: LatentSettings
    sampling: FCDMDiffAEInferenceConfig
    measures: MeasureSettings
    pictures: tuple[Path, PictureChoice] | None
    root: Path
    write: WriteSettings
    volume: Volume
    num_workers: int
    num_processes: int

    @property
    def device(self) -> str:
        """Name of the device of the model."""
        return self.model.settings.device

    def fitted(self, num_workers: int, num_processes: int) -> "RoundtripJob":
        """Return the job for a process with so many threads, one of so many on its machine."""
        return replace(self, num_workers=num_workers, num_processes=num_processes)

    def trouble(self, task: _Sent) -> str | None:
        """Return why none of some images of a shard can be opened here; None if one can."""
        return why_unopened(task.shard)

    @contextmanager
    def begin(self) -> Iterator[Worker[_Sent, ShardDecoded]]:
        """Load the model and begin the threads. Raises what `ModelCopy.load` raises, and `UsageError`."""
        if pays(self.volume.num_images, is_on_cpu=self.device == "cpu"):
            start_early()
        tokenizer, received = self.model.load(), _Received()
        if (here := reading_record(tokenizer, self.load)) != self.reading:
            before, now = (", ".join(map(str, record.values())) for record in (self.reading, here))
            raise UsageError(f"reads images in another way than the process that has the plan ({before} -> {now})")
        writer = ImageWriter(self.root, received.names, self.write)
        room = room_for_images().shared_by(self.num_processes)
        with Loader(self.load, tokenizer.patch_size, self.num_workers, room) as loader:
            first = TokenizedContender("semdis", tokenizer, self.latents, self.sampling)
            keeper = None if self.pictures is None else PictureKeeper(*self.pictures)
            measuring = Measuring(Measurer.of(self.measures, tokenizer.model.device), keeper=keeper)
            work = RoundtripWork(loader, first, measuring, writer)
            with shard_roundtrip(work, self.volume, self.num_workers, self.num_processes) as trip:

                def run(shards: Iterable[_Sent], record: _Record) -> Generator[Event, None, None]:
                    return trip.run(map(received.unpack, shards), lambda done: record(received.forget(done)))

                yield Worker(run, lambda: Outcome(tokenizer.halved_to, decoded=trip.reading.decoded_on), trip.note)


class _Received:
    """Facts of the shards under way: `names` of files, by key."""

    def __init__(self) -> None:
        self._shards = ShardReceiver()
        self._sent: dict[str, _Sent] = {}
        self.names: dict[str, PurePosixPath] = {}

    def unpack(self, sent: _Sent) -> PlannedShard:
        """Take a shard."""
        self._sent[sent.shard.name] = sent
        self.names.update(sent.names)
        return self._shards.unpack(sent.shard)

    def forget(self, done: ShardDecoded) -> ShardDecoded:
        """Let go of a shard that is done."""
        self._shards.forget(done.name)
        for key in self._sent.pop(done.name).names:
            del self.names[key]
        return done


def roundtrip_engine(
    work: RoundtripWork, settings: RoundtripSettings, shards: Sequence[PlannedShard]
) -> AbstractContextManager[RoundtripEngine]:
    """Return what encodes and decodes `shards`: threads of this process, or as many processes as there are shards."""
    num_workers, processes, writer = settings.decode.num_workers, settings.decode.processes, work.writer
    devices = processes.places[: len(shards)]
    is_in_cluster = processes.is_in_cluster and bool(shards)
    volume = Volume.of(shards, work.tokenizer)
    if (len(devices) < 2 and not is_in_cluster) or writer is None:
        return shard_roundtrip(work, volume, num_workers)
    places = [device_in_cluster(work.tokenizer)] if is_in_cluster else devices
    num_each, sender, keeper = max(1, num_workers // len(places)), ShardSender(work.loader), work.measuring.keeper
    pictures = None if keeper is None else (keeper.folder, keeper.choice)
    first, load = work.first, work.loader.settings
    of_each = volume._replace(num_images=-(-volume.num_images // len(places)))
    what = load, reading_record(work.tokenizer, load), first.latents, first.sampling, settings.measures
    how = *what, pictures, writer.root, writer.settings, of_each
    jobs = [RoundtripJob(ModelCopy.of(work.tokenizer, device), *how, num_each, len(places)) for device in places]

    def pack(shard: PlannedShard, known: set[int]) -> _Sent:
        keys = [image.source.key for image in shard.images]
        return _Sent(sender.pack(shard, known), {key: writer.names[key] for key in keys})

    if is_in_cluster:
        return ray_engine(jobs[0], processes, pack, shards, writer.root)
    return Fleet(jobs, pack, len(jobs) * busy_threads(work.tokenizer, num_each))
