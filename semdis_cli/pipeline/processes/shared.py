"""Processes beside an accelerator: what they read or write lies in memory that all share, and no lock holds them up.

Threads would share one interpreter, whose lock is what a fast device waits for. The memory is no file: how large
/dev/shm is does not matter.
"""

import mmap
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from math import prod
from multiprocessing import reduction
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch

from semdis_cli.errors import KilledProcessError
from semdis_cli.memory import available_memory, keep_freed_blocks
from semdis_cli.pipeline.processes.fork_server import fork_server

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
_SPARE_SLOTS = 2  # beside two for each process: one that it works on, one that waits
_SHARE_OF_MEMORY = 16  # that all slots together may take
_LEAST_IMAGES = 256  # below, the processes take longer to start than to work
_KILLED = (
    "a process that reads or writes images was killed, perhaps for its memory; what is done is kept: run the same "
    "command again, with fewer --workers"
)


def pays(num_images: int, *, is_on_cpu: bool) -> bool:
    """Tell whether processes are to have so many images: not on the cores that the model computes on."""
    return not is_on_cpu and num_images >= _LEAST_IMAGES and sys.platform == "linux"


@contextmanager
def or_threads(threads: S, begin: Callable[[], AbstractContextManager[S]], done: str) -> Iterator[tuple[S, str]]:
    """Give what processes do that `begin` begins, else `threads`; also a note where there are none to be had.

    `done`: to images, "read" or "written".
    """
    with ExitStack() as stack:
        try:
            given, note = stack.enter_context(begin()), ""
        except (EOFError, OSError) as error:  # the former comes from the fork server
            reason = getattr(error, "strerror", None) or str(error) or "no process could be begun"
            given, note = threads, f"images are {done} by threads, not by processes ({reason})"
        yield given, note


def _most_bytes() -> int:
    """Return the bytes that all slots may take."""
    return available_memory() // _SHARE_OF_MEMORY


def _settle(outcome: "Future[R]", done: "Future[R]") -> None:
    """Give a task's future what came of it, unless it is known already that its process has died."""
    with suppress(InvalidStateError):
        if done.cancelled():
            outcome.cancel()
        elif (error := done.exception()) is not None:
            outcome.set_exception(_explained(error))
        else:
            outcome.set_result(done.result())


def _explained(error: BaseException) -> BaseException:
    """Return an error, but what it means where a pool says that a process has died."""
    return KilledProcessError(_KILLED) if isinstance(error, BrokenProcessPool) else error


