"""One run at a time in a folder: with the file system's locks, without them, and across machines."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import NoSpaceError, UsageError
from semdis_cli.files import lock
from semdis_cli.files.lock import LOCK_FILE, FolderLock
from tests.disks import fill_disk, small_disk

PROJECT = Path(__file__).parents[2]

# Holds the lock of a folder until its input ends; says so, or why not. `without`: file locks do not work.
HOLDER = """
import errno, fcntl, sys
from pathlib import Path
from semdis_cli.files import lock
from semdis_cli.errors import UsageError

folder, without = Path(sys.argv[1]), sys.argv[2] == "without"
if without:
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
lock.BEAT_S, lock.WATCH_S, lock.SETTLE_S = 0.1, 1.0, 0.5
try:
    with lock.FolderLock(folder) as held:
        print("held", flush=True)
        sys.stdin.read()
        held.check()
except UsageError as error:
    print(error, flush=True)
"""


@contextmanager
def holder(folder: Path, locks: str = "with") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, os.fspath(folder), locks],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and waits of a fraction of a second."""
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "WATCH_S", 0.8)
    monkeypatch.setattr(lock, "SETTLE_S", 0.2)


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch, _fast: None) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def write_holder(folder: Path, **changes: Any) -> None:
    """A lock file as another run would have left or be keeping it."""
    fields = {"machine": "elsewhere 1", "namespace": "n", "process": "7 8", "token": "t", "beat": 3, **changes}
    (folder / LOCK_FILE).write_bytes(json.dumps(fields).encode().ljust(511) + b"\n")


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as held:
        held.check()
        with pytest.raises(UsageError, match="another semdis run is writing there; wait for it to end"):
            FolderLock(tmp_path).__enter__()
        held.check()
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path):
        pass


def test_who_is_refused_leaves_the_file_of_a_run_that_has_yet_to_write_it(tmp_path: Path) -> None:
    with (tmp_path / LOCK_FILE).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another semdis run is writing there"):
            FolderLock(tmp_path).__enter__()
        assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize("locks", ["with", "without"])
def test_another_process_is_refused_while_the_first_lives_and_let_in_when_it_was_killed(
    tmp_path: Path, locks: str
) -> None:
    with holder(tmp_path, locks) as first:
        assert first_line(first) == "held"
        with holder(tmp_path, locks) as second:
            assert "another semdis run is writing there" in first_line(second)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert (tmp_path / LOCK_FILE).exists()
        with holder(tmp_path, locks) as third:
            assert first_line(third) == "held"


@pytest.mark.usefixtures("_no_locks")
def test_a_stopped_process_is_alive(tmp_path: Path) -> None:
    with holder(tmp_path, "without") as first:
        assert first_line(first) == "held"
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(UsageError, match="another semdis run"):
            FolderLock(tmp_path).__enter__()


