"""Files that are not here: links to content that was not fetched, and the small files that stand for large ones.

The caches of hubs, DVC and git-annex hold files by their sha256, and a data set is links to them. git-annex and Git LFS
also leave a text of a few lines in the place of a file.
"""

import os
from pathlib import Path

_POINTER_BYTES = 1024  # by the specification of Git LFS; those of git-annex are a line
_LFS, _ANNEX = b"version https://git-lfs.github.com/spec/", b"/annex/objects/"
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


def describe_pointer(path: Path) -> str | None:
    """Of a small text in the place of a file that was not fetched, what it is and what to do; None for all else."""
    try:
        if not path.is_file() or path.stat().st_size > _POINTER_BYTES:
            return None
        start = path.read_bytes()
    except OSError:
        return None
    if start.startswith(_LFS):
        return "a pointer of Git LFS, not the file itself: git lfs pull"
    return f"a pointer of git-annex, not the file itself; {_FETCH_ANNEX}" if start.startswith(_ANNEX) else None


def why_unreadable(path: Path, error: OSError) -> str:
    """What to say of a file that could not be opened or read: of links that lead nowhere, more than the system says."""
    return describe_absent(path) or error.strerror or str(error)
