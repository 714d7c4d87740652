"""A model beside which processes read and write, as beside a GPU; and processes that are killed, or not to be had."""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from semdis_cli.model.tokenizer import Tokenizer

T = TypeVar("T")


class Accelerated(Tokenizer):
    """A tokenizer whose calls are no work for the CPU, as far as anybody can tell."""

    is_on_cpu = False


def refuse(*_: object) -> None:
    """Say that there is no room, in place of what would look for it."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def killing_at_third(kind: type[Any], number: int) -> Iterator[None]:
    """Kill so many processes just before the third call is handed to `kind`, which reads or writes by them."""
    submit, calls = kind.submit, count(1)

    def killing(self: Any, images: Any, other: Any) -> Any:
        if next(calls) == 3:
            kill_processes(number)
        return submit(self, images, other)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kind, "submit", killing)
        yield


def processes_of(pid: int) -> list[int]:
    """Return the processes that read or write for `pid`: those that its fork server, its child, has begun."""
    servers = [child for child in children_of(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return [child for server in servers for child in children_of(server)]


def children_of(pid: int) -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(int(path.name)) == pid]


def kill_processes(number: int) -> None:
    """Kill so many processes that read or write for this one, as soon as there are as many."""
    wait_for(lambda: len(processes_of(os.getpid())) >= number)
    for pid in processes_of(os.getpid())[:number]:
        os.kill(pid, signal.SIGKILL)


def wait_for(found: Callable[[], T]) -> T:
    """Return what `found` gives as soon as it is something."""
    deadline = time.monotonic() + 30
    while not (value := found()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)
    return value


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None
