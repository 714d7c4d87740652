"""One run at a time in a folder, also where the file system has no locks: on some network disks `flock` does nothing.

There it is refused, or succeeds for everybody (Lustre with localflock, NFS with nolock): a second descriptor of the
same file that gets the lock too gives that away. Locks that work are believed at once.

The holder keeps a small file `.semdis-lock` in the folder, locked where that works, with its machine and process in it
and a number that it raises every few seconds. Who finds the file of a holder that cannot be asked (another machine)
watches that number: clocks are never compared, since they jump and differ.
"""

import errno
import fcntl
import json
import os
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import NoReturn, Self

from semdis_cli.errors import BusyFolderError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import explain_write_error

LOCK_FILE = ".semdis-lock"
_RECORD_BYTES = 512
BEAT_S = 5.0
WATCH_S = 3.2 * BEAT_S  # without a beat, the holder is dead
_IS_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # EACCES: where flock is made of fcntl's locks
_MOST_TRIES = 50  # the file may be replaced by rivals; for ever only on a disk that keeps nothing
_MOST_READS, _READ_AGAIN_S = 3, 0.02  # of a record that is just being written
SETTLE_S = 1.0  # two that write at once both look again after this long, and one sees the other's record


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds a folder. `machine`: this boot of it; `namespace`: where the process number means something."""

    machine: str
    namespace: str
    process: str
    token: str
    beat: int = 0

    @classmethod
    def this_process(cls) -> Self:
        return cls(
            machine=f"{platform.node()} {_first_line('/proc/sys/kernel/random/boot_id')}",
            namespace=_namespace(),
            process=_process(os.getpid()),
            token=secrets.token_hex(16),
        )

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """The holder in a lock file; None if there is none, or it was torn by a crash."""
        try:
            fields = json.loads(data)
            holder = cls(**fields)
        except (TypeError, ValueError):
            return None
        texts = (holder.machine, holder.namespace, holder.token)
        is_whole = all(isinstance(text, str) for text in texts) and re.fullmatch(r"\d{1,10} .*", str(holder.process))
        return holder if is_whole else None

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode().ljust(_RECORD_BYTES - 1) + b"\n"

    def is_running(self, here: "_Holder") -> bool | None:
        """Tell whether its process runs; None where a process `here` cannot ask."""
        if here.machine != self.machine or here.namespace != self.namespace or not _can_ask():
            return None
        return _process(int(self.process.partition(" ")[0])) == self.process


class FolderLock:
    """Keeps other runs out of `folder`, which exists, while it is held. Use as a context manager.

    Entering raises `UsageError` if another run is at work there, or the folder cannot be written. `name`: of a part of
    the folder's content, that alone is locked; see `held_parts`.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder = folder
        self._path = _lock_path(folder, name)
        self._descriptor = -1
        self._holder = _Holder.this_process()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        try:
            if not any(self._try_to_take() for _ in range(_MOST_TRIES)):
                raise UsageError("cannot be written (it does not hold what was written to it)", place=self._path)
        except OSError as error:
            raise explain_write_error(self._path, error) from error
        self._heart = threading.Thread(target=self._beat, name="semdis-lock", daemon=True)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heart.join()
        with suppress(OSError):
            if self._is_ours():
                self._path.unlink()
        os.close(self._descriptor)

    @property
    def token(self) -> str:
        """What tells this lock from all others, in `locked_parts`."""
        return self._holder.token

    def check(self) -> None:
        """Raise `UsageError` if another run took the folder, because it saw no sign of life from this one.

        Or if nobody can tell, for longer than a server needs to forget a file that was replaced.
        """
        try:
            try:
                is_ours = self._has_our_token()
            except OSError:  # ESTALE: the name is looked up anew
                time.sleep(BEAT_S / 10)
                is_ours = self._has_our_token()
        except OSError as error:
            raise UsageError(f"cannot be read ({error.strerror or error}); this run stops", place=self._path) from error
        if not is_ours:
            raise UsageError(
                "another semdis run has taken over; this one stops, what it wrote stays", place=self.folder
            )

    def _try_to_take(self) -> bool:
        """Take the folder; False if the lock file was replaced meanwhile. Raises `UsageError` if another run has it."""
        with ExitStack() as on_failure:
            descriptor = disk.open_no_link(self._path, os.O_RDWR | os.O_CREAT)
            on_failure.callback(os.close, descriptor)
            on_failure.callback(self._drop_if_empty, descriptor)
            has_locks = self._lock(descriptor)
            before = _Holder.parse(os.pread(descriptor, _RECORD_BYTES, 0))
            if before is not None and self._is_alive(before, descriptor, has_locks=has_locks):
                self._refuse()
            os.pwrite(descriptor, self._holder.to_bytes(), 0)
            if not has_locks:
                time.sleep(SETTLE_S)
            if not self._has_our_token():
                return False
            on_failure.pop_all()
        self._descriptor = descriptor
        return True

    def _lock(self, descriptor: int) -> bool:
        """Lock the file, and say whether that keeps others out. Raises `UsageError` if another run has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse()
        except OSError:  # no locks there: ENOLCK, ENOSYS, ENOTSUP, EINVAL, and many more
            return False
        return self._is_exclusive(descriptor)

    def _is_exclusive(self, descriptor: int) -> bool:
        """Tell whether the lock that was just taken is refused to another open file, as it is where locks work."""
        try:
            second = disk.open_no_link(self._path, os.O_RDWR)
        except FileNotFoundError:
            return True  # its holder has just removed it: that is noticed, and all begins anew
        except OSError:
            return False
        try:
            if not os.path.samestat(os.fstat(second), os.fstat(descriptor)):
                return True  # another's file by now: the same
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _IS_LOCKED
        finally:
            os.close(second)
        return False

    def _drop_if_empty(self, descriptor: int) -> None:
        """Leave no lock file that was not written (the disk may be full), but for one that another run has locked."""
        with suppress(OSError, UsageError):
            self._lock(descriptor)
            status = os.fstat(descriptor)
            if status.st_size == 0 and os.path.samestat(status, self._path.lstat()):
                self._path.unlink()

    def _is_alive(self, before: _Holder, descriptor: int, *, has_locks: bool) -> bool:
        """Tell whether the run that wrote `before` is still at work."""
        if before.machine == self._holder.machine and has_locks:  # it would hold the lock
            return False
        if (is_running := before.is_running(self._holder)) is not None:
            return is_running
        watched_until = time.monotonic() + WATCH_S
        while time.monotonic() < watched_until:
            if os.pread(descriptor, _RECORD_BYTES, 0) != before.to_bytes():
                return True
            time.sleep(BEAT_S / 10)
        return False

    def _refuse(self) -> NoReturn:
        raise other_run(self.folder)

    def _is_ours(self) -> bool:
        try:
            return self._has_our_token()
        except OSError:
            return False

    def _has_our_token(self) -> bool:
        """Tell whether the file is there and names this run. Raises `OSError` if it cannot be read."""
        try:
            holder = _parse_whole(self._path.read_bytes)
        except FileNotFoundError:
            return False
        return holder is not None and holder.token == self._holder.token

    def _beat(self) -> None:
        """Raise the number in the file for as long as the folder is held, and the file is ours."""
        while not self._released.wait(BEAT_S):
            self._holder = replace(self._holder, beat=self._holder.beat + 1)
            with suppress(OSError):
                if self._is_ours():
                    os.pwrite(self._descriptor, self._holder.to_bytes(), 0)


def other_run(folder: Path) -> BusyFolderError:
    """Return the error to raise where another run is at work in `folder`."""
    return BusyFolderError("another semdis run is writing there; wait for it to end", place=folder)


def held_parts(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Return the names of parts of `folder` that runs hold now, without a lock of their own; "": all of the folder.

    `names`: those to look at; None: all that were locked. Runs on other machines are watched for some seconds. Raises
    `OSError` where that cannot be told.
    """
    here, held, doubtful = _Holder.this_process(), set(), {}
    for name in locked_parts(folder) if names is None else names:
        holder = _read_holder(_lock_path(folder, name))
        is_running = None if holder is None else holder.is_running(here)
        if is_running:
            held.add(name)
        elif holder is not None and is_running is None:
            doubtful[name] = holder
    watched_until = time.monotonic() + WATCH_S
    while doubtful and time.monotonic() < watched_until:
        time.sleep(BEAT_S / 10)
        now = {name: _read_holder(_lock_path(folder, name)) for name in doubtful}
        held |= {name for name, holder in now.items() if holder is not None and holder != doubtful[name]}
        doubtful = {name: holder for name, holder in doubtful.items() if now[name] == holder}
    return sorted(held)


