"""Encoding as the job of other processes: all that they need beside the shards, and what they make of it."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from semdis_cli.errors import UsageError
from semdis_cli.events import Event
from semdis_cli.images.loader import Loader
from semdis_cli.images.masks import MaskMaker
from semdis_cli.memory import room_for_images
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.encode_plan import encode_provenance
from semdis_cli.pipeline.fleet.fleet import Outcome, Worker
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.fleet.sending import SentShard, ShardReceiver, why_unopened
from semdis_cli.pipeline.processes.fork_server import start_early
from semdis_cli.pipeline.processes.shared import pays
from semdis_cli.pipeline.shard_encoder import Portion, Record, shard_encoder
from semdis_cli.settings import LoadSettings, PartSettings
from semdis_cli.sources.masks import NO_NAMES
from semdis_cli.store.writing.shard_writer import ShardFolder, WrittenShard


@dataclass(frozen=True)
class EncodeJob:
    """Encoding planned shards into `target`, in a process that has its `portion` of the run; it can be sent."""

    model: ModelCopy
    load: LoadSettings
    masks: MaskMaker | None
    latents: PartSettings
    target: ShardFolder
    portion: Portion

    @classmethod
    def of(
        cls, model: ModelCopy, loader: Loader, latents: PartSettings, target: ShardFolder, portion: Portion
    ) -> "EncodeJob":
        """Return the job of reading as `loader` does; masks that are files are sent with the shards."""
        masks = None if loader.masks is None else loader.masks.found_by(NO_NAMES)
        return cls(model, loader.settings, masks, latents, target, portion)

    @property
    def device(self) -> str:
        """Name of the device of the model."""
        return self.model.settings.device

    def fitted(self, num_workers: int, num_processes: int) -> "EncodeJob":
        """Return the job for a process with so many threads, one of so many on its machine."""
        return replace(self, portion=replace(self.portion, num_workers=num_workers, num_processes=num_processes))

    def trouble(self, task: SentShard) -> str | None:
        """Return why none of some images of a shard can be opened here; None if one can."""
        return why_unopened(task)

    def _check(self, tokenizer: Tokenizer) -> None:
        """Raise `UsageError` if what reads images here does it in another way than is on record."""
        on_record, here = self.target.records[0], encode_provenance(tokenizer, self.load, self.latents)
        if not on_record.is_same(here):
            differences = "; ".join(map(str, on_record.differences(here)))
            raise UsageError(f"would make other latents than the process that has the plan ({differences})")

    @contextmanager
    def begin(self) -> Iterator[Worker[SentShard, WrittenShard]]:
        """Load the model and begin the threads, for as many shards as there are going to be.

        Raises what `ModelCopy.load` raises.
        """
        if pays(self.portion.volume.num_images, is_on_cpu=self.device == "cpu"):
            start_early()
        tokenizer = self.model.load()
        self._check(tokenizer)
        received = ShardReceiver()
        masks = None if self.masks is None else self.masks.found_by(received)
        room = room_for_images().shared_by(self.portion.num_processes)
        loader = Loader(self.load, tokenizer.patch_size, self.portion.num_workers, room, received, masks)
        with loader, shard_encoder(loader, tokenizer, self.latents, self.target, self.portion) as encoder:

            def run(shards: Iterable[SentShard], record: Record) -> Generator[Event, None, None]:
                return encoder.run(map(received.unpack, shards), _then(record, received))

            yield Worker(run, lambda: Outcome(tokenizer.halved_to, decoded=encoder.reading.decoded_on), encoder.note)


def _then(record: Record, received: ShardReceiver) -> Callable[[WrittenShard], None]:
    """Return what records a shard, and forgets what came with its images."""

    def take(written: WrittenShard) -> None:
        received.forget(written.name)
        record(written)

    return take
