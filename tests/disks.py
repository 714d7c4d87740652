"""Small disks, to be filled up and read only: file systems in memory, which take Linux and root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory, mounted at `folder` (made), e.g. with "size=64k". Skips where one cannot."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", os.fspath(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes Linux and root")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", os.fspath(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    """Make a small disk larger or smaller, "ro" or "rw"."""
    subprocess.run(["mount", "-o", f"remount,{options}", os.fspath(disk)], check=True)


def fill_disk(folder: Path) -> Path:
    """Take all space that is left on the disk of `folder`; deleting the file that is returned gives it back."""
    padding = folder / "padding"
    with padding.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))
    return padding
