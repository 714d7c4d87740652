"""Verifying as the job of other processes, of this machine or of a cluster: they look at shards, and read the index."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple

from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Problem, ShardVerified
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.files.url import Location, Url
from semdis_cli.pipeline.fleet.fleet import Fleet, Outcome, Worker, as_it_is
from semdis_cli.pipeline.on_ray.actor import Token
from semdis_cli.pipeline.on_ray.cluster import check_address
from semdis_cli.pipeline.on_ray.engine import fleet_in_cluster
from semdis_cli.pipeline.processes.fork_server import start_early
from semdis_cli.settings import ProcessSettings
from semdis_cli.store.verifying.index_table import PieceFile, ReadPiece, read_here
from semdis_cli.store.verifying.shard_check import ShardOutcome, ShardTarget, check_shard
from semdis_cli.store.verifying.verify import Helpers
from semdis_cli.threads import WatchedThreads, unless_stopped

_MOST_PROBLEMS = 10_000  # that a file of the index is sent with


class ShardTask(NamedTuple):
    """A shard to look at; `reads_data`: at every byte of it."""

    target: ShardTarget
    reads_data: bool

    @property
    def name(self) -> str:
        """Of the shard, within its set."""
        return self.target.name

    def check(self) -> "Checked":
        """Look at the shard."""
        outcome = check_shard(self.target, read_data=self.reads_data)
        return Checked(self.name, outcome, outcome.num_bytes)


class PieceTask(NamedTuple):
    """A file of the index to read."""

    piece: PieceFile

    @property
    def name(self) -> str:
        """Of the file, within its set."""
        return self.piece.name

    def check(self) -> "Checked":
        """Read the file. Of very many problems some are told, and the number of the others."""
        found: list[ReadPiece] = []

        def read() -> Iterator[Problem]:
            found.append((yield from self.piece.read()))

        problems = read()
        told, num_more = [*islice(problems, _MOST_PROBLEMS)], sum(1 for _ in problems)
        if num_more:
            told.append(Problem(self.name, "index", f"{num_more:,} more lines are wrong"))
        [piece] = found
        return Checked(self.name, piece, 0 if piece.file is None else piece.file.num_bytes, told)


VerifyTask = ShardTask | PieceTask


class Checked(NamedTuple):
    """Outcome of a task, its name within the set, and how many bytes were read for it.

    `problems`: of a file of the index; a shard's are part of its outcome.
    """

    name: str
    outcome: ShardOutcome | ReadPiece
    num_bytes: int
    problems: Sequence[Problem] = ()


@dataclass(frozen=True)
class VerifyJob:
    """Looking at files of a set in a process, with so many threads."""

    num_workers: int
    device: str = "cpu"

    def fitted(self, num_workers: int, num_processes: int) -> "VerifyJob":  # noqa: ARG002 # it keeps no shard whole
        """Return the job for a process with so many threads, one of so many on its machine."""
        return replace(self, num_workers=num_workers)

    def trouble(self, task: VerifyTask) -> None:
        """Return nothing: a shard that cannot be read here is what is looked for."""

    @contextmanager
    def begin(self) -> Iterator[Worker[VerifyTask, Checked]]:
        """Begin the threads."""
        with WatchedThreads(self.num_workers, "semdis-verify") as pool:
            yield Worker(partial(self._run, pool), lambda: Outcome({}))

    def _run(
        self, pool: WatchedThreads, tasks: Iterable[VerifyTask], record: Callable[[Checked], object]
    ) -> Generator[Event, None, None]:
        """Do tasks, as many at a time as there are threads."""
        pending: deque[Future[Checked]] = deque()

        def next_done() -> Event:
            checked = pool.result(pending.popleft())
            record(checked)
            return ShardVerified(checked.name, checked.num_bytes)

        for task in tasks:
            pending.append(pool.submit(unless_stopped, _check, task))
            if len(pending) >= self.num_workers:
                yield next_done()
        while pending:
            yield next_done()


def _check(task: VerifyTask) -> Checked:
    return task.check()


_Fleet = AbstractContextManager[Fleet[VerifyTask, VerifyTask, Checked]]


def helpers_by(processes: ProcessSettings, num_workers: int, place: Location) -> Helpers | None:
    """Return who looks at the files of the set at `place`: several processes, or a cluster; None: this one.

    `num_workers`: threads of all processes together; in a cluster each has one for each of its cores. Raises
    `UsageError` for what a cluster cannot share or where none answers, `MissingExtraError` without Ray.
    """
    if not isinstance(place, Url) and not place.exists():
        return None
    if processes.is_in_cluster:
        check_address(processes.address)
        token = _token_of(place)

        def in_cluster(tasks: Sequence[VerifyTask]) -> _Fleet:
            return fleet_in_cluster(VerifyJob(num_workers), processes, as_it_is, tasks, token)

        return Helpers(partial(_check_there, in_cluster), partial(_read_there, in_cluster))
    if not processes.places:
        return None
    start_early()

    def on_this_machine(tasks: Sequence[VerifyTask]) -> _Fleet:
        num_processes = min(len(processes.places), len(tasks))
        num_each = max(1, num_workers // num_processes)
        return Fleet([VerifyJob(num_each)] * num_processes, as_it_is, num_processes * num_each)

    return Helpers(partial(_check_there, on_this_machine), partial(_read_there, on_this_machine))


def _token_of(place: Location) -> Token:
    """Return the manifest of a set: a node that has the same has the set. Raises `UsageError` where there is none."""
    if isinstance(place, Url):
        raise UsageError("a cluster verifies what all its nodes see as a folder; leave --engine out", place=place)
    path = place.absolute() / MANIFEST_FILE
    try:
        return Token(path, path.read_bytes())
    except OSError as error:
        what = f"a cluster verifies sets that are finished ({error.strerror or error}); leave --engine out"
        raise UsageError(what, place=path) from error


def _check_there(
    begin: Callable[[Sequence[VerifyTask]], _Fleet], targets: Sequence[ShardTarget], chosen: frozenset[str]
) -> Iterator[ShardOutcome | Event]:
    """Have other processes check shards; a `ShardCheck`."""
    tasks = {target.name: ShardTask(target, target.name in chosen) for target in targets}
    for found in _do_there(begin, tasks, [target.name for target in targets]):
        yield found.outcome if isinstance(found, Checked) else found  # type: ignore[misc] # of shards alone


def _read_there(
    begin: Callable[[Sequence[VerifyTask]], _Fleet], pieces: Sequence[PieceFile]
) -> Iterator[ReadPiece | Event]:
    """Have other processes read the files of an index, where there are several; a `PieceReader`."""
    if len(pieces) < 2:  # it takes as long there as here
        yield from read_here(pieces)
        return
    for found in _do_there(begin, {piece.name: PieceTask(piece) for piece in pieces}, [each.name for each in pieces]):
        if isinstance(found, Checked):
            yield from found.problems
        yield found.outcome if isinstance(found, Checked) else found  # type: ignore[misc] # of pieces alone


def _do_there(
    begin: Callable[[Sequence[VerifyTask]], _Fleet], tasks: Mapping[str, VerifyTask], names: Sequence[str]
) -> Iterator[Checked | Event]:
    """Have tasks done, each once, however often a damaged manifest names it; yield what came of them, by `names`."""
    if not names:
        return
    found: dict[str, Checked] = {}
    left = deque(names)
    take = found.pop if len(tasks) == len(names) else found.__getitem__  # rows of a piece of an index take much room
    with begin([*tasks.values()]) as fleet:
        for event in fleet.run(tasks.values(), lambda checked: found.update({checked.name: checked})):
            if not isinstance(event, ShardVerified):  # that of the set is told in the order of its shards
                yield event
            while left and left[0] in found:
                yield take(left.popleft())
    yield from map(take, left)
