"""Files that are not here: links to content that was not fetched, and the small files that stand for large ones.

The caches of hubs, DVC and git-annex hold files by their sha256, and a data set is links to them. git-annex and Git LFS
also leave a text of a few lines in the place of a file.
"""

import os
from contextlib import suppress
from typing import NamedTuple

from semdis_cli.files.url import Location


class Pointer(NamedTuple):
    """A kind of small text in the place of a file: how it begins, its name with its article, and what gets the file."""

    signature: bytes
    name: str
    command: str


_START_BYTES = 64
POINTERS = (
    Pointer(b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", "git lfs pull"),
    Pointer(b"version https://hawser.github.com/spec/", "a Git LFS pointer", "git lfs pull"),  # its first name
    Pointer(b"/annex/objects/", "a git-annex pointer", "git annex get"),
)
_FETCH_ANNEX = "git-annex has not fetched it: git annex get"
# What a dangling link leads to -> who knows where the content is.
_STORES = (
    ("annex/objects/", _FETCH_ANNEX),
    (".dvc/cache/", "DVC has not fetched it: dvc pull"),
    ("/blobs/", "the hub's cache no longer has it: download the set again"),
)


def describe_absent(path: Location) -> str | None:
    """Of a link that leads nowhere, where it leads and how to get the content; None for all else."""
    try:
        target = os.readlink(path)  # noqa: PTH115 # as it is written
    except OSError:
        return None
    if os.path.exists(path):  # noqa: PTH110 # no OSError
        return None
    advice = next((advice for part, advice in _STORES if part in target.replace(os.sep, "/")), "its content is missing")
    return f"a link to {target:.200}, which is not there; {advice}"


def or_pointer(path: Location, what: str) -> str:
    """Say `what` is wrong with the file at `path`, or that it is only a pointer to the file that it should be."""
    return describe_pointer(path) or what


def describe_pointer(path: Location) -> str | None:
    """Of a small text in the place of a file that was not fetched, what it is and what to do; None for all else."""
    start = read_start(path, _START_BYTES)
    for pointer in POINTERS:
        if start.startswith(pointer.signature):
            return f"{pointer.name}, not the file itself; get that with: {pointer.command}"
    return None


def why_unreadable(path: Location, error: OSError) -> str:
    """Say why a file could not be opened or read: of a link that leads nowhere, more than the system says."""
    return describe_absent(path) or error.strerror or str(error)


def read_start(path: Location, num_bytes: int) -> bytes:
    """The first bytes of a regular file; none of what cannot be read."""
    with suppress(OSError, ValueError):
        if path.is_file():  # a pipe would keep us waiting
            with path.open("rb") as file:
                return file.read(num_bytes)
    return b""
