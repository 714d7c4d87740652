"""`seen.jsonl`: when the files of a finished set were last modified, so that the next run need not read them again.

It proves nothing and is no part of the set's promise: where it is missing or out of date, contents are compared. The
first line names the index that it belongs to, the others are `[key, bytes, nanoseconds since 1970]`, sorted by key.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from semdis_cli.atomic import publish
from semdis_cli.events import Failure
from semdis_cli.store.checks import MALFORMED, check_count, check_text, parse_json

SEEN_FILE = "seen.jsonl"
_quoted = json.encoder.encode_basestring_ascii


class SeenFile(NamedTuple):
    """The size of a source file, and when it was modified; None: that cannot be told, contents are to be compared."""

    key: str
    num_bytes: int
    mtime_ns: int | None

    def to_line(self) -> bytes:
        """As written."""
        mtime_ns = "null" if self.mtime_ns is None else self.mtime_ns
        return f"[{_quoted(self.key)},{self.num_bytes},{mtime_ns}]\n".encode()  # `json.dumps` takes three times as long


def seen_failure(failure: Failure) -> SeenFile | None:
    """The file whose content is the reason of a failure; None if the reason is another."""
    if failure.num_bytes is None:
        return None
    return SeenFile(failure.key, failure.num_bytes, failure.mtime_ns)


def first_line(index_sha256: str) -> bytes:
    """The line that says which index a file of this kind belongs to."""
    return json.dumps({"index": index_sha256}).encode() + b"\n"


def write_seen(folder: Path, index_sha256: str, files: Iterable[SeenFile]) -> None:
    """Publish the file in `folder`; `files` are sorted by key."""

    def chunks() -> Iterator[bytes]:
        yield first_line(index_sha256)
        for seen in files:
            yield seen.to_line()

    publish(folder / SEEN_FILE, chunks())


def read_seen(folder: Path, index_sha256: str) -> Iterator[SeenFile]:
    """The rows of the file in `folder`; none where it is missing or belongs to another index, fewer where damaged."""
    try:
        with (folder / SEEN_FILE).open("rb") as file:
            if file.readline() != first_line(index_sha256):
                return
            for line in file:
                key, num_bytes, mtime_ns = parse_json(line)
                yield SeenFile(check_text(key), check_count(num_bytes), mtime_ns)
    except (OSError, *MALFORMED):
        return


def is_just_this(folder: Path, index_sha256: str, files: Iterable[SeenFile]) -> bool:
    """Whether the file in `folder` is what `write_seen` would make of `files`."""
    try:
        with (folder / SEEN_FILE).open("rb") as file:
            if file.readline() != first_line(index_sha256):
                return False
            return all(seen is not None and line == seen.to_line() for line, seen in zip_longest(file, files))
    except OSError:
        return False
