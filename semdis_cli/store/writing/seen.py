"""`seen.jsonl`: when the files of a finished set were last changed, so that the next run need not read them again.

A set whose index lies in pieces has one in `seen/` for each of them.

It proves nothing and is no part of the set's promise: where it is missing or out of date, contents are compared. The
first line names the index that it belongs to, the others are `[key, bytes, mtime, ctime]`, times in nanoseconds since
1970, sorted by key. Lines without a ctime were written by earlier versions.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.atomic import make_folder, publish
from semdis_cli.files.images import FactColumns, Facts, Images
from semdis_cli.files.json_text import escape_name, parse_json, unescape_name
from semdis_cli.files.url import Location
from semdis_cli.records import SourceImage
from semdis_cli.store.checks import MALFORMED, check_count, check_integer, check_text
from semdis_cli.store.writing.merge import joined

_COPIED_AT_ONCE = 1 << 20
_quoted = json.encoder.encode_basestring_ascii


class SeenFile(NamedTuple):
    """The size of a source file, when it was modified, and when it was changed in any way.

    `mtime_ns` None: that cannot be told, contents are to be compared. `ctime_ns` None: nobody looked.
    """

    key: str
    num_bytes: int
    mtime_ns: int | None
    ctime_ns: int | None = None

    @classmethod
    def of(cls, image: SourceImage) -> "SeenFile":
        """The file of an image, whose times are settled."""
        return cls(image.key, image.num_bytes, image.mtime_ns, image.ctime_ns)

    def to_line(self) -> bytes:
        """As written."""
        return _line(self).encode()

    @classmethod
    def parse(cls, line: bytes) -> "SeenFile":
        """Inverse of `to_line`. Raises `StoreError` for anything else."""
        try:
            key, *facts = parse_json(line)
            return cls.from_facts(unescape_name(check_text(key)), facts)
        except MALFORMED as error:
            raise StoreError(f"no times of a file ({error})") from error

    @classmethod
    def from_facts(cls, key: str, facts: list[object]) -> "SeenFile":
        """From size, mtime and, from this version on, ctime. Raises one of `MALFORMED`."""
        num_bytes, mtime_ns, *rest = facts
        ctime_ns = rest[0] if rest else None
        if len(rest) > 1:
            raise ValueError("more than two times")
        return cls(key, check_count(num_bytes), _check_time(mtime_ns), _check_time(ctime_ns))


def _line(facts: Facts) -> str:
    key, num_bytes, mtime_ns, ctime_ns = facts
    if not key.isascii():
        key = escape_name(key)
    if mtime_ns is None or ctime_ns is None:
        return f"[{_quoted(key)},{num_bytes},{_number(mtime_ns)},{_number(ctime_ns)}]\n"
    return f"[{_quoted(key)},{num_bytes},{mtime_ns},{ctime_ns}]\n"  # a million of them in half a second


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _check_time(value: object) -> int | None:
    return None if value is None else check_integer(value)


def seen_failure(failure: Failure) -> SeenFile | None:
    """Return the file whose content is the reason of a failure; None if the reason is another."""
    if not failure.is_final:
        return None
    assert failure.num_bytes is not None
    return SeenFile(failure.key, failure.num_bytes, failure.mtime_ns, failure.ctime_ns)


def seen_left_out(left_out: LeftOut) -> SeenFile:
    """Return the file that a filter left out."""
    return SeenFile(left_out.key, left_out.num_bytes, left_out.mtime_ns, left_out.ctime_ns)


class SeenByKey:
    """Looks up what is known of files, by rising keys."""

    def __init__(self, seen: Iterator[SeenFile]) -> None:
        self._seen = seen
        self._next = next(seen, None)

    def of(self, image: SourceImage) -> SeenFile | None:
        """Return what is known of the file that the row of `image` was made from."""
        while self._next is not None and self._next.key < image.key:
            self._next = next(self._seen, None)
        return self._next if self._next is not None and self._next.key == image.key else None


def first_line(index_sha256: str) -> bytes:
    """The line that says which index a file of this kind belongs to."""
    return json.dumps({"index": index_sha256}).encode() + b"\n"


def write_seen(path: Path, index_sha256: str, lines: Iterable[bytes]) -> None:
    """Publish the file at `path`; `lines`: of its files, sorted by key."""
    make_folder(path.parent)
    publish(path, chain([first_line(index_sha256)], joined(lines)))


def copy_seen(path: Path, index_sha256: str, target: Path, new_sha256: str) -> None:
    """Publish the file at `path` at `target`, for another index with the same images; nothing if there is none."""
    try:
        with path.open("rb") as file:
            if file.readline() == first_line(index_sha256):
                make_folder(target.parent)
                rest = iter(lambda: file.read(_COPIED_AT_ONCE), b"")
                publish(target, chain([first_line(new_sha256)], rest))
    except FileNotFoundError:
        return


def read_seen(path: Location, index_sha256: str) -> Iterator[SeenFile]:
    """The rows of the file at `path`; none where it is missing or belongs to another index, fewer where damaged."""
    try:
        with path.open("rb") as file:
            if file.readline() != first_line(index_sha256):
                return
            for line in file:
                yield SeenFile.parse(line)
    except (OSError, StoreError):
        return


def has_seen(path: Path, index_sha256: str) -> bool:
    """Tell whether there is such a file at `path`, and it belongs to that index."""
    try:
        with path.open("rb") as file:
            return file.readline() == first_line(index_sha256)
    except OSError:
        return False


def seen_time_ns(paths: Iterable[Location]) -> int | None:
    """Return when the oldest of these files was written, nanoseconds since 1970; None if one is missing."""
    try:
        return min((path.stat().st_mtime_ns for path in paths), default=None)
    except OSError:
        return None


def is_just_this(path: Path, index_sha256: str, images: Images) -> bool:
    """Tell whether the file at `path` is what `write_seen` would make of `images`."""
    try:
        with path.open("rb") as file:
            if file.readline() != first_line(index_sha256):
                return False
            pieces = map(_lines, images.fact_columns())
            return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)
    except OSError:
        return False


def _lines(columns: FactColumns) -> bytes:
    """Return the lines of some files; all in one go if their names are written as they are, and all times are known."""
    names = "".join(columns.keys)
    if None in columns.mtimes_ns or None in columns.ctimes_ns or _quoted(names) != f'"{names}"':
        return "".join(map(_line, zip(*columns, strict=True))).encode()
    facts = tuple(chain.from_iterable(zip(*columns, strict=True)))
    return (len(columns.keys) * '["%s",%d,%d,%d]\n' % facts).encode()
