"""Executors: signals are noted while there are any, whoever waits hears of them, and no other kind is in use."""

import ast
import ctypes
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import semdis_cli
from semdis_cli import stops
from semdis_cli.stops import StoppedError, listen, look
from semdis_cli.threads import WatchedThreads

_LONG_S = 20.0
_HANDLED = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def signals_are_heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in _HANDLED}
    monkeypatch.setattr(stops, "_process", stops._Process())
    listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_results_come_in_order_and_errors_when_their_turn_comes() -> None:
    with WatchedThreads(3, "test") as threads:
        results = threads.each(lambda number: 6 // number, [3, 2, 0, 1])
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_each_thread_is_prepared_once() -> None:
    prepared: list[str] = []
    with WatchedThreads(1, "test", lambda: prepared.append(threading.current_thread().name)) as threads:
        assert list(threads.each(len, ["a", "bc"])) == [1, 2]
    assert prepared == ["test_0"]


def test_a_signal_raises_nothing_until_the_threads_have_ended() -> None:
    begun, gate = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work(_: int) -> None:
        begun.set()
        ended.append(gate.wait(_LONG_S))

    def stop() -> None:
        begun.wait(_LONG_S)
        signal.raise_signal(signal.SIGTERM)

    threading.Timer(0.1, stop).start()
    threading.Timer(0.5, gate.set).start()
    with WatchedThreads(1, "test") as threads:
        results = threads.each(work, range(3))
        with pytest.raises(StoppedError):
            next(results)
    assert ended == [True]  # what had begun was waited for, and nothing else begun


def test_leaving_waits_undisturbed_and_the_stop_is_found_afterwards() -> None:
    with WatchedThreads(1, "test") as threads:
        task = threads.submit(threading.Event().wait, 0.2)
        signal.raise_signal(signal.SIGINT)
    assert task.done()
    with pytest.raises(StoppedError):
        look()


def test_threads_that_died_while_they_waited_do_not_keep_the_others_waiting() -> None:
    """Those that are killed are so when they are woken, and wake nobody."""
    meeting = threading.Barrier(4)
    with WatchedThreads(4, "test") as threads:
        for task in [threads.submit(meeting.wait, _LONG_S) for _ in range(4)]:
            task.result(_LONG_S)
        for thread in threading.enumerate():
            if thread.name.startswith("test_"):
                assert thread.ident is not None
                exiting = ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), exiting)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


def test_no_executor_of_another_kind_is_made() -> None:
    # Processes are begun where the threads of a run have had signals noted.
    package = Path(semdis_cli.__file__).parent
    users = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and any("Executor" in alias.name for alias in node.names)
    ]
    assert sorted(users) == ["pipeline/processes/shared.py", "threads.py"]
