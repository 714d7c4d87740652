"""A Python that has torch: each process that it runs is forked from one in which that is imported.

Such a process has a number, streams, a working folder and an environment of its own, and ends as Python ends. But no
terminal controls it, and libraries have read their environment before: where that matters, run `FRESH`.
"""

import atexit
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

PROJECT = Path(__file__).parents[2]
FRESH = (sys.executable, "-m", "semdis_cli")
TRAINING = ("torch._dynamo", "semdis_cli.training.train")


@cache
def python(*modules: str) -> tuple[str, ...]:
    """The beginning of a command line that goes on with `-m MODULE` or `-c TEXT`: Python with these modules, too."""
    folder = tempfile.TemporaryDirectory(prefix="semdis-forks-")
    place = os.fspath(Path(folder.name) / "socket")
    server = subprocess.Popen(
        [*(python() if modules else [sys.executable]), "-m", "tests.forks.server", place, *modules],
        cwd=PROJECT,
        stdin=subprocess.PIPE,  # it ends when this process does, however that ends
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    def close() -> None:
        server.communicate()
        folder.cleanup()

    atexit.register(close)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return (sys.executable, "-S", os.fspath(Path(__file__).with_name("client.py")), place)


def semdis(*arguments: str | Path) -> list[str]:
    """The command line of `semdis` in a forked process."""
    modules = TRAINING if arguments[:1] == ("train",) else ()
    return [*python(*modules), "-m", "semdis_cli", *map(str, arguments)]


def pid_of(client: "subprocess.Popen[Any]") -> int:
    """The number of the process that was forked for a client that was started with such a command line."""
    place = cast("list[str]", client.args)[3]
    named = Path(f"{place}-{client.pid}")
    while not named.exists() or not named.read_text().endswith("\n"):
        assert client.returncode is None
        time.sleep(0.001)
    return int(named.read_text())


class Started(subprocess.Popen[str]):
    """`semdis` at work, forked. Signals go to it, and not to the client that waits for it."""

    def __init__(self, arguments: list[str], cwd: Path) -> None:
        super().__init__(semdis(*arguments), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @cached_property
    def forked_pid(self) -> int:
        """The number of the process that was forked."""
        return pid_of(self)

    def send_signal(self, sig: int) -> None:
        """Signal the process that was forked, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.forked_pid, sig)
