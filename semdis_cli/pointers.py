"""Files that stand for others: what Git LFS and git-annex leave where the content was not fetched."""

from contextlib import suppress
from pathlib import Path

_START_BYTES = 64
_KINDS = {
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer", "git lfs pull"),
    b"version https://hawser.github.com/spec/": ("a Git LFS pointer", "git lfs pull"),
    b"/annex/objects/": ("a git-annex pointer", "git annex get"),
}


def or_pointer(path: Path, what: str) -> str:
    """Say `what` is wrong with the file at `path`, or that it is only a pointer to the file that it should be."""
    start = _start(path)
    found = next((kind for signature, kind in _KINDS.items() if start.startswith(signature)), None)
    return what if found is None else f"{found[0]}, not the file itself; get that with: {found[1]}"


def _start(path: Path) -> bytes:
    with suppress(OSError, ValueError):
        if path.is_file():  # a pipe would keep us waiting
            with path.open("rb") as file:
                return file.read(_START_BYTES)
    return b""
