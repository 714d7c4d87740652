"""Commands that are stopped while they wait for a pipe: for one that gives nothing, and one that takes nothing."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forks
from tests.worlds import save_noise

SOON_S = 20.0  # torch may have to be loaded under load; a pipe would be waited for for ever


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        save_noise(folder / f"{number:02d}.png", number, (256, 256))
    return folder


def start(*arguments: object, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        forks.semdis(*map(str, arguments), "--quiet"), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def stop(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Ask it to stop; it says so and is gone soon."""
    os.kill(forks.pid_of(process), number)
    assert process.wait(SOON_S) == 128 + number
    assert process.stderr is not None
    assert process.stderr.read().decode().startswith(f"semdis: stopped by {number.name}; ")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_encode_whose_reader_takes_nothing_more_can_be_stopped(photos: Path, tiny: Path) -> None:
    with start("encode", photos, "-o", "-", "--model", tiny) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        time.sleep(1.0)  # the pipe is full by now
        stop(process, signal.SIGINT)


def test_a_decode_that_gets_nothing_more_can_be_stopped_and_keeps_what_it_has(
    tmp_path: Path, photos: Path, tiny: Path
) -> None:
    with start("encode", photos / "00.png", photos / "01.png", "-o", "-", "--model", tiny) as encoding:
        stream, _ = encoding.communicate(timeout=60)
    reading, writing = os.pipe()
    with start("decode", "-", "-o", tmp_path / "out", "--model", tiny, "--batch-size", 1, stdin=reading) as process:
        os.close(reading)
        os.write(writing, stream[:-1024])  # without the tar's end
        until(lambda: list((tmp_path / "out").glob("*.png")))
        stop(process, signal.SIGTERM)
        os.close(writing)
    assert [path.name for path in (tmp_path / "out").glob("*.tmp*")] == []
