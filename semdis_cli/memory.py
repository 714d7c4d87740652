"""Memory that is to be had: the machine's, and what a container or a batch job is allowed of it.

Linux hands out more than it has and kills who uses it: no error tells that an image was too large. So what cannot fit
is refused before it is tried, by what it is known to take at least.
"""

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from threading import Condition

from semdis_cli.errors import PassingReadError
from semdis_cli.wording import size

_UNKNOWN = 4 << 30  # bytes that are taken to be there where the system does not tell
_PROGRAM_BYTES = 320 << 20  # measured: Python, torch, Pillow and the bundled model, before there is any image
_SMALL_BYTES = 32 << 20  # what takes less is not worth a turn, nor a refusal
_AT_ONCE = nullcontext()
# Options of glibc's `mallopt`: the size from which freed blocks go back to the system, and how much of others is kept.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BLOCK_BYTES, _KEPT_BYTES = 4 << 20, 256 << 20


def keep_freed_blocks() -> None:
    """Have the C library keep what small pictures took for the next ones, for the whole process.

    glibc gives the system back what lies at the end of its heap, and blocks of a size that it guesses: every picture
    gets pages that the system has to clear first, 10 to 30 of them for 256x256 pixels. Larger blocks still go back at
    once. Nothing happens with another C library, or where the environment has settings of glibc's own.
    """
    if sys.platform != "linux" or any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(AttributeError):  # musl has no such function
        for option, value in ((_M_MMAP_THRESHOLD, _BLOCK_BYTES), (_M_TRIM_THRESHOLD, _KEPT_BYTES)):
            ctypes.CDLL(None).mallopt(option, value)


class Room:
    """Memory for images that several threads share: what is large waits for others, in the order in which it came."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._changed = Condition()
        self._queue: deque[object] = deque()
        self._taken_bytes = 0

    def shared_by(self, num_processes: int) -> "Room":
        """Return the room that each of so many processes has, if they share it."""
        return Room(self.total_bytes // num_processes)

    def can_hold(self, num_bytes: int) -> bool:
        """Tell whether there can ever be that much."""
        return num_bytes <= max(self.total_bytes, _SMALL_BYTES)

    def refusal(self, num_bytes: int, what: str, remedy: str) -> str | None:
        """Say why there can never be that much, in a line, for `what` ("to encode"); None if there can."""
        if self.can_hold(num_bytes):
            return None
        needed, there = size(num_bytes), size(self.total_bytes)
        return f"not enough memory: needs about {needed} {what}, and {there} are there; {remedy}"

    def taking(self, num_bytes: int) -> AbstractContextManager[None]:
        """Wait until that much is left by the others, or there are none; given back on leaving."""
        return _AT_ONCE if num_bytes <= _SMALL_BYTES else self._in_turn(num_bytes)

    @contextmanager
    def _in_turn(self, num_bytes: int) -> Iterator[None]:
        turn = object()
        with self._changed:
            self._queue.append(turn)
            self._changed.wait_for(lambda: self._queue[0] is turn and self._has_left(num_bytes))
            self._queue.popleft()
            self._taken_bytes += num_bytes
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken_bytes -= num_bytes
                self._changed.notify_all()

    def reading(self, num_bytes: int) -> AbstractContextManager[None]:
        """As `taking`, for an image that is read. Raises `PassingReadError` if there can never be that much."""
        if num_bytes <= _SMALL_BYTES:  # nearly all of them, and there are many
            return _AT_ONCE
        remedy = "scale it down first, or leave such images out with --max-image-pixels"
        if reason := self.refusal(num_bytes, "to read", remedy):
            raise PassingReadError(reason)
        return self._in_turn(num_bytes)

    def _has_left(self, num_bytes: int) -> bool:
        return not self._taken_bytes or self._taken_bytes + num_bytes <= self.total_bytes


def room_for_images(root: Path = Path("/")) -> Room:
    """Return what images may take in this process at most: the same while the limits are, whatever else is running.

    The memory and swap of the machine or, if less, of the container or job, without the program; or what the process
    has left of its address space.
    """
    known = min((*_whole_machine(root), *_limits_of_groups(root)), default=sys.maxsize)
    return Room(max(0, min(known - _PROGRAM_BYTES, *_left_of_address_space(root), sys.maxsize)))


def _whole_machine(root: Path) -> Iterator[int]:
    memory = _number(root / "proc/meminfo", r"^MemTotal: +(\d+) kB")
    if memory is not None:
        yield (memory << 10) + _swap_bytes(root)


def _swap_bytes(root: Path) -> int:
    return (_number(root / "proc/meminfo", r"^SwapTotal: +(\d+) kB") or 0) << 10


def _limits_of_groups(root: Path) -> Iterator[int]:
    """The limits of the groups that this process is in; what of it may be swapped out comes on top."""
    for folder in _groups_v2(root):
        limit = _number(folder / "memory.max", r"^(\d+)$")
        swap = _number(folder / "memory.swap.max", r"^(\d+)$")
        if limit is not None:
            yield limit + min(_swap_bytes(root) if swap is None else swap, _swap_bytes(root))
    for folder in _groups_v1(root):
        limit = _number(folder / "memory.limit_in_bytes", r"^(\d+)$")
        both = _number(folder / "memory.memsw.limit_in_bytes", r"^(\d+)$")
        if limit is not None:
            yield min(limit + _swap_bytes(root), both or sys.maxsize)


def _left_of_address_space(root: Path) -> Iterator[int]:
    """Of `ulimit -v`, as batch systems set it."""
    limit = _number(root / "proc/self/limits", r"^Max address space +(\d+) ")
    used = _number(root / "proc/self/status", r"^VmSize:\s+(\d+) kB")
    if limit is not None and used is not None:
        yield limit - (used << 10)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process could still have, the page cache included; 4 GiB where nothing is known.

    `root`: where `proc` and `sys` are.
    """
    return min((*_of_machine(root), *_of_control_groups(root)), default=_UNKNOWN)


