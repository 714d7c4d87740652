"""Reading, computing and writing at once: tasks for a few threads, the most urgent first, with bounded queues.

On a CPU all work of a run is tasks of one pool with a thread for each core. Whatever is ready runs, so no core waits
while there is anything to do, and no two threads ever want the same core. Beside an accelerator, the model has threads
of its own.
"""

import atexit
import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from enum import IntEnum
from itertools import count
from typing import Any, Generic, NamedTuple, Self, TypeVar

import torch

from semdis_cli.memory import available_memory, room_for_images
from semdis_cli.stops import wait_for

T = TypeVar("T")
R = TypeVar("R")
_DISK_THREADS = 4  # they wait for the disk, not for a core
_LEAST_MEMORY = 256 << 20  # bytes; with less, one call at a time is tried
_ROUNDING = 1e-9


class Urgency(IntEnum):
    """Which task goes first: one that many others wait for, then the one whose result frees most memory."""

    READ_SHARD = 0
    WRITE = 1
    MODEL = 2
    READ = 3


class Timed(NamedTuple, Generic[T]):
    """What a task gave, and the seconds that it took."""

    value: T
    seconds: float


def timed(function: Callable[..., T], *args: Any) -> Timed[T]:
    """Call `function`, and time it."""
    started = time.perf_counter()
    value = function(*args)
    return Timed(value, time.perf_counter() - started)


class WorkerDiedError(RuntimeError):
    """A thread of a pool ended while there was work for it."""


