"""Files that are not here: links to content that was not fetched, and the small files that stand for large ones.

The caches of hubs, DVC and git-annex hold files by their sha256, and a data set is links to them. git-annex and Git LFS
also leave a text of a few lines in the place of a file.
"""

import os
from contextlib import suppress
from pathlib import Path

_START_BYTES = 64
# How a pointer begins, whose it is, and what brings the file.
_POINTERS = (
    (b"version https://git-lfs.github.com/spec/", "Git LFS", "git lfs pull"),
    (b"version https://hawser.github.com/spec/", "Git LFS", "git lfs pull"),  # its first name
    (b"/annex/objects/", "git-annex", "git annex get"),
)
_FETCH_ANNEX = "git-annex has not fetched it: git annex get"
# What a dangling link leads to -> who knows where the content is.
_STORES = (
    ("annex/objects/", _FETCH_ANNEX),
    (".dvc/cache/", "DVC has not fetched it: dvc pull"),
    ("/blobs/", "the hub's cache no longer has it: download the set again"),
)


def describe_absent(path: Path) -> str | None:
    """Of a link that leads nowhere, where it leads and how to get the content; None for all else."""
    try:
        target = os.readlink(path)  # noqa: PTH115 # as it is written
    except OSError:
        return None
    if os.path.exists(path):  # noqa: PTH110 # no OSError
        return None
    advice = next((advice for part, advice in _STORES if part in target.replace(os.sep, "/")), "its content is missing")
    return f"a link to {target:.200}, which is not there; {advice}"


def or_pointer(path: Path, what: str) -> str:
    """Say `what` is wrong with the file at `path`, or that it is only a pointer to the file that it should be."""
    return describe_pointer(path) or what


def describe_pointer(path: Path) -> str | None:
    """Of a small text in the place of a file that was not fetched, what it is and what to do; None for all else."""
    start = _start(path)
    for signature, kind, command in _POINTERS:
        if start.startswith(signature):
            return f"a {kind} pointer, not the file itself; get that with: {command}"
    return None


def why_unreadable(path: Path, error: OSError) -> str:
    """What to say of a file that could not be opened or read: of links that lead nowhere, more than the system says."""
    return describe_absent(path) or error.strerror or str(error)


def _start(path: Path) -> bytes:
    with suppress(OSError, ValueError):
        if path.is_file():  # a pipe would keep us waiting
            with path.open("rb") as file:
                return file.read(_START_BYTES)
    return b""
