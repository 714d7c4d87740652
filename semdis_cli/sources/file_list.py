"""Files that are named one by one: single ones, and lists of them, as `find`, `ls` and Windows shells write them."""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Self

from semdis_cli.errors import UsageError
from semdis_cli.sources.files import image_of_file
from semdis_cli.sources.source import Finds, Search

_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_LOOKED_AT = 4096  # bytes that tell whether a list is UTF-16


@dataclass(frozen=True)
class FileList:
    """Source of files that were named one by one; `key_of` makes a key of a path."""

    paths: Sequence[Path]
    key_of: Callable[[Path], str]
    naming = None  # keys are names already

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the source of a single file, whose key is its name."""
        return cls([path], attrgetter("name"))

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Self:
        """Return the source of files of a list, whose keys are their paths."""
        return cls(paths, _listed_key)

    def images(self, prefix: str, search: Search) -> Finds:
        """List the files, or why they cannot be images. None is opened: a pipe would keep us waiting."""
        del search  # what was named outright is not passed over
        finds = Finds()
        for path in self.paths:
            key = prefix + self.key_of(path)
            try:
                status = path.stat()
            except OSError as error:
                finds.fail(key, path, f"cannot be read ({error.strerror})")
                continue
            if stat.S_ISREG(status.st_mode):
                finds.images.append(image_of_file(key, os.fspath(path), status))
            else:
                what = "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
                finds.fail(key, path, what)
        return finds


def _listed_key(path: Path) -> str:
    if not path.is_absolute() and ".." not in path.parts:
        return path.as_posix()
    absolute = Path(os.path.normpath(path.absolute()))
    return absolute.relative_to(absolute.anchor).as_posix()


def read_file_list(stream: BinaryIO, *, nul: bool) -> list[Path]:
    """Read the paths of a file list: one a line or, if `nul`, each ended by a NUL byte. Empty entries are skipped.

    Lines may end in CRLF, and names need not be UTF-8; a list in UTF-16, as PowerShell writes it, is known by its mark
    or its zeros. Raises `UsageError` for other NUL bytes in lines.
    """
    data = stream.read()
    if nul:
        return [Path(os.fsdecode(name)) for name in data.split(b"\0") if name]
    charset = _utf_16(data)
    if charset is not None:
        data = _as_utf_8(data, charset)
    if b"\0" in data:
        raise UsageError("the list of files holds NUL bytes: give -0 if they end the names")
    lines = (line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    return [Path(os.fsdecode(line)) for line in lines if line.strip()]


def _utf_16(data: bytes) -> str | None:
    """Tell the charset of a list in UTF-16: marked, or with a zero in every other byte, but for a few names."""
    if data[:2] in _BYTE_ORDER_MARKS:
        return _BYTE_ORDER_MARKS[data[:2]]
    start = data[:_LOOKED_AT]
    for charset, high, low in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        if len(data) % 2 == 0 and high.count(0) > len(high) // 2 and not low.count(0):
            return charset
    return None


def _as_utf_8(data: bytes, charset: str) -> bytes:
    try:
        return data.decode(charset).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise UsageError(f"the list of files is no whole {charset.upper()}: save it as UTF-8") from error
