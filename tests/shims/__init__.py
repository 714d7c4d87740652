"""Disks that refuse: libraries put before the C library by LD_PRELOAD, for tests that run a process of their own.

`environment(Refuse("fsync_folder", errno.EINVAL, under=folder), Names(under=folder, blind="case unicode"))` gives
the variables for `subprocess`. Calls are those of `calls.c`:

open, create (O_CREAT), open_nofollow, open_nonblock, open_tmpfile, open_writing, open_folder, list (opendir),
fsync_file, fsync_folder, syncfs, flock, fcntl_lock, mmap, mmap_shared, rename (by the new name), rename_over,
rename_across (folders), unlink, rmdir, mkdir, link, symlink, readlink, access, chmod, utime, read, pread, write,
pwrite, truncate, fallocate, copy_file_range, sendfile, statvfs, stat, and, wherever they are called, memfd_create,
sched_getaffinity.
"""

import atexit
import errno
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Refuse:
    """One call below `under`, refused with `error` (an errno) `times` times (-1: always) after `after` that went well.

    `part`: only paths that contain this. `error` 0: the call says that it succeeded, and does nothing.
    """

    call: str
    error: int
    under: Path = Path("/")
    after: int = 0
    times: int = -1
    part: str = "/"

    def to_variables(self) -> dict[str, str]:
        """The line for `calls.c`."""
        fields = (self.call, self.error, self.after, self.times, self.under, self.part)
        return {"SHIM_CALLS": "\t".join(map(str, fields))}


def pretend(call: str, under: Path = Path("/"), part: str = "/") -> Refuse:
    """A call that succeeds without doing anything: `flock` of a disk where everybody gets the lock."""
    return Refuse(call, 0, under, part=part)


def slow(call: str, seconds: float, under: Path = Path("/"), part: str = "/") -> Refuse:
    """A call that takes so long before it is done."""
    return Refuse(call, -int(seconds * 1e6), under, part=part)


@dataclass(frozen=True)
class Names:
    """A disk with its own mind about names. `blind`: any of case, unicode, ends (dots and spaces at the end).

    `lookups`: names that it does not take are refused with `error` also where they are only asked for.
    """

    under: Path
    bad_characters: str = ""
    most_bytes: int = 0
    error: int = errno.EINVAL
    blind: str = ""
    lookups: bool = False

    def to_variables(self) -> dict[str, str]:
        """The variables of `names.c`."""
        given = {
            "SHIM_BAD_CHARACTERS": self.bad_characters,
            "SHIM_NAME_BYTES": str(self.most_bytes or ""),
            "SHIM_BLIND": self.blind,
            "SHIM_NAME_LOOKUPS": "1" if self.lookups else "",
        }
        base = {"SHIM_NAMES_UNDER": str(self.under), "SHIM_NAME_ERRNO": str(self.error)}
        return base | {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class Space:
    """The answer of statvfs below `under`; -1 leaves a value as it is."""

    under: Path
    blocks: int = 0
    free: int = 0
    available: int = 0
    block_bytes: int = -1

    def to_variables(self) -> dict[str, str]:
        """The variable of `calls.c`."""
        values = (self.blocks, self.free, self.available, self.block_bytes)
        return {"SHIM_STATVFS": "\t".join(map(str, (self.under, *values)))}


@dataclass(frozen=True)
class OneInode:
    """All folders below `under` have the inode `number`, or all files and folders the ctime `ctime_s`."""

    under: Path
    number: int | None = 7
    ctime_s: int | None = None

    def to_variables(self) -> dict[str, str]:
        """The variables of `calls.c`."""
        given = {"SHIM_INODE": self.number, "SHIM_CTIME": self.ctime_s}
        return {name: f"{self.under}\t{value}" for name, value in given.items() if value is not None}


def environment(*disks: Refuse | Names | Space | OneInode) -> dict[str, str]:
    """Variables for a process that is to meet such disks; skips the test where that cannot be played."""
    variables: dict[str, str] = {"LD_PRELOAD": " ".join(map(str, _libraries()))}
    for disk in disks:
        for name, value in disk.to_variables().items():
            before = f"{variables[name]}\n" if name == "SHIM_CALLS" and name in variables else ""
            variables[name] = before + value
    return variables


@cache
def _libraries() -> tuple[Path, Path]:
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD is for Linux")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = Path(tempfile.mkdtemp(prefix="semdis-shims-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "folds.h").write_text(_folds(), encoding="ascii")
    names, calls = folder / "names.so", folder / "calls.so"
    for library in (names, calls):
        source = _HERE / f"{library.stem}.c"
        options = ["-O1", "-shared", "-fPIC", "-w", f"-I{folder}", f"-I{_HERE}"]
        done = subprocess.run(
            [compiler, *options, "-o", library, source, "-ldl"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"{source.name} does not compile here: {done.stderr[:200]}")
    probe = subprocess.run(["/bin/true"], env={"LD_PRELOAD": str(calls)}, capture_output=True, check=False)
    if probe.returncode or probe.stderr:
        pytest.skip("LD_PRELOAD does not work here")
    return names, calls


def _folds() -> str:
    """C tables of what code points become on a disk that does not tell them apart."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    tables = {
        "case_folds": {c: c.casefold() for c in characters},
        "unicode_folds": {c: unicodedata.normalize("NFD", c) for c in characters},
    }
    lines = ["typedef struct { unsigned code, to[4]; } Fold;"]
    for name, folds in tables.items():
        rows = ",".join(f"{{{ord(c)},{{{','.join(str(ord(x)) for x in to)}}}}}" for c, to in folds.items() if c != to)
        lines.append(f"static const Fold {name}[] = {{{rows}}};")
    return "\n".join(lines) + "\n"
