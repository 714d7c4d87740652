"""Every change that a process makes to a folder: seen as it happens, written to a log, and stopped at a chosen moment.

The process under test is not changed for this. What Python offers for changing files (`os.*`, `open`, `fcntl.flock`),
and the one call that it does not offer, is replaced before the real command runs. The log holds each change after it
was made, with the bytes that were written.
"""

import base64
import builtins
import fcntl
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

from semdis_cli.files import disk_sync

Result = TypeVar("Result")

BESIDE = "semdis-lock"  # the thread that shows every few seconds that a run is alive
_REAL_OPEN = io.open
_REAL = {
    name: getattr(os, name)
    for name in (
        *("fdatasync", "fsync", "ftruncate", "kill", "link", "mkdir", "open", "pwrite", "remove", "rename", "replace"),
        *("rmdir", "symlink", "truncate", "unlink", "write"),
    )
}
_AUDITED = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
    *("os.utime", "shutil.move"),  # shutil.rmtree says so, too, and then does it in parts that come by
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Stop:
    """Where a process ends: at its `number`-th change, `moment` "before", "half" (a write alone) or "after" it.

    `signal`: what it sends itself there and, if it is to be sent more `times`, before each change that follows.
    """

    number: int
    moment: str
    signal: int = 9
    times: int = 1


