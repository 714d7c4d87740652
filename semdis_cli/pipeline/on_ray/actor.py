"""Actors of a Ray cluster: each holds what a process of a fleet holds, and does a task at a time of those it is given.

Two tasks are under way in an actor, so that one is read while the other is written. A task tells of itself as it goes.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple, Protocol, TypeVar

import semdis_cli
from semdis_cli.errors import SemdisError, UsageError
from semdis_cli.events import Event
from semdis_cli.memory import keep_freed_blocks
from semdis_cli.pipeline.fleet.fleet import Job, Named, Outcome, Worker
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.on_ray.resources import actors_on, nodes
from semdis_cli.pipeline.report import compute_record
from semdis_cli.stops import StoppedError, ask

_S = TypeVar("_S")
_R = TypeVar("_R", bound=Named)
TASKS_UNDER_WAY = 2  # in an actor
CALLS_AT_ONCE = TASKS_UNDER_WAY + 1  # and one that asks it something
_TELL_S = 0.5  # between two times that a task tells of itself
_SEEN_S = 5.0  # in which a file that one node has written is there for the others


class SharedJob(Job[_S, _R], Protocol[_S, _R]):
    """Job that can be had by a machine that has not planned it."""

    def fitted(self, num_workers: int, num_processes: int) -> "SharedJob[_S, _R]":
        """Return the job for a process with so many threads, one of so many on its machine."""

    def trouble(self, task: _S) -> str | None:
        """Return why nothing of a task can be read in this process; None if something can."""


class Where(NamedTuple):
    """The process of an actor: the address of its node, and what is installed there."""

    node: str
    pid: int
    semdis: str


class Told(NamedTuple):
    """News of a task: events; in the end its `result`, or the `error` that nothing will come of it for."""

    events: list[Event]
    result: Any = None
    error: SemdisError | None = None


class Begun(NamedTuple):
    """An actor that is ready, or the `error` for which it never will be. `note`: as of a worker."""

    note: str = ""
    error: SemdisError | None = None


class Recorded(NamedTuple):
    """Record of a node that computes with a model, or the `error` for which it does not."""

    node: str
    record: Mapping[str, Any]
    error: SemdisError | None = None


class Token(NamedTuple):
    """A file in the folder of the run, and its content: a node that sees both sees the same folder."""

    path: Path
    content: bytes

    def is_seen(self) -> bool:
        """Tell whether it is there, where this is asked."""
        try:
            return self.path.read_bytes() == self.content
        except OSError:
            return False


@dataclass(frozen=True)
class Setting:
    """Needs of an actor beside the job: its threads, and what must be seen where it is.

    `cwd`: where relative paths begin. `per_actor`: the resources that Ray keeps for it, by name.
    """

    num_threads: int
    cwd: str
    token: Token
    per_actor: Mapping[str, float]


class RayActor:
    """An actor. Nothing it has to be made with: what is wrong is told by its methods, in a line."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._worker: Worker[Any, Any] | None = None

    def where(self) -> Where:
        """Tell where it is; values of Python's own alone, whatever is installed here."""
        return Where(_address(), os.getpid(), semdis_cli.__version__)

    def record(self, model: ModelCopy, cwd: str) -> Recorded:
        """Tell how a model computes here."""
        try:
            _go_to(cwd)
            return Recorded(_address(), compute_record(model.load()))
        except SemdisError as error:
            return Recorded(_address(), {}, error)

    def begin(self, job: SharedJob[Any, Any], setting: Setting, task: Any) -> Begun:
        """Load the model and begin the threads; look for the sources of `task`."""
        keep_freed_blocks()
        try:
            _look_around(setting)
            if (trouble := job.trouble(task)) is not None:
                raise UsageError(f"does not see the sources ({trouble}); they must be there on every node")
            own = _fitted(job, setting)
            self._worker = self._held.enter_context(own.begin())
        except SemdisError as error:
            return Begun(error=error)
        return Begun(self._worker.note)

    def do(self, task: Any) -> Iterator[Told]:
        """Do a task; the last that it tells has the result, if there is one."""
        assert self._worker is not None, "tasks are for actors that have begun"
        results: list[Any] = []
        try:
            with closing(self._worker.run([task], results.append)) as events:
                for batch in _in_batches(
                    events
                ):  # no `yield from`: Ray sends values that a plain iterator does not take
                    yield Told(batch)
        except SemdisError as error:
            yield Told([], error=error)
        except StoppedError:
            pass
        if results:
            yield Told([], results[0])

    def outcome(self) -> Outcome | None:
        """Return what there is to say of it; None before it has begun."""
        return None if self._worker is None else self._worker.outcome()

    def stop(self) -> None:
        """Let tasks end as soon as what is nearly done is on disk."""
        ask(SIGTERM)


def _address() -> str:
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call,unused-ignore]
    return address


def _look_around(setting: Setting) -> None:
    """Go where relative paths begin. Raises `UsageError` if this is not there, or the folder is another one here."""
    _go_to(setting.cwd)
    deadline = time.monotonic() + _SEEN_S
    while not setting.token.is_seen():
        if time.monotonic() > deadline:
            what = f"does not see the folder {setting.token.path.parent}: all nodes need the same, as on NFS"
            raise UsageError(what)
        time.sleep(0.1)


def _go_to(cwd: str) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        what = f"has no folder {cwd} ({error.strerror}): start the command in one that all nodes have"
        raise UsageError(what) from error


def _fitted(job: SharedJob[Any, Any], setting: Setting) -> SharedJob[Any, Any]:
    """Return the job with the threads of this actor, and its part of the memory of its node."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    num_actors = max(1, actors_on(nodes()[own], setting.per_actor))
    return job.fitted(setting.num_threads, num_actors)


def _in_batches(events: Iterator[Event]) -> Iterator[list[Event]]:
    """Yield events as they come, those of half a second at a time."""
    batch: list[Event] = []
    told = time.monotonic()
    for event in events:
        batch.append(event)
        if time.monotonic() - told > _TELL_S:
            yield batch
            batch, told = [], time.monotonic()
    yield batch