@pytest.mark.usefixtures("_no_locks")
def test_a_process_that_has_the_number_of_a_dead_one_does_not_hold_its_folder(tmp_path: Path) -> None:
    mine = lock._Holder.this_process()
    write_holder(tmp_path, machine=mine.machine, namespace=mine.namespace, process=f"{os.getpid()} 12")
    with FolderLock(tmp_path) as held:
        held.check()


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("changes", [{}, {"process": f"{os.getpid()} 1"}])
def test_a_run_on_another_machine_that_shows_no_life_is_dead(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_holder(tmp_path, **changes)
    started = time.monotonic()
    with FolderLock(tmp_path) as held:
        held.check()
    assert time.monotonic() - started >= lock.WATCH_S


@pytest.mark.usefixtures("_fast")
def test_a_run_on_another_machine_that_beats_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WATCH_S", 60.0)  # on a busy machine the beat may come late
    write_holder(tmp_path)
    beat = threading.Timer(0.3, write_holder, [tmp_path], {"beat": 4})
    beat.start()
    with pytest.raises(UsageError, match="another semdis run is writing there"):
        FolderLock(tmp_path).__enter__()
    beat.join()
    assert json.loads((tmp_path / LOCK_FILE).read_bytes())["beat"] == 4


@pytest.mark.usefixtures("_fast")
def test_a_holder_shows_that_it_lives(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        before = (tmp_path / LOCK_FILE).read_bytes()
        waited_until = time.monotonic() + 20
        while (tmp_path / LOCK_FILE).read_bytes() == before:
            assert time.monotonic() < waited_until
            time.sleep(0.02)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"machine": 1}', bytes(512), b"\xff" * 512])
def test_a_lock_file_that_a_crash_has_torn_holds_nobody_up(tmp_path: Path, data: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(data)
    with FolderLock(tmp_path) as held:
        held.check()


@pytest.mark.usefixtures("_fast")
def test_a_run_that_was_taken_for_dead_notices_and_leaves_the_other_s_file(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as held:
        write_holder(tmp_path)
        time.sleep(0.3)  # some beats
        with pytest.raises(UsageError, match="another semdis run has taken over; this one stops, what it wrote stays"):
            held.check()
    assert json.loads((tmp_path / LOCK_FILE).read_bytes())["machine"] == "elsewhere 1"


def test_a_run_whose_lock_file_was_deleted_notices(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as held:
        (tmp_path / LOCK_FILE).unlink()
        with pytest.raises(UsageError, match="taken over"):
            held.check()


@pytest.mark.parametrize("locks", ["with", "without"])
def test_of_many_that_start_at_once_one_gets_the_folder(tmp_path: Path, locks: str) -> None:
    (tmp_path / "go").touch()
    processes = [holder(tmp_path, locks) for _ in range(4)]
    opened = [process.__enter__() for process in processes]
    try:
        assert [first_line(process) == "held" for process in opened].count(True) == 1
    finally:
        for process in processes:
            process.__exit__(None, None, None)


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK_FILE).symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(UsageError, match="cannot be written"):
        FolderLock(tmp_path / "folder").__enter__()
    assert (tmp_path / "precious").read_text() == "mine"


def test_on_a_full_disk_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        fill_disk(disk)
        before = set(disk.iterdir())
        with pytest.raises(NoSpaceError, match="no space left on the disk"):
            FolderLock(disk).__enter__()
        assert set(disk.iterdir()) == before


# --- Disks where everybody gets the lock ------------------------------------------------------------------------------


@pytest.fixture
def _locks_for_all(monkeypatch: pytest.MonkeyPatch, _fast: None) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


@pytest.mark.usefixtures("_locks_for_all")
def test_a_living_run_is_asked_for_where_everybody_gets_the_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path) as held:
        with pytest.raises(UsageError, match="another semdis run is writing there"):
            FolderLock(tmp_path).__enter__()
        held.check()
        holder = lock._Holder.this_process()
        (tmp_path / LOCK_FILE).write_bytes(replace(holder, namespace="another", token="t").to_bytes())
        started = time.monotonic()
        with FolderLock(tmp_path):  # in another namespace nobody can be asked, but there is no beat either
            assert time.monotonic() - started > lock.WATCH_S


@pytest.mark.usefixtures("_locks_for_all")
def test_a_killed_run_is_not_waited_for_where_everybody_gets_the_lock(tmp_path: Path) -> None:
    holder = lock._Holder.this_process()
    (tmp_path / LOCK_FILE).write_bytes(replace(holder, process=f"{os.getpid()} 1", token="t").to_bytes())
    started = time.monotonic()
    with FolderLock(tmp_path):
        assert time.monotonic() - started < lock.WATCH_S / 2


def test_where_locks_work_nothing_is_waited_for(tmp_path: Path) -> None:
    holder = lock._Holder.this_process()
    (tmp_path / LOCK_FILE).write_bytes(replace(holder, namespace="another", token="t").to_bytes())
    started = time.monotonic()
    with FolderLock(tmp_path):
        assert time.monotonic() - started < 0.5


def _refuse(*_: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize(
    ("owner", "call", "answer"),
    [(os, "pread", _refuse), (os, "pwrite", _refuse), (os, "pwrite", lambda *_: 0), (Path, "read_bytes", _refuse)],
    ids=["no reading", "no writing", "nothing stays", "no reading by name"],
)
def test_a_lock_file_that_cannot_be_used_is_one_line_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str, answer: object
) -> None:
    monkeypatch.setattr(owner, call, answer)
    with pytest.raises(UsageError, match="cannot be written"):
        FolderLock(tmp_path).__enter__()


@pytest.mark.usefixtures("_fast")
def test_a_lock_file_that_cannot_be_read_for_a_moment_is_no_rival_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Path.read_bytes, [errno.ESTALE]

    def read_bytes(path: Path) -> bytes:
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return real(path)

    with FolderLock(tmp_path) as held:
        held._released.set()  # no beat, which looks too
        held._heart.join()
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        held.check()
        failures += [errno.EIO] * 2
        with pytest.raises(UsageError, match="cannot be read"):
            held.check()


def test_a_lock_file_that_is_read_while_its_holder_writes_it_is_no_rival_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, torn = Path.read_bytes, [True]

    def read_bytes(path: Path) -> bytes:
        return real(path)[:99] if torn and torn.pop() else real(path)

    with FolderLock(tmp_path) as held:
        held._released.set()  # no beat, which looks too
        held._heart.join()
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        held.check()
        torn += [True] * 9
        with pytest.raises(UsageError, match="has taken over"):
            held.check()


@pytest.mark.usefixtures("_fast")
def test_a_lock_file_that_its_holder_removes_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record in it is of a process that lives, and was done."""
    real = fcntl.flock
    write_holder(tmp_path, **asdict(lock._Holder.this_process()))

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        monkeypatch.setattr(fcntl, "flock", real)
        (tmp_path / LOCK_FILE).unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with FolderLock(tmp_path) as held:
        held.check()
