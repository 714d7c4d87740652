"""A job that a Ray cluster does: actors are asked for, and each task is dealt to one that has room for it.

Ray places the actors, and brings them to nodes that come later: more are always asked for than are at work, as long as
there are tasks for them. A task whose actor is gone is dealt again: Ray itself would have it wait for the same actor,
for ever where no node has room for that any more.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import semdis_cli
from semdis_cli.errors import KilledProcessError, SemdisError, UsageError
from semdis_cli.events import Event, ProcessDied, WorkerLeftOut
from semdis_cli.pipeline.fleet.fleet import Named, Outcome, Worker
from semdis_cli.pipeline.on_ray.actor import (
    CALLS_AT_ONCE,
    TASKS_UNDER_WAY,
    Begun,
    RayActor,
    Setting,
    SharedJob,
    Token,
    Where,
)
from semdis_cli.pipeline.on_ray.cluster import Cluster, join_cluster
from semdis_cli.pipeline.on_ray.resources import resources_of_actor, room_for
from semdis_cli.pipeline.reading import DecodedOn, beside
from semdis_cli.settings import ProcessSettings
from semdis_cli.stops import LOOK_S, look

S = TypeVar("S", bound=Named)
R = TypeVar("R", bound=Named)
_MOST_TRIES = 3  # of a task whose actor dies, and of actors that die before they have begun
_SETTLE_S = 10.0  # that actors get to begin after the first one has: what is wrong with a node is known before work
_WIND_UP_S = 5.0
_REMEDY = "what is done is kept: run the same command again"


@dataclass(frozen=True)
class RayJob(Generic[S, R]):
    """A job, and how a cluster does it. `token`: what all nodes must see. `probe`: one of the `num_tasks` tasks."""

    job: SharedJob[S, R]
    settings: ProcessSettings
    token: Token
    probe: S
    num_tasks: int

    @property
    def device(self) -> str:
        """Name of what computes."""
        return "Ray"

    @contextmanager
    def begin(self) -> Iterator[Worker[S, R]]:
        """Join the cluster, and wait for actors. Raises `UsageError` with what is wrong, and of which node."""
        pool = _Pool(join_cluster(self.settings), self)
        pool.begin()
        yield Worker(pool.run, pool.outcome, pool.note)


@dataclass
class _Member:
    """An actor that was asked for, and the tasks that it has, by name. `where`: None until it has a place."""

    handle: Any
    where: Where | None = None
    is_ready: bool = False
    under_way: dict[str, Any] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        """Tell whether another task may be dealt to it."""
        return self.is_ready and len(self.under_way) < TASKS_UNDER_WAY


Act = Callable[[Any], Iterator[Event]]  # on what Ray has to say


class _Pool(Generic[S, R]):
    """Actors of a job. `note`: as of a worker."""

    def __init__(self, cluster: Cluster, how: RayJob[S, R]) -> None:
        import ray

        self._ray, self._cluster, self._how = ray, cluster, how
        is_on_cpu = how.job.device == "cpu"
        self._per_actor = resources_of_actor(how.settings, is_on_cpu=is_on_cpu)
        self._setting = Setting(int(self._per_actor["CPU"]), str(Path.cwd()), how.token, self._per_actor)
        self._members: list[_Member] = []
        self._waiting: dict[Any, tuple[_Member, Act]] = {}  # by reference: whose it is, and what to do about it
        self._again: deque[S] = deque()
        self._tries: dict[str, int] = {}
        self._num_done = self._num_died = self._most_ready = self._num_early_deaths = 0
        self._has_begun = False
        self._room = room_for(self._per_actor)
        self._most = how.num_tasks  # less once a node cannot take part: Ray would bring the next one there too
        self._left_out: SemdisError | None = None
        self._halved: dict[tuple[int, int], int] = {}
        self._decoded: DecodedOn | None = None
        self._record: Callable[[R], object] = _nothing
        self.note = ""

    # --- actors ---

    def begin(self) -> None:
        """Ask for actors, and wait until those that have a place have begun. Raises `UsageError`."""
        self._grow()
        settled = float("inf")
        while not self._num_ready or (time.monotonic() < settled and self._num_ready < len(self._members)):
            deque(self._listen(), maxlen=0)
            if self._left_out is not None:
                raise self._left_out
            if self._num_ready and settled == float("inf"):
                settled = time.monotonic() + _SETTLE_S
            self._grow()
        self._has_begun = True

    @property
    def _num_ready(self) -> int:
        return sum(member.is_ready for member in self._members)

    def _grow(self) -> None:
        """Ask for as many more actors as are at work; for none beyond the tasks that are left."""
        self._most_ready = max(self._most_ready, self._num_ready)
        asked_for = self._how.settings.num_processes
        wanted = asked_for or max(1, self._room, 2 * self._num_ready if self._has_begun else 0)
        wanted = min(wanted, self._most, self._how.num_tasks - self._num_done)
        idle = [member for member in self._members if not member.is_ready]
        for member in idle[: max(0, len(self._members) - wanted)]:
            self._drop(member)
        for _ in range(wanted - len(self._members)):
            self._members.append(self._ask_for_one())

    def _ask_for_one(self) -> _Member:
        cpus, gpus = self._per_actor["CPU"], self._per_actor["GPU"]
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": CALLS_AT_ONCE}
        member = _Member(self._ray.remote(RayActor).options(**options).remote())
        self._wait(member.handle.where.remote(), member, lambda where: self._meet(member, where))
        return member

    def _meet(self, member: _Member, where: Where) -> Iterator[Event]:
        """Have an actor begin that has a place now."""
        member.where = where
        if where.semdis != semdis_cli.__version__:
            error = UsageError(f"has semdis {where.semdis}, not {semdis_cli.__version__}")
            yield from self._take_begun(member, Begun(error=error))
        else:
            begun = member.handle.begin.remote(self._how.job, self._setting, self._how.probe)
            self._wait(begun, member, lambda told: self._take_begun(member, told))

    def _take_begun(self, member: _Member, begun: Begun) -> Iterator[Event]:
        """Take an actor that has begun, or leave it out."""
        member.is_ready = begun.error is None
        self.note = self.note or begun.note
        self._num_early_deaths = 0
        if begun.error is not None:
            assert member.where is not None, "an actor that answers has a place"
            self._left_out = type(begun.error)(str(begun.error), place=f"node {member.where.node}")
            yield WorkerLeftOut(str(self._left_out))
            self._drop(member)
            self._most = self._num_ready

    def _drop(self, member: _Member) -> None:
        """Forget an actor, and have Ray forget it."""
        self._members.remove(member)
        self._waiting = {ref: waiting for ref, waiting in self._waiting.items() if waiting[0] is not member}
        self._ray.kill(member.handle)

    def _lose(self, member: _Member, why: str) -> Iterator[Event]:
        """Let go of an actor that is gone; deal its tasks again. Raises `KilledProcessError`."""
        self._drop(member)
        self._num_died += 1
        if member.is_ready:
            assert member.where is not None, "an actor that has begun has a place"
            place = f"{self._how.job.device} of node {member.where.node}"
            yield ProcessDied(member.where.pid, place, why, tuple(member.under_way))
        else:
            self._num_early_deaths += 1
        for name in member.under_way:
            self._tries[name] = self._tries.get(name, 1) + 1
            if self._tries[name] > _MOST_TRIES:
                raise KilledProcessError(f"{_MOST_TRIES} actors died at {name}, perhaps for their memory; {_REMEDY}")
        if self._num_early_deaths >= _MOST_TRIES:
            raise KilledProcessError(f"{_MOST_TRIES} actors died before they had begun ({why}); {_REMEDY}")
        self._again.extend(member.under_way.values())

    # --- tasks ---

    def run(self, tasks: Iterable[S], record: Callable[[R], object]) -> Generator[Event, None, None]:
        """Have the actors do `tasks`; yield what they tell, and `record` what comes of each.

        Raises what doing them raises, `KilledProcessError` where actors die again and again, or the cluster does.
        """
        remaining, self._record = iter(tasks), record
        try:
            has_more = True
            while has_more or self._again or any(member.under_way for member in self._members):
                has_more = self._deal(remaining) and has_more
                yield from self._listen()
                self._grow()
                if self._left_out is not None and not self._members:
                    raise self._left_out
            self._ask_for_outcomes()
        finally:
            self._wind_up()

    def _deal(self, remaining: Iterator[S]) -> bool:
        """Give tasks to actors, first to those that have the fewest; False once there are no more."""
        while free := [member for member in self._members if member.has_room]:
            task = self._again.popleft() if self._again else next(remaining, None)
            if task is None:
                return False
            member = min(free, key=lambda member: len(member.under_way))
            member.under_way[task.name] = task
            told = member.handle.do.options(num_returns="streaming").remote(task)
            self._follow(told, member, task.name)
        return True

    def _follow(self, told: Any, member: _Member, name: str) -> None:
        """Wait for what a task tells next."""

        def take(_: Any) -> Iterator[Event]:
            with suppress(StopIteration):
                self._wait(next(told), member, hear)
                return
            if name in member.under_way:
                yield from self._lose(member, "stopped")

        def hear(news: Any) -> Iterator[Event]:
            if news.error is not None:
                assert member.where is not None, "an actor that answers has a place"
                raise news.error.adding(f" (on node {member.where.node})")
            if news.result is not None and name in member.under_way:
                self._record(news.result)
                del member.under_way[name]
                self._num_done += 1
            self._follow(told, member, name)
            yield from news.events

        self._wait(told, member, take)

    # --- what Ray says ---

    def _wait(self, reference: Any, member: _Member, act: Act) -> None:
        self._waiting[reference] = (member, act)

    def _listen(self) -> Iterator[Event]:
        """Act on what is there, or comes soon. Raises `StoppedError` on a signal."""
        look()
        if self._cluster.answers():
            self._room = room_for(self._per_actor)
        yield from self._hear_some()

    def _hear_some(self) -> Iterator[Event]:
        if not self._waiting:
            time.sleep(LOOK_S)
            return
        waiting = list(self._waiting)
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=LOOK_S)
        for reference in ready:
            if reference in self._waiting:  # its actor is not gone since
                yield from self._hear(reference)

    def _hear(self, reference: Any) -> Iterator[Event]:
        member, act = self._waiting.pop(reference)
        errors = self._ray.exceptions
        try:
            value = self._ray.get(reference) if isinstance(reference, self._ray.ObjectRef) else None
            yield from act(value)
        except errors.RayError as error:
            if member.where is None and "Error: " in (last := _last_line(error)):
                raise UsageError(f"a node of the cluster has no semdis that works: {last}") from error
            if isinstance(error, errors.RayTaskError):  # a mistake of ours
                raise
            yield from self._lose(member, _why(error))

    def outcome(self) -> Outcome:
        """Return how many actors there were at most, how many died, and what those that are left have to say."""
        num_threads = self._most_ready * self._setting.num_threads
        return Outcome(self._halved, self._most_ready, self._num_died, num_threads, self._decoded)

    def _ask_for_outcomes(self) -> None:
        asked = [member.handle.outcome.remote() for member in self._members if member.is_ready]
        done, _ = self._ray.wait(asked, num_returns=len(asked), timeout=_WIND_UP_S) if asked else ([], [])
        for told in done:
            with suppress(self._ray.exceptions.RayError):  # it has died by now
                self._hear_outcome(self._ray.get(told))

    def _hear_outcome(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            halved = outcome.halved.items()
            self._halved |= {size: min(number, self._halved.get(size, number)) for size, number in halved}
            self._decoded = beside(self._decoded, outcome.decoded)

    def _wind_up(self) -> None:
        """Have all actors end, and record what they have done by then."""
        deadline = time.monotonic() + _WIND_UP_S
        for member in self._members:
            if member.under_way:
                member.handle.stop.remote()
        with suppress(SemdisError):
            while any(member.under_way for member in self._members) and time.monotonic() < deadline:
                deque(self._hear_some(), maxlen=0)


def _nothing(_: object) -> None:
    """Record nothing: no task was dealt."""


def _why(error: Exception) -> str:
    """Return in a few words what became of an actor."""
    return "its node is gone" if "node" in str(error) and "died" in str(error) else "killed"


def _last_line(error: Exception) -> str:
    return f"{str(error).strip().splitlines()[-1]:.200}"
