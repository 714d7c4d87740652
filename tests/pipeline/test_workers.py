"""Threads that read, compute and write at once: who does what, what order comes out, and how a run ends."""

import ctypes
import gc
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

from semdis_cli.pipeline import workers as workers_module
from semdis_cli.pipeline.workers import Workers, in_order, read_ahead, timed
from semdis_cli.threads import WorkerDiedError

GIB = 2**30
_LONG_S = 20.0  # nobody waits so long unless something hangs


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def test_results_and_errors_come_back_to_whoever_asked(workers: Workers) -> None:
    assert workers.submit(divmod, 7, 2).result(_LONG_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        workers.submit_model(divmod, 7, 0).result(_LONG_S)
    assert workers.submit_disk(len, "still there").result(_LONG_S) == 11


def test_as_many_tasks_run_at_once_as_there_are_threads() -> None:
    meeting = threading.Barrier(3)
    with Workers(3) as workers:
        tasks = [workers.submit_model(meeting.wait, _LONG_S) for _ in range(3)]
        assert sorted(task.result(_LONG_S) for task in tasks) == [0, 1, 2]


def test_torch_uses_one_thread_in_each() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # what new threads would have
    try:
        with Workers(2) as workers:
            tasks = [workers.submit_model(torch.get_num_threads) for _ in range(8)]
            assert {task.result(_LONG_S) for task in tasks} == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_leaving_drops_what_has_not_begun_and_waits_for_what_has() -> None:
    begun, gate = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        gate.wait(_LONG_S)
        return "done"

    with Workers(1) as workers:
        running = workers.submit(work)
        waiting = workers.submit(work)
        begun.wait(_LONG_S)
        threading.Timer(0.1, gate.set).start()
    assert running.result(0) == "done"
    assert waiting.cancelled()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_nothing_that_a_task_raises_ends_its_thread(workers: Workers, error: BaseException) -> None:
    def work() -> None:
        raise error

    for _ in range(4):
        with pytest.raises(type(error)):
            workers.submit(work).result(_LONG_S)
    assert workers.submit(len, "abc").result(_LONG_S) == 3


def test_a_thread_that_is_killed_between_tasks_fails_what_is_waited_for_instead_of_hanging() -> None:
    with Workers(1) as workers:
        ident = workers.submit(threading.get_ident).result(_LONG_S)
        kill(ident, SystemExit)  # it takes effect once the thread runs Python again: with the next task
        tasks = [workers.submit(time.sleep, 0.001) for _ in range(2)]
        with pytest.raises((SystemExit, WorkerDiedError)):
            list(map(workers.result, tasks))


def kill(ident: int, error: type[BaseException]) -> None:
    """Raise `error` in another thread, wherever it is."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error)) == 1


@pytest.mark.parametrize("num_model_threads", [None, 1])
def test_a_call_gets_what_was_read_in_order_and_fails_if_that_fails(num_model_threads: int | None) -> None:
    with Workers(2, num_model_threads) as workers:
        assert workers.submit_call(slow_double, range(7), list[int]).result(_LONG_S) == [0, 2, 4, 6, 8, 10, 12]
        failing = workers.submit_call(lambda number: 7 // number, [1, 0, 2], list[int])
        with pytest.raises(ZeroDivisionError):
            failing.result(_LONG_S)
        nothing: list[int] = []
        assert workers.submit_call(slow_double, nothing, list[int]).result(_LONG_S) == []


def slow_double(number: int) -> int:
    time.sleep(0.002 * (7 - number))
    return 2 * number


def test_threads_that_are_free_help_a_call_with_its_images_and_each_is_read_once() -> None:
    meeting, threads, read = threading.Barrier(3), set[str](), list[int]()

    def work(number: int) -> int:
        threads.add(threading.current_thread().name)
        read.append(number)
        meeting.wait(_LONG_S)
        return number

    with Workers(3) as workers:
        assert workers.submit_call(work, range(6), list[int]).result(_LONG_S) == list(range(6))
        assert (len(threads), sorted(read)) == (3, list(range(6)))
        made = workers.submit_model(lambda: workers.after_call(work, range(3))).result(_LONG_S)
        assert [one.result(_LONG_S) for one in made] == [0, 1, 2]


def test_a_call_whose_threads_are_all_busy_reads_its_images_itself() -> None:
    gate = threading.Event()
    with Workers(2) as workers:
        busy = workers.submit(gate.wait, _LONG_S)
        names = workers.submit_call(lambda _: threading.current_thread().name, range(5), set).result(_LONG_S)
        assert len(names) == 1
        gate.set()
        assert busy.result(_LONG_S)


def test_a_call_that_waits_for_its_images_does_not_hold_up_the_leaving() -> None:
    begun, gate = threading.Event(), threading.Event()

    def read(_: int) -> None:
        begun.set()
        gate.wait(_LONG_S)

    with Workers(1) as workers:
        running = workers.submit_call(read, range(1), len)
        dropped = workers.submit_call(read, range(1000), len)
        begun.wait(_LONG_S)
        threading.Timer(0.05, gate.set).start()
    for call in (running, dropped):
        with pytest.raises(CancelledError):
            call.result(0)


def test_model_calls_have_threads_of_their_own_where_that_is_asked_for() -> None:
    with Workers(2, num_model_threads=1, shares_cores=False) as workers:
        name = threading.current_thread
        assert workers.submit_model(name).result(_LONG_S).name == "semdis-model_0"
        assert workers.submit(name).result(_LONG_S).name.startswith("semdis-work_")
        made = workers.submit_model(lambda: workers.after_call(lambda _: name().name, [0])).result(_LONG_S)
        assert made[0].result(_LONG_S).startswith("semdis-work_")
        assert (workers.num_threads, workers.num_model_threads) == (2, 1)
        assert workers.elapsed_s(8.0, 3.0) == 4.0  # the model runs beside the rest
        assert workers.elapsed_s(4.0, 3.0) == 3.0
    assert Workers(2).elapsed_s(8.0, 3.0) == 5.5
    assert Workers(4, num_model_threads=2).elapsed_s(8.0, 3.0) == 3.5  # calls of two threads, on the same cores


def test_a_call_takes_room_by_its_number_and_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "available_memory", lambda: 64 * GIB)
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
        return workers.submit(work, item)

    def work(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 1000)
        return item[0]

    with Workers(3) as workers:
        results = []
        for result in in_order(enumerate(delays), start, lambda _: share):
            under_way.discard(result)
            results.append(result)
    assert results == list(range(len(delays)))
    assert most <= (len(delays) if share == 0 else max(1, round(1 / share)))


def test_what_is_done_is_handed_on_before_more_is_asked_for(workers: Workers) -> None:
    """So that results do not lie about while a slow pipe is waited for."""
    done = workers.submit(len, "ab")
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
                return workers.submit_call(lambda _: read(), range(2), len)

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
    for big in read_ahead(map(start, range(4))):
        seen.append((len(started), sum(one() is not None for one in started)))
        del big
    assert seen == [(2, 2), (3, 2), (4, 2), (4, 1)]
    assert list(read_ahead(iter([]))) == []
    del started[:]
    assert [len(started) for _ in read_ahead(map(start, range(5)), num_ahead=3)] == [4, 5, 5, 5, 5]


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Workers(2, num_model_threads=1) as workers:
            workers.submit(len, "abc").result(_LONG_S)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result(_LONG_S) == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("ending", ["", pytest.param("raise SystemError('ours')", marks=pytest.mark.slow)])
def test_a_program_that_leaves_a_run_in_the_middle_ends_like_any_other(ending: str) -> None:
    source = f"""
import torch
from semdis_cli.pipeline.workers import Workers
def run():
    with Workers(2) as workers:
        for _ in range(100):
            workers.submit_model(lambda: torch.randn(600, 600) @ torch.randn(600, 600))
        yield 1
        yield 2
events = run()
next(events)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if ending else 0), done.stderr
    assert ("SystemError: ours" in done.stderr) == bool(ending)


def test_an_error_comes_in_its_turn(workers: Workers) -> None:
    results = in_order([2, 1, 0], lambda number: workers.submit(divmod, 4, number), lambda _: 0.1)
    assert [next(results), next(results)] == [(2, 0), (4, 0)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_timed_call_says_how_long_it_took() -> None:
    value, seconds = timed(slow_double, 2)
    assert value == 4
    assert 0.005 < seconds < _LONG_S