def drop_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove what runs that are dead have left to hold parts of `folder`: one that wakes up notices that, and stops."""
    for name in names:
        with suppress(OSError):
            _lock_path(folder, name).unlink()


def drop_dead_parts(folder: Path) -> None:
    """Remove what runs that died on this machine have left to hold parts of `folder`, without a lock on all of it."""
    here = _Holder.this_process()
    for name in locked_parts(folder):
        holder = _read_holder(_lock_path(folder, name))
        if holder is None or holder.is_running(here) is False:
            with suppress(UsageError), FolderLock(folder, name):  # which is removed when it is let go
                pass


def locked_parts(folder: Path) -> dict[str, str]:
    """Return the names of parts of `folder` that were locked, by runs that may be dead, and the tokens of the locks.

    No token: the lock is being taken, or was torn by a crash. Raises `OSError` for what cannot be read.
    """
    start = f"{LOCK_FILE}-"
    holders = {path.name: _read_holder(path) for path in disk.list_names(folder) if path.name.startswith(start)}
    return {name.removeprefix(start): holder.token if holder else "" for name, holder in holders.items()}


def _lock_path(folder: Path, name: str) -> Path:
    return folder / (f"{LOCK_FILE}-{name}" if name else LOCK_FILE)


def _read_holder(path: Path) -> _Holder | None:
    """Return who has written a lock file; None if it is gone, or nobody has yet. Raises `OSError`."""
    with suppress(FileNotFoundError):
        try:
            return _parse_holder(path)
        except FileNotFoundError:
            return None
        except OSError:  # ESTALE: the name is looked up anew
            time.sleep(BEAT_S / 10)
            return _parse_holder(path)
    return None


def _parse_holder(path: Path) -> _Holder | None:
    def read() -> bytes:
        with os.fdopen(disk.open_at_once(path), "rb") as file:  # a pipe is not waited for
            return file.read(_RECORD_BYTES) or b""

    return _parse_whole(read)


def _parse_whole(read: Callable[[], bytes]) -> _Holder | None:
    """Parse what `read` gives of a lock file; again if it is none, as its holder may be just writing its next beat."""
    for wait_s in (*repeat(_READ_AGAIN_S, _MOST_READS), 0.0):
        data = read()[:_RECORD_BYTES]
        if (holder := _Holder.parse(data)) is not None or not data:
            return holder
        time.sleep(wait_s)
    return None


def _process(number: int) -> str:
    """The number and start time of a process, so that a later one of the same number is told from it."""
    try:
        status = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{number} {status.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return f"{number} {_is_running(number)}"


def _can_ask() -> bool:
    """Tell whether equal namespaces mean the same processes: in a container without /proc that is not known."""
    return bool(_namespace()) or not sys.platform.startswith("linux")


def _is_running(number: int) -> bool:
    """For systems without /proc; a process of another user counts."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
