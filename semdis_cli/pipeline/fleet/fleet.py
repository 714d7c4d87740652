"""Processes of this machine that share the work of a run: one for each GPU, or several on a CPU.

Each asks for a task when it has room for one, and tells of it as it goes, by a pipe of its own: there is no queue, and
no lock, that one which dies could hold. The process that has begun them alone keeps the journal, shows the progress,
and hears of signals.
"""

import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from semdis_cli.errors import KilledProcessError, SemdisError, UsageError
from semdis_cli.events import Event, Failure, ImageMeasured, ProcessDied, ShardFailed
from semdis_cli.memory import keep_freed_blocks
from semdis_cli.pipeline.processes.fork_server import fork_server
from semdis_cli.pipeline.processes.shared import heed_parent
from semdis_cli.pipeline.reading import DecodedOn, beside, decoding_report
from semdis_cli.pipeline.report import by_size
from semdis_cli.stops import LOOK_S, StoppedError, ask, look


class Named(Protocol):
    """A task, or what came of it: both have the name of a shard."""

    @property
    def name(self) -> str:
        """Unique in the run."""


T = TypeVar("T", bound=Named)  # a task
S = TypeVar("S")  # a task as it is sent
R = TypeVar("R", bound=Named)  # what came of it
_MOST_TRIES = 2  # of a task whose process dies
_TELLING_S = 0.1  # between two messages on how it goes
_REMEDY = "what is done is kept: run the same command again, with fewer processes or --workers"


class Outcome(NamedTuple):
    """Last word of a process. `halved`: see `Tokenizer.halved_to`; `decoded`: see `Reading.decoded_on`.

    Of one that has others do the work: how many there were at once, how many died, and the threads of all (0: as many
    as was known before).
    """

    halved: dict[tuple[int, int], int]
    num_processes: int = 1
    num_died: int = 0
    num_threads: int = 0
    decoded: DecodedOn | None = None


@dataclass(frozen=True)
class Worker(Generic[S, R]):
    """Work of a process once all is there: `run` of tasks yields events, and records what came of each.

    `outcome`: what there is to say of it then. `note`: what a person should know of it, a line.
    """

    run: Callable[[Iterable[S], Callable[[R], object]], Generator[Event, None, None]]
    outcome: Callable[[], Outcome]
    note: str = ""


class Job(Protocol[S, R]):
    """Work of a process; it is sent there."""

    @property
    def device(self) -> str:
        """Name of the device that it computes on."""

    def begin(self) -> AbstractContextManager[Worker[S, R]]:
        """Load the model, and begin threads. Raises `SemdisError`."""


class _Ready(NamedTuple):
    """The model of a process is loaded; `note` as of its worker."""

    note: str


class _Asking(NamedTuple):
    """A process has room for a task."""


class _Recorded(NamedTuple):
    """A task is done."""

    result: Any


class _Told(NamedTuple):
    """News of a process, several at a time: there are many, and each message takes its time."""

    events: list[Event]


class _Broken(NamedTuple):
    """A mistake of ours ends a process; its traceback follows on stderr."""


class _Failed(NamedTuple):
    """A process cannot go on."""

    error: SemdisError


class _Ended(NamedTuple):
    """All tasks of a process are done."""

    outcome: Outcome