def _of_machine(root: Path) -> Iterator[int]:
    if (kibibytes := _number(root / "proc/meminfo", r"^MemAvailable: +(\d+) kB")) is not None:
        yield kibibytes << 10


def _of_control_groups(root: Path) -> Iterator[int]:
    """Yield the bytes left in each of the groups that this process is in, of version 2 and of version 1."""
    for folder in _groups_v2(root):
        yield from _left(folder, "memory.max", "memory.current", "inactive_file")
    for folder in _groups_v1(root):
        yield from _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _groups_v2(root: Path) -> Iterator[Path]:
    """The folders of the groups of version 2, inner ones first."""
    for path in re.findall(r"^0::(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE):
        yield from _upwards(root / "sys/fs/cgroup", path)


def _groups_v1(root: Path) -> Iterator[Path]:
    """The folders of the groups of version 1 that count memory, inner ones first."""
    listed = _text(root / "proc/self/cgroup")
    for path in re.findall(r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$", listed, re.MULTILINE):
        yield from _upwards(root / "sys/fs/cgroup/memory", path)


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The folders of a group and of those it is in; in a container, the mount itself is the innermost."""
    parts = PurePosixPath(group.lstrip("/")).parts
    if ".." not in parts:
        for count in range(len(parts), 0, -1):
            yield mount.joinpath(*parts[:count])
    yield mount


def _left(folder: Path, limit_name: str, used_name: str, cache_name: str) -> Iterator[int]:
    """Bytes that a group with a limit may still take; files that it has in the cache, unused for long, make room."""
    limit, used = _number(folder / limit_name, r"^(\d+)$"), _number(folder / used_name, r"^(\d+)$")
    if limit is not None and used is not None:
        cached = _number(folder / "memory.stat", rf"^{cache_name} (\d+)$") or 0
        yield max(0, limit - used + cached)


def _number(path: Path, pattern: str) -> int | None:
    found = re.search(pattern, _text(path), re.MULTILINE)
    return None if found is None else int(found[1])


def _text(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="ascii")
    return ""
