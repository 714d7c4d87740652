"""Runs `semdis` once for each line of its input, each time in a process forked from this one, and says how it ended.

torch is loaded once; all else is as in the real command. A line is a JSON object, see `Job`; an answer is the exit
status, negative for a signal. Run as `python -m tests.torture.launcher MODEL`.
"""

import errno
import fcntl
import itertools
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from semdis_cli.cli import main
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.store.writing import index_writer
from tests.torture.watch import Stop, Watch

FILE_OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


@dataclass(frozen=True)
class Job:
    """One run of the command.

    `signal` is sent `after_s` seconds, or before the `operation`-th file operation below `folder` (1 is the first; 0 is
    none), whatever code makes it. Or, to be exact: with a `log`, every change in `folder` is written to it, and
    `stop` says at which of them the run ends. The surroundings: `umask`; `locks` "none" is a file system without them;
    `clock` is "jumping" or "standing". `audit`: a file for the changes that are not seen otherwise. `arguments` may
    begin with PIECE_ROWS=n: rows of a piece of an index, in place of a million.
    """

    arguments: list[str]
    stdout: str
    stderr: str
    folder: str = "/"
    signal: int = 9
    operation: int = 0
    after_s: float | None = None
    log: str | None = None
    stop: dict[str, Any] | None = None
    umask: int | None = None
    locks: str = "flock"
    clock: str = "true"
    audit: str | None = None


def send_signal_before(job: Job) -> None:
    """Arrange for the signal before a file operation."""
    num_seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_seen
        if event in FILE_OPERATIONS and str(arguments[0]).startswith(job.folder):
            num_seen += 1
            if num_seen == job.operation:
                os.kill(os.getpid(), job.signal)

    sys.addaudithook(watch)


def arrange(job: Job) -> None:
    """Make the surroundings what `job` says."""
    if job.umask is not None:
        os.umask(job.umask)
    if job.locks == "none":
        fcntl.flock = _no_lock
        fcntl.lockf = _no_lock
    if job.clock != "true":
        _change_clock(job.clock)
    if job.operation:
        send_signal_before(job)
    if job.log is not None:
        watch = Watch(job.folder, job.log, None if job.stop is None else Stop(**job.stop))
        watch.install()
        if job.audit is not None:
            watch.report_unseen(job.audit)


def _no_lock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _change_clock(kind: str) -> None:
    """Standing still, or jumping by up to ten years either way; clocks that must not run back jump ahead by days."""
    chance, ahead = random.Random(0), itertools.count(0, 86400)
    start = time.time()

    def jump() -> float:
        return start + (chance.uniform(-3e8, 3e8) if kind == "jumping" else 0)

    def forwards() -> float:
        return float(next(ahead))

    time.time = jump
    time.time_ns = lambda: int(jump() * 1e9)
    if kind == "jumping":
        time.monotonic = time.perf_counter = forwards


def run(job: Job) -> int:
    """The exit status of the command, in this process."""
    for descriptor, name in ((1, job.stdout), (2, job.stderr)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    arrange(job)
    arguments = job.arguments
    if arguments[0].startswith("PIECE_ROWS="):
        index_writer.PIECE_ROWS = int(arguments[0].partition("=")[2])
        arguments = arguments[1:]
    sys.argv = ["semdis", *arguments]
    command: Callable[[], None] = main
    try:
        command()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:  # noqa: BLE001 (what Python does with it, in a process that goes on)
        traceback.print_exc()
    return 1


def serve() -> None:
    """Answer until there are no more jobs."""
    for line in sys.stdin:
        job = Job(**json.loads(line))
        child = os.fork()
        if child == 0:
            torch.set_num_threads(torch.get_num_threads())  # a fork's first threads race for its pool otherwise
            code = run(job)
            sys.stdout.flush()
            os._exit(code)
        if job.after_s is not None:
            time.sleep(job.after_s)
            os.kill(child, job.signal)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    Tokenizer.load(sys.argv[1])
    serve()