@dataclass
class _Child(Generic[T, S, R]):
    """A process, and the tasks that it has. `known`: see `Fleet`."""

    job: Job[S, R]
    process: Any
    connection: Connection
    under_way: dict[str, T] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    has_asked: bool = False
    has_ended: bool = False
    is_broken: bool = False

    @classmethod
    def start(cls, job: Job[S, R]) -> Self:
        """Start a process. Raises `UsageError` where there is none to be had, `KilledProcessError`, `StoppedError`."""
        look()
        context = fork_server()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, job), name=f"semdis on {job.device}")
        try:
            process.start()
        except OSError as error:
            raise UsageError(f"no process could be started ({error.strerror or error})") from error
        except EOFError as error:  # of the process from which others are forked
            look()
            raise KilledProcessError(f"no process could be started: what starts them was killed; {_REMEDY}") from error
        finally:
            theirs.close()
        return cls(job, process, ours)

    def receive(self) -> Any:
        """Return what it has to say; None if it is gone."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):  # also in the middle of a message
            return None
        if not isinstance(message, _Broken):
            return message
        self.is_broken = True
        return self.receive()

    def receive_last(self) -> Any:
        """Return what it has to say once it was told to end; None if it is gone.

        It is told again and again: a signal that comes while one of somebody else's waits for it is lost.
        """
        while not self.connection.poll(LOOK_S):
            self.process.terminate()
        return self.receive()

    def close(self) -> int:
        """Wait for its end; return its exit code, less than 0 for a signal."""
        self.connection.close()
        self.process.join()
        return int(self.process.exitcode)

    def describe(self) -> str:
        """Name it for a person."""
        return f"process {self.process.pid} on {self.job.device}"


class Fleet(Generic[T, S, R]):
    """Processes that each do one of `jobs`; use as a context manager: entering waits until all are ready.

    `pack`: makes a task ready to be sent; it is given, and adds to, the numbers of what a process knows already.
    `num_threads`: of all processes. Entering raises what beginning a job raises, and `KilledProcessError`.
    """

    def __init__(self, jobs: Sequence[Job[S, R]], pack: Callable[[T, set[int]], S], num_threads: int) -> None:
        if sys.platform != "linux":
            raise UsageError("several processes share a run on Linux alone; leave --processes and --devices out")
        self._jobs, self._pack, self.num_threads = jobs, pack, num_threads
        self._children: list[_Child[T, S, R]] = []
        self._again: deque[T] = deque()  # tasks of processes that died
        self._tries: dict[str, int] = {}
        self._has_more = True
        self._notes: dict[str, None] = {}  # as a set that keeps its order
        self._halved: dict[tuple[int, int], int] = {}
        self._decoded: DecodedOn | None = None
        self._num_processes, self._num_died = len(jobs), 0
        self._told: set[str] = set()  # images and shards that something was said of that is said once

    def __enter__(self) -> Self:
        with ExitStack() as on_failure:
            on_failure.callback(self._wind_up, _forget)
            self._children += map(_Child[T, S, R].start, self._jobs)
            starting = list(self._children)
            while starting:
                for child in self._speaking(starting):
                    match child.receive():
                        case _Ready(note):
                            self._notes[note] = None
                            starting.remove(child)
                        case _Failed(error):
                            raise error
                        case _:
                            self._children.remove(child)
                            raise _without_a_task(child, child.close())
            on_failure.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._wind_up(_forget)

    @property
    def note(self) -> str:
        """Line that a person should know of the processes."""
        return "; ".join(filter(None, self._notes))

    def report(self) -> dict[str, Any]:
        """Return how many processes there were, how many died, and where memory ran out."""
        report: dict[str, Any] = {"processes": self._num_processes}
        if self._num_died:
            report["processes_died"] = self._num_died
        if self._halved:
            report["halved"] = by_size(self._halved)
        return report | decoding_report(self._decoded)

    def run(self, tasks: Iterable[T], record: Callable[[R], object]) -> Generator[Event, None, None]:
        """Have `tasks` done; yield what the processes tell. `record` is called with what came of each, here.

        Closed early, what is nearly done is still recorded. Raises what doing them raises, and `KilledProcessError` if
        a task has killed two processes.
        """
        remaining = iter(tasks)
        try:
            while self._children:
                for child in self._speaking(self._children):
                    yield from self._take(child, remaining, record)
        finally:
            self._wind_up(record)

    def _take(self, child: _Child[T, S, R], remaining: Iterator[T], record: Callable[[R], object]) -> Iterator[Event]:
        """Act on what a process says."""
        match child.receive():
            case _Ready():
                pass
            case _Asking():
                self._deal(child, remaining)
            case _Recorded(result):
                record(result)
                del child.under_way[result.name]
            case _Failed(error):
                raise error
            case _Ended(outcome):
                child.has_ended = True
                self._sum_up(outcome)
            case None:
                yield from self._lose(child)
            case _Told(events):
                yield from filter(self._is_new, events)

    def _sum_up(self, outcome: Outcome) -> None:
        self._halved |= {size: min(number, self._halved.get(size, number)) for size, number in outcome.halved.items()}
        self._decoded = beside(self._decoded, outcome.decoded)
        self._num_processes += outcome.num_processes - 1
        self._num_died += outcome.num_died
        self.num_threads += outcome.num_threads

    def _is_new(self, event: Event) -> bool:
        """Tell whether an event was not told already, by a process that has died since; of some kinds alone."""
        if not isinstance(event, Failure | ShardFailed | ImageMeasured):
            return True
        name = event.name if isinstance(event, ShardFailed) else event.key
        is_new = name not in self._told
        self._told.add(name)
        return is_new

    def _deal(self, child: _Child[T, S, R], remaining: Iterator[T]) -> None:
        """Give a process a task, or say that there are no more."""
        child.has_asked = True
        task = self._again.popleft() if self._again else next(remaining, None)
        self._has_more = task is not None
        if task is not None:
            child.under_way[task.name] = task
        sent = None if task is None else self._pack(task, child.known)
        with suppress(OSError):  # one that has died is noticed when it is listened to
            child.connection.send(sent)

    def _lose(self, child: _Child[T, S, R]) -> Iterator[Event]:
        """Let go of a process; of one that died early, have its tasks done once more, by one in its place."""
        self._children.remove(child)
        code = child.close()
        if child.has_ended:
            return
        if child.is_broken or not child.has_asked:
            raise _without_a_task(child, code)
        names = tuple(child.under_way)
        self._num_died += 1
        yield ProcessDied(child.process.pid, child.job.device, _name_of(code), names)
        for name in names:
            self._tries[name] = self._tries.get(name, 1) + 1
            if self._tries[name] > _MOST_TRIES:
                what = f"{child.describe()} was killed too ({_name_of(code)}), perhaps for its memory, at"
                raise KilledProcessError(f"{what} {name}, over which another one died; {_REMEDY}")
        self._again.extend(child.under_way.values())
        if self._again or self._has_more:
            self._children.append(_Child.start(child.job))

    def _speaking(self, children: Sequence[_Child[T, S, R]]) -> list[_Child[T, S, R]]:
        """Return the processes that have something to say, soon. Raises `StoppedError` on a signal."""
        look()
        ready = wait([child.connection for child in children], LOOK_S)
        return [child for child in children if child.connection in ready]

    def _wind_up(self, record: Callable[[R], object]) -> None:
        """Have all processes end, and record what they have done by then."""
        children, self._children = self._children, []
        with ExitStack() as ending:
            for child in children:
                ending.callback(child.close)
                child.process.terminate()
            for message in chain.from_iterable(iter(child.receive_last, None) for child in children):
                if isinstance(message, _Recorded):
                    record(message.result)


def as_it_is(task: T, _: set[int]) -> T:
    """Pack a task that is sent just so; for a `Fleet`."""
    return task


def _forget(_: object) -> None:
    """Record nothing: no task was dealt."""


def _without_a_task(child: _Child[Any, Any, Any], code: int) -> RuntimeError | KilledProcessError:
    """Return the error of a process that ended for no reason of a task: a mistake of ours, or it was killed."""
    if child.is_broken:
        return RuntimeError(f"{child.describe()} failed; its traceback is above")
    return KilledProcessError(f"{child.describe()} was killed ({_name_of(code)}) before it had begun; {_REMEDY}")


def _name_of(code: int) -> str:
    """Return the name of the signal that ended a process."""
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"


# --- In such a process ---


class _Outgoing:
    """Messages of a process; any of its threads may."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, Lock()
        self._has_begun = False
        self._events: list[Event] = []
        self._told_at = time.monotonic()

    def begin(self, note: str) -> None:
        """Say that all is there for the first task."""
        self.send(_Ready(note))
        self._has_begun = True

    def stop(self) -> None:
        """End as soon as what is nearly done is recorded: at once where nothing has begun."""
        if not self._has_begun:
            os._exit(0)
        ask(signal.SIGTERM)

    def send(self, message: object) -> None:
        """Say something, and first what is to be told still."""
        with self._lock:
            self._tell_all()
            self._connection.send(message)

    def tell(self, event: Event) -> None:
        """Have an event told soon: with the next message, or the first event after a while."""
        with self._lock:
            self._events.append(event)
            if time.monotonic() - self._told_at > _TELLING_S:
                self._tell_all()

    def _tell_all(self) -> None:
        if self._events:
            self._connection.send(_Told(self._events))
        self._events, self._told_at = [], time.monotonic()

    def record(self, result: object) -> None:
        """Say what came of a task."""
        self.send(_Recorded(result))

    def tasks(self) -> Iterator[Any]:
        """Yield tasks, each asked for when it is needed. Raises `StoppedError`."""
        while True:
            self.send(_Asking())
            while not self._connection.poll(LOOK_S):
                look()
            task = self._connection.recv()
            if task is None:
                return
            yield task


def _work(connection: Connection, job: Job[Any, Any]) -> None:
    """Do a job, until there are no more tasks or the process that has them says so."""
    outgoing = _Outgoing(connection)
    heed_parent(outgoing.stop)
    keep_freed_blocks()
    try:
        with job.begin() as worker:
            gc.freeze()  # what is loaded stays, and is large
            outgoing.begin(worker.note)
            with closing(worker.run(outgoing.tasks(), outgoing.record)) as events:
                deque(map(outgoing.tell, events), maxlen=0)
            outgoing.send(_Ended(worker.outcome()))
    except SemdisError as error:
        outgoing.send(_Failed(error))
    except (StoppedError, BrokenPipeError, EOFError):  # nobody listens any more
        pass
    except Exception:
        outgoing.send(_Broken())
        raise
