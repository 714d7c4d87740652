"""How much memory there is to be had: the machine's, and what a container or a batch job is allowed of it."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_UNKNOWN = 4 << 30  # bytes that are taken to be there where the system does not tell


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process could still have, the page cache included; 4 GiB where nothing is known.

    `root`: where `proc` and `sys` are.
    """
    return min((*_of_machine(root), *_of_control_groups(root)), default=_UNKNOWN)


def _of_machine(root: Path) -> Iterator[int]:
    if (kibibytes := _number(root / "proc/meminfo", r"^MemAvailable: +(\d+) kB")) is not None:
        yield kibibytes << 10


def _of_control_groups(root: Path) -> Iterator[int]:
    """What is left in each of the groups that this process is in, of version 2 and of version 1."""
    groups = _text(root / "proc/self/cgroup")
    for path in re.findall(r"^0::(.*)$", groups, re.MULTILINE):
        for folder in _upwards(root / "sys/fs/cgroup", path):
            yield from _left(folder, "memory.max", "memory.current", "inactive_file")
    for path in re.findall(r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$", groups, re.MULTILINE):
        for folder in _upwards(root / "sys/fs/cgroup/memory", path):
            yield from _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


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
