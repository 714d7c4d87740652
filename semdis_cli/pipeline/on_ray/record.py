"""Record of how a cluster computes, where this machine has no such device: asked of an actor, before all else."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from semdis_cli.errors import KilledProcessError
from semdis_cli.events import Event
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.fleet.fleet import Fleet, Outcome, Worker
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.on_ray.actor import RayActor, Recorded
from semdis_cli.pipeline.on_ray.cluster import Cluster, join_cluster
from semdis_cli.pipeline.on_ray.resources import resources_of_actor
from semdis_cli.settings import ProcessSettings
from semdis_cli.stops import LOOK_S, look


class DistantTokenizer(Tokenizer):
    """A model that computes elsewhere: it is here for its sizes, and for what is on `record` of how it computes."""

    def __init__(self, here: Tokenizer, record: Mapping[str, Any]) -> None:
        super().__init__(here.model, here.identity, here.settings, here.description)
        self._record = record

    @property
    def is_on_cpu(self) -> bool:
        """Tell whether it computes on a CPU there."""
        return "num_threads" in self._record

    @property
    def device_name(self) -> str:
        """Name of the device there."""
        return str(self._record["device"])

    @property
    def dtype_name(self) -> str:
        """Return the dtype that the network computes in there."""
        return str(self._record["dtype"])

    @property
    def kernels(self) -> str:
        """Whose kernels compute there."""
        return str(self._record["kernels"])


def in_cluster(tokenizer: Tokenizer, settings: ProcessSettings, device: str = "cuda") -> DistantTokenizer:
    """Return a model that computes on `device` in a cluster. Raises what joining it and loading the model raise."""
    copy = ModelCopy(tokenizer.identity, replace(tokenizer.settings, device=device), {})
    records: list[_Answer] = []
    with Fleet([_RecordJob(copy, settings)], _as_it_is, 0) as fleet:
        deque(fleet.run([_Question("record")], records.append), maxlen=0)
    return DistantTokenizer(tokenizer, records[0].record)


class _Question(NamedTuple):
    name: str


class _Answer(NamedTuple):
    name: str
    record: Mapping[str, Any]


def _as_it_is(question: _Question, _: set[int]) -> _Question:
    return question


@dataclass(frozen=True)
class _RecordJob:
    """Asking a cluster how it computes with a model."""

    model: ModelCopy
    settings: ProcessSettings

    @property
    def device(self) -> str:
        """Name of what computes."""
        return "Ray"

    @contextmanager
    def begin(self) -> Iterator[Worker[_Question, _Answer]]:
        """Join the cluster. Raises `UsageError`."""
        cluster = join_cluster(self.settings)

        def run(questions: Iterable[_Question], record: Callable[[_Answer], object]) -> Generator[Event, None, None]:
            for question in questions:
                record(_Answer(question.name, self._ask(cluster)))
            yield from ()

        yield Worker(run, lambda: Outcome({}))

    def _ask(self, cluster: Cluster) -> Mapping[str, Any]:
        """Return the record of the first actor that there is. Raises what loading the model raises there."""
        import ray
        from ray.exceptions import RayActorError

        per_actor = resources_of_actor(self.settings, is_on_cpu=self.device_of_model == "cpu")
        options = {"num_cpus": per_actor["CPU"], "num_gpus": per_actor["GPU"]}
        actor: Any = ray.remote(RayActor).options(**options).remote()
        told = actor.record.remote(self.model, str(Path.cwd()))
        while not ray.wait([told], timeout=LOOK_S)[0]:
            look()
            cluster.answers()
        try:
            recorded: Recorded = ray.get(told)
        except RayActorError as error:
            raise KilledProcessError("an actor died before it had begun; run the same command again") from error
        finally:
            ray.kill(actor)
        if recorded.error is not None:
            raise type(recorded.error)(str(recorded.error), place=f"node {recorded.node}")
        return recorded.record

    @property
    def device_of_model(self) -> str:
        """Name of the device that the model is to have."""
        return self.model.settings.device
