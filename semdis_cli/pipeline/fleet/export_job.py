"""Exporting as the job of other processes, of this machine or of a cluster: each writes whole files."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from semdis_cli.events import Event
from semdis_cli.pipeline.export_parts import ExportPart, PlannedPart, WrittenPart, write_part
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.pipeline.fleet.fleet import Fleet, Outcome, Worker
from semdis_cli.pipeline.on_ray.engine import ray_engine
from semdis_cli.pipeline.processes.fork_server import start_early
from semdis_cli.settings import ExportSettings, ProcessSettings
from semdis_cli.threads import WatchedThreads


@dataclass(frozen=True)
class PartJob:
    """Writing parts of an export below `output`, in a process with so many threads."""

    settings: ExportSettings
    output: Path
    num_workers: int
    device: str = "cpu"

    def fitted(self, num_workers: int, num_processes: int) -> "PartJob":  # noqa: ARG002 # it keeps no shard whole
        """Return the job for a process with so many threads, one of so many on its machine."""
        return replace(self, num_workers=num_workers)

    def trouble(self, task: ExportPart) -> str | None:
        """Return why the first shard of a part cannot be opened here; None if it can."""
        path = task.source.shards[0].path
        try:
            path.open("rb").close()
        except OSError as error:
            return f"{path}: {error.strerror or error}"
        return None

    @contextmanager
    def begin(self) -> Iterator[Worker[ExportPart, WrittenPart]]:
        """Begin the threads."""
        with WatchedThreads(self.num_workers, "semdis-write") as pool:

            def run(
                parts: Iterable[ExportPart], record: Callable[[WrittenPart], object]
            ) -> Generator[Event, None, None]:
                for part in parts:
                    record((yield from write_part(part, self.settings, self.output, pool)))

            yield Worker(run, lambda: Outcome({}))


def export_engine(
    processes: ProcessSettings, job: ExportJob, parts: Sequence[PlannedPart], names: Mapping[str, PurePosixPath]
) -> AbstractContextManager[Fleet[PlannedPart, ExportPart, WrittenPart]] | None:
    """Return what writes parts of an export: several processes, or a cluster; None: this process had better.

    `names`: of the files, where each image has one. Raises `UsageError` where no cluster answers, `MissingExtraError`
    without Ray.
    """
    settings, output = job.settings, job.output.absolute()

    def pack(part: PlannedPart, _: set[int]) -> ExportPart:
        return part.pack(job, names)

    if processes.is_in_cluster and parts:
        return ray_engine(PartJob(settings, output, settings.num_workers), processes, pack, parts, output)
    num_processes = min(len(processes.places), len(parts))
    if num_processes < 2:  # one has no less to do than this one
        return None
    start_early()
    num_each = max(1, settings.num_workers // num_processes)
    return Fleet([PartJob(settings, output, num_each)] * num_processes, pack, num_processes * num_each)