@dataclass(frozen=True)
class Change:
    """One change: what was done to the file at `path` (below the watched folder; `.` is the folder itself).

    `to`: the new name of a rename or link. `offset`: where `data` was written, or the length that a file was cut to.
    `number`: the how manieth change of the run it was; those that failed have one too, though no line in the log. 0: it
    was made beside the run, at a time of its own.
    """

    operation: str
    path: str
    to: str | None = None
    offset: int = 0
    data: bytes = b""
    number: int = 0

    def to_line(self) -> bytes:
        return json.dumps(asdict(self) | {"data": base64.b64encode(self.data).decode()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Change":
        fields = json.loads(line)
        return cls(**fields | {"data": base64.b64decode(fields["data"])})


class Watch:
    """Sees the changes below `folder`, writes each to the file `log`, and ends the process at `stop`."""

    def __init__(self, folder: str, log: str, stop: Stop | None) -> None:
        self._folder = folder
        self._log: int = _REAL["open"](log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._stop = stop
        self._number = 0
        self._paths: dict[int, str] = {}  # open file -> its path
        self._counting = threading.Lock()
        self._is_making = False
        self._num_sent = 0

    def install(self) -> None:
        """From now on, all changes are seen."""
        builtins.open = io.open = self._open
        changed: dict[str, Callable[..., Any]] = {
            "open": self._os_open,
            "write": self._os_write,
            "pwrite": self._os_pwrite,
            "fsync": self._sync("fsync"),
            "fdatasync": self._sync("fdatasync"),
            "ftruncate": self._os_ftruncate,
            "truncate": self._os_truncate,
            "rename": self._between("rename"),
            "replace": self._between("replace", "rename"),
            "link": self._between("link"),
            "symlink": self._os_symlink,
            "mkdir": self._of_path("mkdir"),
            "rmdir": self._of_path("rmdir"),
            "remove": self._of_path("remove", "unlink"),
            "unlink": self._of_path("unlink"),
        }
        for name, function in changed.items():
            setattr(os, name, function)
        sync_disk = disk_sync.sync_disk

        def synced(descriptor: int) -> None:
            self.around(Change("sync disk", "."), lambda: sync_disk(descriptor))

        disk_sync.sync_disk = synced
        flock = fcntl.flock

        def locked(file: Any, operation: int) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            return self.around(Change("lock", self._paths.get(descriptor, "")), lambda: flock(file, operation))

        fcntl.flock = locked

    def report_unseen(self, report: str) -> None:
        """Write to the file `report` every change that Python knows of and that did not come by here, a line each."""
        descriptor = _REAL["open"](report, os.O_WRONLY | os.O_CREAT)

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
            if self._is_making or not (is_open or event in _AUDITED):
                return
            if self.relative(arguments[0], arguments[-1] if event in {"os.remove", "os.rmdir"} else None):
                _REAL["write"](descriptor, f"{event} {arguments[0]}\n".encode())

        sys.addaudithook(hear)

    def relative(self, path: Any, dir_fd: int | None = None) -> str:
        """`path` (from the open folder `dir_fd`, if given) relative to the watched folder; empty if not below it."""
        if isinstance(path, int):
            return self._paths.get(path, "")
        start = os.getcwd()  # noqa: PTH109
        if dir_fd is not None and dir_fd >= 0:
            start = os.path.join(self._folder, self._paths.get(dir_fd) or "..")  # noqa: PTH118
        absolute = os.path.normpath(os.path.join(start, os.fsdecode(path)))  # noqa: PTH118
        if absolute == self._folder:
            return "."
        return absolute.removeprefix(f"{self._folder}/") if absolute.startswith(f"{self._folder}/") else ""

    def remember(self, descriptor: int, path: str) -> None:
        """The file open as `descriptor` is that at `path`."""
        self._paths[descriptor] = path

    def around(self, change: Change, make: Callable[[], Result], write: Callable[[bytes], int] | None = None) -> Result:
        """Make `change` by calling `make`, unless the process ends before, after or, half made by `write`, amid it."""
        if not change.path:
            return make()
        number = self._next_number()
        self._end_at(number, "before")
        if write is not None and self._is_at(number, "half"):
            part = change.data[: len(change.data) // 2]
            write(part)
            self._note(replace(change, data=part), number)
            self._end_at(number, "half")
        self._is_making = True
        try:
            result = make()
        finally:
            self._is_making = False
        if change.operation == "write":
            change = replace(change, data=change.data[: cast("int", result)])
        self._note(change, number)
        self._end_at(number, "after")
        return result

    def _next_number(self) -> int:
        if threading.current_thread().name == BESIDE:
            return 0
        with self._counting:
            self._number += 1
            return self._number

    def _is_at(self, number: int, moment: str) -> bool:
        return self._stop is not None and (self._stop.number, self._stop.moment) == (number, moment)

    def _end_at(self, number: int, moment: str) -> None:
        stop = self._stop
        if stop is None or self._num_sent == stop.times:
            return
        is_next = self._num_sent > 0 and moment == "before" and number > stop.number
        if is_next or self._is_at(number, moment):
            self._num_sent += 1
            _REAL["kill"](os.getpid(), stop.signal)

    def _note(self, change: Change, number: int) -> None:
        _REAL["write"](self._log, replace(change, number=number).to_line())

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
        path = "" if isinstance(file, int) else self.relative(file)
        if not path or not set(mode) & set("wxa+"):
            return _REAL_OPEN(file, mode, buffering, *text, **more)
        raw = WatchedFile(self, os.fspath(file), path, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **more)

    def _os_open(self, path: Any, flags: int, *more: Any, dir_fd: int | None = None) -> int:
        relative = self.relative(path, dir_fd)
        is_new = not os.path.lexists(os.path.join(self._folder, relative))  # noqa: PTH118
        change = Change("create" if is_new else "open", relative if flags & _WRITING else "")
        descriptor: int = self.around(change, lambda: _REAL["open"](path, flags, *more, dir_fd=dir_fd))
        self.remember(descriptor, relative)
        return descriptor

    def _os_write(self, descriptor: int, data: bytes) -> int:
        if not self.relative(descriptor):
            return int(_REAL["write"](descriptor, data))
        is_appending = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        offset = os.fstat(descriptor).st_size if is_appending else os.lseek(descriptor, 0, os.SEEK_CUR)
        return self._write(descriptor, offset, data, lambda part: int(_REAL["write"](descriptor, part)))

    def _os_pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        return self._write(descriptor, offset, data, lambda part: int(_REAL["pwrite"](descriptor, part, offset)))

    def _write(self, descriptor: int, offset: int, data: bytes, write: Callable[[bytes], int]) -> int:
        change = Change("write", self.relative(descriptor), None, offset, bytes(data))
        return self.around(change, lambda: write(change.data), write)

    def _os_ftruncate(self, descriptor: int, length: int) -> None:
        change = Change("truncate", self.relative(descriptor), None, length)
        self.around(change, lambda: _REAL["ftruncate"](descriptor, length))

    def _os_truncate(self, path: Any, length: int) -> None:
        change = Change("truncate", self.relative(path), None, length)
        self.around(change, lambda: _REAL["truncate"](path, length))

    def _os_symlink(self, target: Any, path: Any, *more: Any, **named: Any) -> None:
        self.around(Change("symlink", self.relative(path)), lambda: _REAL["symlink"](target, path, *more, **named))

    def _sync(self, name: str) -> Callable[..., Any]:
        def sync(file: Any) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            self.around(Change("sync", self.relative(descriptor)), lambda: _REAL[name](descriptor))

        return sync

    def _of_path(self, name: str, operation: str | None = None) -> Callable[..., Any]:
        def call(path: Any, *more: Any, dir_fd: int | None = None) -> Any:
            change = Change(operation or name, self.relative(path, dir_fd))
            return self.around(change, lambda: _REAL[name](path, *more, dir_fd=dir_fd))

        return call

    def _between(self, name: str, operation: str | None = None) -> Callable[..., Any]:
        def call(path: Any, to: Any, **named: Any) -> Any:
            change = Change(operation or name, self.relative(path), self.relative(to))
            return self.around(change, lambda: _REAL[name](path, to, **named))

        return call


class WatchedFile(io.FileIO):
    """A file open for writing, every write of which is seen."""

    def __init__(self, watch: Watch, name: str, path: str, mode: str) -> None:
        self._watch = watch
        self._path = path
        is_new = not os.path.lexists(name)
        begin = super().__init__
        watch.around(Change("create" if is_new else "open", path), lambda: begin(name, mode))
        watch.remember(self.fileno(), path)
        if "w" in mode and not is_new:
            watch.around(Change("truncate", path), lambda: None)

    def write(self, data: Any, /) -> int:
        write = super().write
        offset = os.fstat(self.fileno()).st_size if "a" in self.mode else self.tell()
        change = Change("write", self._path, None, offset, bytes(data))

        def make(part: bytes) -> int:
            return int(write(part) or 0)

        return self._watch.around(change, lambda: make(change.data), make)

    def truncate(self, size: int | None = None, /) -> int:
        length = self.tell() if size is None else size
        truncate = super().truncate
        return self._watch.around(Change("truncate", self._path, None, length), lambda: truncate(length))
