"""Threads that read, compute and write at once: what goes first, what order comes out, and how a run ends."""

import ctypes
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.pipeline import overlap
from semdis_cli.pipeline.overlap import Urgency, WorkerDiedError, Workers, WorkPool, in_order, one_ahead, timed

GIB = 2**30
_LONG_S = 20.0  # nobody waits so long unless something hangs


@pytest.fixture
def pool() -> Iterator[WorkPool]:
    with WorkPool(2) as pool:
        yield pool


def test_results_and_errors_come_back_to_whoever_asked(pool: WorkPool) -> None:
    assert pool.submit(Urgency.READ, divmod, 7, 2).result(_LONG_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(Urgency.READ, divmod, 7, 0).result(_LONG_S)
    assert pool.submit(Urgency.MODEL, len, "still there").result(_LONG_S) == 11


def test_the_most_urgent_task_goes_first_and_of_equal_ones_the_oldest() -> None:
    order: list[str] = []
    gate = threading.Event()
    with WorkPool(1) as pool:
        blocked = pool.submit(Urgency.READ_SHARD, gate.wait, _LONG_S)
        tasks = [
            pool.submit(urgency, order.append, f"{urgency.name}{number}")
            for number in range(2)
            for urgency in (Urgency.READ, Urgency.MODEL, Urgency.WRITE, Urgency.READ_SHARD)
        ]
        gate.set()
        assert blocked.result(_LONG_S)
        for task in tasks:
            task.result(_LONG_S)
    names = ("READ_SHARD", "WRITE", "MODEL", "READ")
    assert order == [f"{name}{number}" for name in names for number in range(2)]


def test_as_many_tasks_run_at_once_as_there_are_threads() -> None:
    meeting = threading.Barrier(3)
    with WorkPool(3) as pool:
        tasks = [pool.submit(Urgency.READ, meeting.wait, _LONG_S) for _ in range(3)]
        assert sorted(task.result(_LONG_S) for task in tasks) == [0, 1, 2]


def test_torch_uses_one_thread_in_each() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # what new threads would have
    try:
        with WorkPool(2) as pool:
            tasks = [pool.submit(Urgency.MODEL, torch.get_num_threads) for _ in range(8)]
            assert {task.result(_LONG_S) for task in tasks} == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_waiting_for_nothing_is_a_mistake() -> None:
    with Workers(1) as workers, pytest.raises(AssertionError, match="wait for"):
        workers.submit_after([], Urgency.MODEL, len)


def test_leaving_drops_what_has_not_begun_and_waits_for_what_has() -> None:
    begun, gate = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        gate.wait(_LONG_S)
        return "done"

    with WorkPool(1) as pool:
        running = pool.submit(Urgency.READ, work)
        waiting = pool.submit(Urgency.READ, work)
        begun.wait(_LONG_S)
        threading.Timer(0.1, gate.set).start()
    assert running.result(0) == "done"
    assert waiting.cancelled()
    assert pool.submit(Urgency.READ, work).cancelled()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_nothing_that_a_task_raises_ends_its_thread(pool: WorkPool, error: BaseException) -> None:
    def work() -> None:
        raise error

    for _ in range(4):
        with pytest.raises(type(error)):
            pool.submit(Urgency.READ, work).result(_LONG_S)
    assert pool.submit(Urgency.READ, len, "abc").result(_LONG_S) == 3


def test_a_thread_that_is_killed_at_its_work_ends_the_task_with_that_error(pool: WorkPool) -> None:
    idents: list[int] = []

    def work() -> None:
        idents.append(threading.get_ident())
        deadline = time.monotonic() + _LONG_S
        while time.monotonic() < deadline:
            time.sleep(0.001)

    task = pool.submit(Urgency.READ, work)
    while not idents:
        time.sleep(0.001)
    kill(idents[0], SystemExit)
    with pytest.raises(SystemExit):
        task.result(_LONG_S)


def test_a_thread_that_is_killed_between_tasks_fails_all_that_are_left_instead_of_hanging() -> None:
    with WorkPool(1) as pool:
        ident = pool.submit(Urgency.READ, threading.get_ident).result(_LONG_S)
        kill(ident, SystemExit)  # it takes effect once the thread runs Python again: with the next task
        tasks = [pool.submit(Urgency.READ, time.sleep, 0.001) for _ in range(2)]
        assert any(isinstance(task.exception(_LONG_S), SystemExit | WorkerDiedError) for task in tasks)
        while any(thread.name.startswith("semdis-work") for thread in threading.enumerate()):
            time.sleep(0.001)
        with pytest.raises(WorkerDiedError, match="SystemExit"):
            pool.submit(Urgency.READ, len, "abc")


def kill(ident: int, error: type[BaseException]) -> None:
    """Raise `error` in another thread, wherever it is."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error)) == 1


def test_a_task_after_others_gets_their_results_in_order() -> None:
    with Workers(2) as workers:
        reads = [workers.submit(Urgency.READ, slow_double, number) for number in range(7)]
        total = workers.submit_after(reads, Urgency.MODEL, list[int])
        assert total.result(_LONG_S) == [0, 2, 4, 6, 8, 10, 12]
        assert workers.submit_disk_after(total, sum).result(_LONG_S) == 42


def slow_double(number: int) -> int:
    time.sleep(0.002 * (7 - number))
    return 2 * number


def test_a_task_after_others_fails_with_the_error_of_the_one_that_failed() -> None:
    with Workers(2) as workers:
        reads = [workers.submit(Urgency.READ, divmod, 7, number) for number in (1, 0, 2)]
        total = workers.submit_after(reads, Urgency.MODEL, list[tuple[int, int]])
        with pytest.raises(ZeroDivisionError):
            total.result(_LONG_S)
        with pytest.raises(ZeroDivisionError):
            workers.submit_disk_after(total, len).result(_LONG_S)


def test_what_waits_for_tasks_that_were_dropped_does_not_wait_for_ever() -> None:
    gate, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(_LONG_S)

    with Workers(1) as workers:
        running = workers.submit(Urgency.READ, work)
        waiting = workers.submit(Urgency.READ, work)
        after = workers.submit_after([running, waiting], Urgency.MODEL, len)
        begun.wait(_LONG_S)
        threading.Timer(0.05, gate.set).start()
    with pytest.raises(CancelledError):
        after.result(_LONG_S)


def test_model_calls_have_threads_of_their_own_where_that_is_asked_for() -> None:
    with Workers(2, num_model_threads=1, shares_cores=False) as workers:
        names = {urgency: workers.submit(urgency, threading.current_thread).result(_LONG_S).name for urgency in Urgency}
        assert names[Urgency.MODEL] == "semdis-model-0"
        assert {name[:-1] for urgency, name in names.items() if urgency is not Urgency.MODEL} == {"semdis-work-"}
        assert (workers.num_threads, workers.num_model_threads) == (2, 1)
        assert workers.elapsed_s(8.0, 3.0) == 4.0  # the model runs beside the rest
        assert workers.elapsed_s(4.0, 3.0) == 3.0
    assert Workers(2).elapsed_s(8.0, 3.0) == 5.5
    assert Workers(4, num_model_threads=2).elapsed_s(8.0, 3.0) == 3.5  # calls of two threads, on the same cores


def test_a_call_takes_room_by_its_number_and_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "available_memory", lambda: 64 * GIB)
    workers = Workers(4)
    by_number = 1 / (3 * 4 + 16)
    assert workers.share_of_room(1, 0, 0) == by_number
    assert workers.share_of_room(64, 0, 0) == 1 / (3 * 4 + 1)
    assert workers.share_of_room(1, 4 * GIB, 0) == 1 / 4  # of a quarter of the memory
    assert workers.share_of_room(1, 0, 8 * GIB) == by_number  # half of it is enough for all four threads
    assert workers.share_of_room(1, 0, 16 * GIB) == 1 / 2  # and now for two of them


@given(delays=st.lists(st.integers(0, 3), max_size=20), share=st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0, 7.0]))
@settings(max_examples=30, deadline=None)
def test_results_come_in_order_and_no_more_are_under_way_than_there_is_room_for(
    delays: list[int], share: float
) -> None:
    under_way: set[int] = set()
    most = 0

    def start(item: tuple[int, int]) -> "Future[int]":
        nonlocal most
        under_way.add(item[0])
        most = max(most, len(under_way))
        return pool.submit(Urgency.READ, work, item)

    def work(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 1000)
        return item[0]

    with WorkPool(3) as pool:
        results = []
        for result in in_order(enumerate(delays), start, lambda _: share):
            under_way.discard(result)
            results.append(result)
    assert results == list(range(len(delays)))
    assert most <= (len(delays) if share == 0 else max(1, round(1 / share)))


def test_what_is_done_is_handed_on_before_more_is_asked_for(pool: WorkPool) -> None:
    """So that results do not lie about while a slow pipe is waited for."""
    done = pool.submit(Urgency.READ, len, "ab")
    done.result(_LONG_S)
    seen: list[str] = []

    def items() -> Iterator[int]:
        for number in range(3):
            seen.append(f"asked for {number}")
            yield number

    seen.extend("got one" for _ in in_order(items(), lambda _: done, lambda _: 0.01))
    assert seen == ["asked for 0", "got one", "asked for 1", "got one", "asked for 2", "got one"]


class Big:
    """What takes much memory."""


def test_results_that_were_handed_on_are_let_go_without_a_collector_of_cycles() -> None:
    alive: list[weakref.ref[Big]] = []

    def read() -> Big:
        one = Big()
        alive.append(weakref.ref(one))
        return one

    gc.collect()
    gc.disable()
    try:
        with Workers(2) as workers:

            def start(_: int) -> "Future[int]":
                reads = [workers.submit(Urgency.READ, read) for _ in range(2)]
                return workers.submit_after(reads, Urgency.MODEL, len)

            assert list(in_order(range(50), start, lambda _: 0.25)) == [2] * 50
            deadline = time.monotonic() + _LONG_S
            while any(one() is not None for one in alive) and time.monotonic() < deadline:
                time.sleep(0.001)  # the last thread may be at its last steps
            assert len(alive) == 100
            assert not any(one() is not None for one in alive)
    finally:
        gc.enable()


def test_one_more_than_is_handed_out_has_been_started_and_none_is_kept() -> None:
    started: list[weakref.ref[Big]] = []

    def start(_: int) -> "Future[Big]":
        future: Future[Big] = Future()
        future.set_result(Big())
        started.append(weakref.ref(future.result()))
        return future

    seen = []
    for big in one_ahead(map(start, range(4))):
        seen.append((len(started), sum(one() is not None for one in started)))
        del big
    assert seen == [(2, 2), (3, 2), (4, 2), (4, 1)]
    assert list(one_ahead(iter([]))) == []


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Workers(2, num_model_threads=1) as workers:
            workers.submit(Urgency.READ, len, "abc").result(_LONG_S)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result(_LONG_S) == 2
    finally:
        torch.set_num_threads(before)


def test_a_signal_while_a_pool_is_left_does_not_end_the_program_before_its_threads() -> None:
    source = """
import sys, time
from semdis_cli.pipeline.overlap import Urgency, WorkPool
def work():
    print("begun", flush=True)
    sys.stdin.readline()
    print("done", flush=True)
with WorkPool(1) as pool:
    future = pool.submit(Urgency.MODEL, work)
    while not future.running():
        time.sleep(0.01)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)  # it is leaving the pool by now
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for its thread
    output, _ = process.communicate("go on\n", timeout=_LONG_S)
    assert output == "done\n"
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("ending", ["", "raise SystemError('ours')"])
def test_a_program_that_leaves_a_run_in_the_middle_ends_like_any_other(ending: str) -> None:
    source = f"""
import torch
from semdis_cli.pipeline.overlap import Urgency, WorkPool
def run():
    with WorkPool(2) as pool:
        for _ in range(1000):
            pool.submit(Urgency.MODEL, lambda: torch.randn(600, 600) @ torch.randn(600, 600))
        yield 1
        yield 2
events = run()
next(events)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if ending else 0), done.stderr
    assert ("SystemError: ours" in done.stderr) == bool(ending)


def test_an_error_comes_in_its_turn(pool: WorkPool) -> None:
    results = in_order([2, 1, 0], lambda number: pool.submit(Urgency.READ, divmod, 4, number), lambda _: 0.1)
    assert [next(results), next(results)] == [(2, 0), (4, 0)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_timed_call_says_how_long_it_took() -> None:
    value, seconds = timed(slow_double, 2)
    assert value == 4
    assert 0.005 < seconds < _LONG_S