class SharedMemory:
    """Memory of `num_slots` slots, for this process and those to which it is sent when they start.

    Raises `OSError` where there is not as much, or the system has no such memory.
    """

    def __init__(self, num_slots: int, slot_bytes: int) -> None:
        self.num_slots, self.slot_bytes = num_slots, slot_bytes
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memory without a name")
        self._descriptor = os.memfd_create("semdis")
        try:
            os.posix_fallocate(self._descriptor, 0, num_slots * slot_bytes)  # now: later, who touches it is killed
            self._map()
        except OSError:
            os.close(self._descriptor)
            raise

    def _map(self) -> None:
        self._mapped = mmap.mmap(self._descriptor, self.num_slots * self.slot_bytes)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process gets when it is started; at other times it cannot be sent."""
        shared = reduction.DupFd(self._descriptor)
        return {"num_slots": self.num_slots, "slot_bytes": self.slot_bytes, "descriptor": shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.num_slots, self.slot_bytes = state["num_slots"], state["slot_bytes"]
        self._descriptor = state["descriptor"].detach()
        self._map()

    def rows(self, slot: int, bucket: tuple[int, int]) -> np.ndarray:
        """Return a slot as pixels, uint8 [N,H,W,3] with as many images of size `bucket` (H, W) as go in."""
        shape = *bucket, 3
        num_rows = self.slot_bytes // prod(shape)
        return self.flat(slot)[: num_rows * prod(shape)].reshape(num_rows, *shape)

    def flat(self, slot: int) -> np.ndarray:
        """Return a slot as bytes, uint8."""
        return np.frombuffer(self._mapped, np.uint8, self.slot_bytes, slot * self.slot_bytes)

    def close(self) -> None:
        """Let go of it; what is mapped stays until nobody has a view of it."""
        os.close(self._descriptor)


class Processes(Generic[T, R]):
    """Processes that each do what `prepare`, which is sent to them, makes of their memory; use as a context manager.

    `call_bytes`: of the pixels of a model call, the room of a slot if all of them leave so much; `num_sharing`: as many
    as feed a device on this machine. Raises `OSError` where there is no memory or no process to be had.
    """

    def __init__(
        self,
        num_processes: int,
        call_bytes: int,
        prepare: Callable[[SharedMemory], Callable[[T], R]],
        num_sharing: int = 1,
    ) -> None:
        self.num_slots = 2 * num_processes + _SPARE_SLOTS
        self.memory = SharedMemory(self.num_slots, min(call_bytes, _most_bytes() // num_sharing // self.num_slots))
        self._under_way: set[Future[R]] = set()
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(self.num_slots):
            self._free.put(slot)
        try:
            self._pool = ProcessPoolExecutor(num_processes, fork_server(), _begin, (self.memory, prepare))
        except OSError:
            self.memory.close()
            raise

    def __enter__(self) -> Self:
        try:
            for _ in range(self.num_slots):
                self._pool.submit(_nothing)  # so that all of them start now
        except (EOFError, OSError):
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.memory.close()

    def take_slot(self) -> int:
        """Return a slot that nobody has, as soon as there is one."""
        return self._free.get()

    def free_slot(self, slot: int) -> None:
        """Give a slot back."""
        self._free.put(slot)

    def submit(self, task: T) -> "Future[R]":
        """Have a process carry out a task. Its outcome is `KilledProcessError` where one has died."""
        outcome: Future[R] = Future()
        self._under_way.add(outcome)
        outcome.add_done_callback(self._under_way.discard)
        try:
            self._pool.submit(_work, task).add_done_callback(partial(_settle, outcome))
        except BrokenProcessPool as error:
            outcome.set_exception(_explained(error))
        if self._pool._broken:  # noqa: SLF001 (Python 3.11 forgets a task that is handed over while it finds out)
            self._give_up()
        return outcome

    def _give_up(self) -> None:
        for outcome in tuple(self._under_way):
            with suppress(InvalidStateError):
                outcome.set_exception(KilledProcessError(_KILLED))


# --- In such a process ---


class _Process:
    """State of a process: what it does."""

    work: Callable[[Any], Any]


def _begin(memory: SharedMemory, prepare: Callable[[SharedMemory], Callable[[Any], Any]]) -> None:
    """Prepare a process that ends when the one that started it ends or says so."""
    heed_parent(_end)
    keep_freed_blocks()
    torch.set_num_threads(1)
    _Process.work = prepare(memory)


def heed_parent(obey: Callable[[], object]) -> None:
    """Have this process end with the one that started it, and `obey` called when that one sends SIGTERM.

    It hears of no other signal: batch systems and terminals send theirs to all processes; what is to be done still is
    known by one alone.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in the threads that are begun here, too
    for wait, then in ((_wait_for_end_of_parent, _end), (_wait_for_word_of_parent, obey)):
        threading.Thread(target=_do_after, args=(wait, then), daemon=True).start()


def _do_after(wait: Callable[[], None], then: Callable[[], object]) -> None:
    wait()
    then()


def _end() -> None:
    os._exit(1)


def _wait_for_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "it was started by another process"
    parent.join()


def _wait_for_word_of_parent() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass


def _work(task: Any) -> Any:
    return _Process.work(task)


def _nothing() -> None:
    """Do nothing: a process starts for it."""
