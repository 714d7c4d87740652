"""The shims themselves: a disk that refuses nothing would let every test pass."""

import errno
import os
import subprocess
import sys
from pathlib import Path

from tests.shims import Names, OneInode, Refuse, Space, environment, pretend

_PROGRAM = """
import errno, fcntl, mmap, os, sys

def told(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def locked():
    first, second = (open("lock", "w") for _ in range(2))
    fcntl.flock(first, fcntl.LOCK_EX)
    return told(fcntl.flock, second, fcntl.LOCK_EX | fcntl.LOCK_NB)

os.makedirs("a/b")
for name in ("IMG", "img", "caf\\u00e9", "cafe\\u0301", "end", "end. "):
    open(name, "w").close()
writes = [told(os.write, os.open("full", os.O_CREAT | os.O_WRONLY), b"x") for _ in range(3)]
open("m", "wb").write(b"x" * 10)
print(
    len(os.listdir()), told(open, "a:b", "w"), told(open, "x" * 20, "w"), told(os.fsync, os.open(".", 0)), locked(),
    os.stat("a").st_ino == os.stat("a/b").st_ino, os.statvfs(".").f_blocks, told(os.memfd_create, "m"), *writes,
    told(mmap.mmap, os.open("m", os.O_RDONLY), 0, mmap.MAP_SHARED, mmap.PROT_READ), told(os.rename, "m", "full"),
)
"""


def _run(folder: Path, variables: dict[str, str]) -> str:
    folder.mkdir()
    command = [sys.executable, "-c", _PROGRAM]
    return subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=True
    ).stdout


def test_each_refusal_reaches_a_program_and_only_below_its_folder(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    variables = environment(
        Names(disk, bad_characters=":", most_bytes=12, blind="case unicode ends"),
        Refuse("fsync_folder", errno.EINVAL, disk),
        pretend("flock", disk),
        OneInode(disk),
        Space(disk),
        Refuse("memfd_create", errno.ENOSYS),
        Refuse("mmap_shared", errno.ENODEV, disk),
        Refuse("write", errno.ENOSPC, disk, after=1, times=1, part="/full"),
        Refuse("rename_over", errno.EPERM, disk),
    )

    assert _run(disk, variables) == "6 EINVAL EINVAL EINVAL done True 0 ENOSYS done ENOSPC done ENODEV EPERM\n"
    elsewhere = _run(tmp_path / "elsewhere", variables)
    assert elsewhere.startswith("9 done done done EAGAIN False ")
    assert elsewhere.endswith(" ENOSYS done done done done done\n")
