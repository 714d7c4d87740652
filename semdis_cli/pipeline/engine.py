"""Engines: what has the shards of a plan encoded, whoever keeps the journal. Threads of this process, or several."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from semdis_cli.events import Event
from semdis_cli.files.set_names import JOURNAL_FOLDER
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import Volume, busy_threads
from semdis_cli.pipeline.fleet.encode_job import EncodeJob
from semdis_cli.pipeline.fleet.fleet import Fleet
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.fleet.sending import SentShard, ShardSender
from semdis_cli.pipeline.on_ray.engine import device_in_cluster, ray_engine
from semdis_cli.pipeline.shard_encoder import MOST_WRITERS, Portion, Record, shard_encoder
from semdis_cli.settings import PartSettings, ProcessSettings
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.set_writer import SetWriter
from semdis_cli.store.writing.shard_writer import WrittenShard


class Engine(Protocol):
    """Has shards encoded and written. `note`: what a person should know of it, a line."""

    @property
    def note(self) -> str:
        """Empty if there is nothing to say."""

    @property
    def num_threads(self) -> int:
        """Threads that can be at work at once, all processes together."""

    def run(self, shards: Sequence[PlannedShard], record: Record) -> Generator[Event, None, None]:
        """Encode `shards`; yield what becomes of them, and call `record` with each that is on disk, one at a time.

        Closed early, shards that are full by then are still recorded.
        """

    def report(self) -> dict[str, Any]:
        """Return what the closing report says of it."""


@dataclass(frozen=True)
class EncodeWork:
    """Work of an encode: into `latents`, with `loader`, whose images get their columns."""

    loader: Loader
    tokenizer: Tokenizer
    settings: PartSettings
    latents: SetWriter
    num_writers: int = MOST_WRITERS

    def portion(self, num_workers: int, num_processes: int = 1) -> Portion:
        """Return what one of so many processes has of it, with its part of so many threads."""
        volume = Volume.of(self.latents.remaining, self.tokenizer)
        volume = volume._replace(num_images=-(-volume.num_images // num_processes))
        return Portion(volume, max(1, num_workers // num_processes), self.num_writers, num_processes)


def encode_engine(work: EncodeWork, num_workers: int, settings: ProcessSettings) -> AbstractContextManager[Engine]:
    """Return what encodes the rest of a set: threads of this process, or as many processes as there are shards for."""
    remaining = work.latents.remaining
    if settings.is_in_cluster and len(remaining):
        copy = ModelCopy.of(work.tokenizer, device_in_cluster(work.tokenizer))
        job = EncodeJob.of(copy, work.loader, work.settings, work.latents.shard_folder, work.portion(1))
        folder = work.latents.root / JOURNAL_FOLDER
        return ray_engine(job, settings, _packer(work), remaining, folder)
    devices = settings.places[: len(remaining)]
    if len(devices) > 1:
        return _encode_fleet(work, num_workers, devices)
    return shard_encoder(work.loader, work.tokenizer, work.settings, work.latents, work.portion(num_workers))


def _encode_fleet(
    work: EncodeWork, num_workers: int, devices: Sequence[str]
) -> Fleet[PlannedShard, SentShard, WrittenShard]:
    portion = work.portion(num_workers, len(devices))
    copies = [ModelCopy.of(work.tokenizer, device) for device in devices]
    jobs = [EncodeJob.of(copy, work.loader, work.settings, work.latents.shard_folder, portion) for copy in copies]
    return Fleet(jobs, _packer(work), len(jobs) * busy_threads(work.tokenizer, portion.num_workers))


def _packer(work: EncodeWork) -> Callable[[PlannedShard, set[int]], SentShard]:
    """Return what makes shards ready to be sent, as long as the set is this run's."""
    sender = ShardSender(work.loader)

    def pack(shard: PlannedShard, known: set[int]) -> SentShard:
        work.latents.check()
        return sender.pack(shard, known)

    return pack