class WorkPool:
    """`num_threads` threads that take the most urgent task, and of equally urgent ones the oldest.

    Torch computes with one thread in each, unless a task asks for more. Use as a context manager: leaving it drops what
    has not begun, and waits for what has. What a task raises is in its future; if a thread dies, all tasks that are
    left fail.
    """

    def __init__(self, num_threads: int, name: str = "semdis-work") -> None:
        self.num_threads = num_threads
        self._tasks: list[tuple[int, int, Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self._numbers = count()
        # A lock of its own for `with`: that of a condition is Python code, in which a signal could leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_closed = False
        self._death: BaseException | None = None
        self._num_at_work = num_threads
        self._have_ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(num_threads)
        ]

    def __enter__(self) -> Self:
        self._torch_threads = torch.get_num_threads()
        for thread in self._threads:
            thread.start()
        atexit.register(self.__exit__)  # a run that nobody finished: threads must not be in C++ code when Python ends
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
            dropped, self._tasks = self._tasks, []
            self._changed.notify_all()
        for task in dropped:
            task[2].cancel()
        self._have_ended.wait()  # a join that a signal ends takes its thread for ended from then on (Python 3.11)
        for thread in self._threads:
            thread.join()
        torch.set_num_threads(self._torch_threads)  # what a thread sets is also what new ones get
        atexit.unregister(self.__exit__)  # last: a signal may end the waiting above

    def submit(self, urgency: Urgency, function: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `function(*args)` called in one of the threads, soon. Raises `WorkerDiedError` if one of them is dead.

        In a pool that is closed already, the task is cancelled: nobody waits for it any more.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._death is not None:
                raise WorkerDiedError(f"a thread of the pool died ({self._death!r})") from self._death
            if self._is_closed:
                future.cancel()
                return future
            heapq.heappush(self._tasks, (urgency, next(self._numbers), future, function, args))
            self._changed.notify()
        return future

    def _work(self) -> None:
        torch.set_num_threads(1)
        taken: deque[Future[Any]] = deque(maxlen=1)
        try:
            while self._work_once(taken):
                pass
        except BaseException as error:  # noqa: BLE001 (nobody else would hear of it, and all would wait)
            self._die(error, taken)
        finally:
            with self._lock:
                self._num_at_work -= 1
                if not self._num_at_work:
                    self._have_ended.set()

    def _work_once(self, taken: "deque[Future[Any]]") -> bool:
        """Wait for a task, note its future in `taken` while it runs; False if the pool is closed."""
        with self._lock:
            while not self._tasks and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return False
            taken.append(self._tasks[0][2])
            _, _, future, function, args = heapq.heappop(self._tasks)
        if future.set_running_or_notify_cancel():
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 (whoever waits for the result gets it, whatever it is)
                future.set_exception(error)
            else:
                future.set_result(result)
        taken.clear()  # a thread that waits must not hold on to a result
        return True

    def _die(self, error: BaseException, taken: "deque[Future[Any]]") -> None:
        with self._lock:
            self._death = error
            left, self._tasks = self._tasks, []
            self._changed.notify_all()
        for future in (*taken, *(task[2] for task in left)):
            if not future.done():
                future.set_exception(WorkerDiedError(f"a thread of the pool died ({error!r})"))


class Workers:
    """All threads of a run: `num_threads` for CPU work, a few that wait for the disk, and where needed for the model.

    Use as a context manager. `num_model_threads`: threads for model calls alone, each a call at a time, beside the
    others; None: a call takes one of those. `shares_cores`: whether the model computes on the same cores.
    """

    def __init__(self, num_threads: int, num_model_threads: int | None = None, *, shares_cores: bool = True) -> None:
        self._shares_cores = shares_cores
        self._pool = WorkPool(num_threads)
        self._model_pool = self._pool if num_model_threads is None else WorkPool(num_model_threads, "semdis-model")
        # No executor of the standard library's: a signal while it starts a thread makes it forget that thread.
        self._disk = WorkPool(_DISK_THREADS, "semdis-disk")
        self._memory = max(available_memory(), _LEAST_MEMORY)
        self.room = room_for_images()

    def __enter__(self) -> Self:
        for pool in self._pools:
            pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        with ExitStack() as steps:  # whatever happens in one, the next is left too: nothing may be written after this
            for pool in self._pools:
                steps.push(pool)

    @property
    def _pools(self) -> list[WorkPool]:
        """In the order in which they are entered; what hands work on is left before what it hands it to."""
        own = [] if self._model_pool is self._pool else [self._model_pool]
        return [self._disk, self._pool, *own]

    @property
    def num_threads(self) -> int:
        """Threads for CPU work."""
        return self._pool.num_threads

    @property
    def num_disk_threads(self) -> int:
        """Tasks that can wait for the disk at once."""
        return _DISK_THREADS

    @property
    def num_model_threads(self) -> int:
        """Model calls that can run at once."""
        return self._model_pool.num_threads

    def elapsed_s(self, cpu_s: float, model_s: float) -> float:
        """Seconds that so many seconds of CPU work and of model calls take at least, all threads together."""
        both = cpu_s / self.num_threads, model_s / self.num_model_threads
        return sum(both) if self._shares_cores else max(both)

    def share_of_room(self, num_images: int, held_bytes: int, running_bytes: int) -> float:
        """What a model call of that many images takes of the room for calls under way: by memory, and by number.

        It holds `held_bytes` from its reading to the end of its turn, `running_bytes` only while the model runs. A
        quarter of the memory that was available is for the ones, half of it for the others: as long as all threads
        that run the model can have theirs, these do not count. No more images are under way than keep all threads busy.
        """
        num_calls = 3 * self.num_model_threads + -(-4 * self.num_threads // num_images)
        shares = [1 / num_calls, held_bytes / (self._memory / 4)]
        if self.num_model_threads * running_bytes > self._memory / 2:
            shares.append(running_bytes / (self._memory / 2))
        return max(shares)

    def submit(self, urgency: Urgency, function: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `function(*args)` called soon, in a thread that is meant for such tasks."""
        pool = self._model_pool if urgency is Urgency.MODEL else self._pool
        return pool.submit(urgency, function, *args)

    def submit_disk(self, function: Callable[..., T], *args: Any) -> "Future[T]":
        """Have `function(*args)`, which mostly waits for the disk, called beside the others."""
        return self._disk.submit(Urgency.WRITE, function, *args)

    def submit_disk_after(self, future: "Future[T]", function: Callable[[T], R]) -> "Future[R]":
        """Have `function` called with the result of `future` as by `submit_disk`; if that fails, so does this."""
        outcome: Future[R] = Future()
        future.add_done_callback(lambda done: _hand_on(outcome, lambda: self.submit_disk(function, done.result())))
        return outcome

    def submit_after(
        self, futures: "Sequence[Future[T]]", urgency: Urgency, function: Callable[[list[T]], R]
    ) -> "Future[R]":
        """Have `function` called with the results of `futures`, at least one; if one of them fails, so does this."""
        assert futures, "there must be something to wait for"
        outcome: Future[R] = Future()
        remaining, lock, waited_for = len(futures), threading.Lock(), list(futures)

        def count_down(_: "Future[T]") -> None:
            nonlocal remaining
            with lock:
                remaining -= 1
                if remaining:
                    return
                done = waited_for.copy()
                waited_for.clear()  # a future keeps its callbacks: if they kept it, both would stay, with the result
            _hand_on(outcome, lambda: self.submit(urgency, function, [future.result() for future in done]))

        for future in futures:
            future.add_done_callback(count_down)
        return outcome


def done_already(result: T) -> "Future[T]":
    """A future for what is known without any work."""
    future: Future[T] = Future()
    future.set_result(result)
    return future


def _hand_on(outcome: "Future[R]", start: "Callable[[], Future[R]]") -> None:
    """Let `outcome` become what the future that `start` returns becomes, or the error that it raises."""
    try:
        inner = start()
    except BaseException as error:  # noqa: BLE001 (of the tasks before; it belongs to whoever waits for the outcome)
        outcome.set_exception(error)
        return

    def copy(done: "Future[R]") -> None:
        if done.cancelled():
            outcome.cancel()
        elif (error := done.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(done.result())

    inner.add_done_callback(copy)


def in_order(items: Iterable[T], start: "Callable[[T], Future[R]]", share_of_room: Callable[[T], float]) -> Iterator[R]:
    """`start` every item as early as there is room for it, and yield the results in the order of the items.

    There is room while the shares of what was started, and not yielded yet, add up to at most 1; one item may always be
    under way. Raises what a task raised, when its turn comes.
    """
    pending: deque[tuple[float, Future[R]]] = deque()
    remaining = iter(items)
    while True:
        while pending and pending[0][1].done():  # before more is asked for: that may take its time
            yield pending.popleft()[1].result()
        try:
            item = next(remaining)
        except StopIteration:
            break
        share = share_of_room(item)
        while pending and sum(other for other, _ in pending) + share > 1 + _ROUNDING:
            yield wait_for(pending.popleft()[1])
        pending.append((share, start(item)))
    while pending:
        yield wait_for(pending.popleft()[1])


def one_ahead(started: "Iterator[Future[T]]") -> Iterator[T]:
    """The results of `started`; the next one has been started when one is handed out."""
    ahead = next(started, None)
    while ahead is not None:
        now, ahead = ahead, next(started, None)
        yield wait_for(now)
        del now
