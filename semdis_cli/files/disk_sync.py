"""One sync for all that was written to a disk: Linux has it, but only local disks carry it out, and say if they cannot.

It waits for what others have written to the disk too, which may be very much.
"""

import ctypes
import errno
import os
import re
import sys
from functools import lru_cache
from pathlib import Path

LONGEST_SYNC_S = 1.0  # where one takes longer, most of it is what others have written: files are synced one by one then
_FIRST_KERNEL = (5, 8)  # that tells by syncfs of a write that failed
_KINDS = frozenset({0xEF53, 0x58465342, 0x9123683E})  # of statfs: ext2 to ext4, XFS, Btrfs
_STATFS_BYTES = 512  # more than the structure has anywhere


def open_disk(folder: Path) -> int | None:
    """Open the disk of `folder` for `sync_disk`; None where files have to be synced one by one.

    It is told of errors since it was opened: open it first, then write. The descriptor is the caller's to close.
    """
    library = _library()
    if library is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    facts = ctypes.create_string_buffer(_STATFS_BYTES)
    is_known = library.fstatfs(descriptor, facts) == 0 and ctypes.c_long.from_buffer(facts).value in _KINDS
    if is_known:
        return descriptor
    os.close(descriptor)
    return None


def sync_disk(descriptor: int) -> None:
    """Wait until all that was written to the disk is safe. Raises `OSError` where it failed (EIO)."""
    library = _library()
    assert library is not None, "the disk was opened for it"
    if library.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """Return the C library if it has a syncfs that can be relied on, and a sandbox lets the call through."""
    if sys.platform != "linux" or _kernel_version() < _FIRST_KERNEL:
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs") or not hasattr(library, "fstatfs"):
        return None
    no_descriptor = -1
    is_let_through = library.syncfs(no_descriptor) != 0 and ctypes.get_errno() == errno.EBADF
    return library if is_let_through else None


def _kernel_version() -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (0,) if found is None else tuple(map(int, found.groups()))
