"""Running `semdis`: as a real process, or in this one where many small runs are wanted."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from semdis_cli.cli import main
from tests import forks

PHOTOS = Path(__file__).parents[1] / "photos"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


def semdis(
    *arguments: str | Path, cwd: Path, stdin: bytes = b"", env: dict[str, str] | None = None, fresh: bool = False
) -> Outcome:
    """Run `semdis` as a process of its own, see `tests.forks`.

    `fresh`, and where `env` changes what libraries find: by an interpreter that has imported nothing.
    """
    done = subprocess.run(
        [*forks.FRESH, *map(str, arguments)] if fresh or env else forks.semdis(*arguments),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=os.environ | (env or {}),
        check=False,
    )
    return Outcome(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`semdis` in this process, in `tmp_path`: the same code from the arguments to the exit status."""
    with _in_this_process(tmp_path, monkeypatch, capsys.readouterr) as call:
        yield call


@pytest.fixture
def run_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Run]:
    """The same where what is said need not be UTF-8."""

    def captured() -> tuple[str, str]:
        out, err = capsysbinary.readouterr()
        return os.fsdecode(out), os.fsdecode(err)

    with _in_this_process(tmp_path, monkeypatch, captured) as call:
        yield call


@contextmanager
def _in_this_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, captured: Callable[[], tuple[str, str]]
) -> Iterator[Run]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(folder)

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["semdis", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Outcome(int(ended.value.code or 0), *captured())

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
