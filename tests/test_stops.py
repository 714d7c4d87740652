"""Stops that a signal asks for: noted during a run, acted on where it looks, and at once where it only waits."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from semdis_cli import stops
from semdis_cli.cli.options import Reporting
from semdis_cli.cli.report import follow
from semdis_cli.errors import ExitCode
from semdis_cli.events import BatchDone, Event, RunFinished, StageTimes
from semdis_cli.model.hub import Published, fetch
from semdis_cli.pipeline.export import export
from semdis_cli.settings import ExportFormat, ExportSettings
from semdis_cli.stops import StoppedError, at_once, listen, look, noted, received, wait_for
from semdis_cli.store.reader import open_latents
from tests.extras import needs
from tests.store import write_set

_SOON_S = 2.0


@pytest.fixture(autouse=True)
def signals_are_heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(stops, "_process", stops._Process())
    listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_in(seconds: float, number: int = signal.SIGTERM) -> None:
    threading.Timer(seconds, os.kill, [os.getpid(), number]).start()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_outside_of_a_run_a_signal_is_raised_at_once(number: int, code: ExitCode) -> None:
    stop_in(0.05, number)
    with pytest.raises(StoppedError) as stopped:
        time.sleep(_SOON_S)
    assert stopped.value.exit_code == code


def test_during_a_run_a_signal_raises_nothing_until_somebody_looks() -> None:
    with noted():
        signal.raise_signal(signal.SIGTERM)
        seen = "all of this block"
        with pytest.raises(StoppedError):
            look()
    assert seen == "all of this block"


def test_a_second_signal_is_the_systems() -> None:
    with noted():
        signal.raise_signal(signal.SIGINT)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_DFL] * 2


def test_a_signal_ends_what_only_waits_and_one_that_came_before_ends_it_first() -> None:
    reading, writing = os.pipe()
    try:
        with noted():
            stop_in(0.05)
            with pytest.raises(StoppedError), at_once():
                os.read(reading, 1)
            with pytest.raises(StoppedError), at_once():
                pytest.fail("begun after the stop")
    finally:
        os.close(reading)
        os.close(writing)


def test_whoever_waits_for_a_task_hears_of_a_stop_soon() -> None:
    stop_in(0.05)
    started = time.monotonic()
    with noted(), pytest.raises(StoppedError):
        wait_for(Future[int]())
    assert time.monotonic() - started < _SOON_S


def test_waiting_gives_what_the_task_gave_its_own_timeout_included() -> None:
    done, failed, late = Future[int](), Future[int](), Future[int]()
    done.set_result(7)
    failed.set_exception(TimeoutError("of the disk"))
    threading.Timer(0.2, late.set_result, [8]).start()
    assert (wait_for(done), wait_for(late)) == (7, 8)
    with pytest.raises(TimeoutError, match="of the disk"):
        wait_for(failed)


def test_what_is_received_from_a_pipe_is_handed_on_until_a_stop() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        stop_in(0.05)
        time.sleep(_SOON_S)

    with noted():
        given = received(items())
        assert [next(given), next(given)] == [1, 2]
        with pytest.raises(StoppedError):
            next(given)


def test_a_download_that_is_kept_waiting_within_a_run_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_options: time.sleep(_SOON_S))
    stop_in(0.05)
    with noted(), pytest.raises(StoppedError):
        fetch("org/model", Published(("config.json",), "hub", "wait"))


@pytest.mark.parametrize("kind", ["webdataset", "npy"])
def test_an_export_can_be_stopped_while_it_asks_what_is_there(tmp_path: Path, kind: ExportFormat) -> None:
    write_set(tmp_path / "latents")
    source = open_latents(tmp_path / "latents")
    list(export(source, ExportSettings(kind), tmp_path / "out"))
    with noted():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError):
            next(export(source, ExportSettings(kind), tmp_path / "out"))


def test_a_run_is_closed_in_order_before_the_stop_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[str] = []

    def run() -> Iterator[Event]:
        try:
            signal.raise_signal(signal.SIGINT)
            steps.append("the step is finished")
            yield BatchDone(1, 1.0, StageTimes())
            steps.append("one step too many")
        finally:
            steps.append("closed")

    with pytest.raises(StoppedError):
        follow(run(), Reporting(quiet=True), summarise=str)
    assert steps == ["the step is finished", "closed"]
    assert capsys.readouterr() == ("", "")


def test_what_comes_after_the_closing_lines_does_not_change_how_a_run_ends() -> None:
    assert follow(iter([RunFinished(1, 0, {})]), Reporting(as_json=True, quiet=True), summarise=str) == ExitCode.OK
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
    look()


def test_what_comes_before_the_report_is_said_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    def summarise(_: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the stop was passed over")

    with pytest.raises(StoppedError):
        follow(iter([RunFinished(1, 0, {})]), Reporting(), summarise=summarise)
    assert capsys.readouterr() == ("", "")
