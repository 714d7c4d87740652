"""A plan in a file: made once, and read by all runs that write a share of the set, each of which needs little of it.

It holds lines of JSON: the images of one shard after the other; some thousands at a time of what else is planned; then
the head, which says where each of these lines is, and last where the head is. Each is known by its sha256. A run reads
the head, and of the images those of the shards that it writes, when it comes to them.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.atomic import publish
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.json_text import escape_name, parse_json, to_line
from semdis_cli.records import SourceImage
from semdis_cli.stops import look
from semdis_cli.store.checks import MALFORMED, check_count, check_object, check_sha256, check_shard_name
from semdis_cli.store.columns import check_classes
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.plan import MAX_SHARD_IMAGES, SetPlan

_VERSION = 1
_ROWS = 4096  # in a line, of what else is planned than images
_TAIL_BYTES = 4096  # in which the last line lies

T = TypeVar("T")
KEY_LISTS = ("returned", "removed", "forgotten")
REASON_LISTS = ("set_aside", "failed_before")


class ImageForm(Protocol):
    """Form of images as plain values of JSON."""

    def describe(self, images: Sequence[SourceImage], *, are_kept: bool) -> dict[str, Any]:
        """Return images as plain values. `are_kept`: nobody is going to read them. Raises `UsageError`."""

    def read(self, fields: dict[str, Any]) -> ImageList:
        """Return the images again. Raises one of `MALFORMED` for what stands for none, or `SemdisError`."""


class Line(NamedTuple):
    """A line of the file: the number of images or rows in it, where it begins, its bytes and their sha256."""

    num_rows: int
    offset: int
    num_bytes: int
    sha256: str


# ---- Writing ----


def write_plan(path: Path, plan: SetPlan, base_sha256: str | None, about: Mapping[str, Any], form: ImageForm) -> None:
    """Publish a plan at `path`, whole or not at all.

    `base_sha256`: the set that it starts from. `about`: what whoever reads it needs to know beside it, as plain values.
    Raises `NoSpaceError` or `UsageError`, and what `form` raises.
    """
    publish(path, _lines(plan, base_sha256, about, form))


def _lines(plan: SetPlan, base_sha256: str | None, about: Mapping[str, Any], form: ImageForm) -> Iterator[bytes]:
    placed = _Placed()
    shards: list[Line] = []
    lists: dict[str, list[Line]] = {}
    for shard in plan.shards:
        look()
        yield placed.put(
            form.describe([image.source for image in shard.images], are_kept=False), len(shard.images), shards
        )
    lists["kept"] = []
    for some in _some(plan.changes.kept):
        yield placed.put(form.describe(some, are_kept=True), len(some), lists["kept"])
    for name, rows in _rows_of(plan).items():
        lists[name] = []
        for some_rows in _some(rows):
            yield placed.put({name: some_rows}, len(some_rows), lists[name])
    head = to_line(
        {
            "version": _VERSION,
            "about": dict(about),
            "plan_sha256": plan.sha256,
            "base_sha256": base_sha256,
            "classes": list(plan.classes),
            "changes": _counts_of(plan.changes),
            "shards": [[s.name, s.version, s.bucket, *line] for s, line in zip(plan.shards, shards, strict=True)],
            "lists": lists,
        }
    )
    yield head
    yield to_line({"head": placed.end, "sha256": hashlib.sha256(head).hexdigest()})


@dataclass
class _Placed:
    """Lines so far, which take `end` bytes."""

    end: int = 0

    def put(self, fields: dict[str, Any], num_rows: int, lines: list[Line]) -> bytes:
        """Return a line, and note in `lines` where it lies."""
        data = to_line(fields)
        lines.append(Line(num_rows, self.end, len(data), hashlib.sha256(data).hexdigest()))
        self.end += len(data)
        return data


def _rows_of(plan: SetPlan) -> dict[str, Iterable[list[Any]]]:
    changes = plan.changes
    keys = {name: sorted(getattr(changes, name)) for name in KEY_LISTS}
    return {
        "failures": ([*_times(one), escape_name(one.reason)] for one in plan.failures),
        "left_out": ([*_times(one), one.reason, one.size and [*one.size], one.sha256] for one in plan.left_out),
        **{name: ([escape_name(key)] for key in found) for name, found in keys.items()},
        **{name: _pairs(getattr(changes, name)) for name in REASON_LISTS},
    }


def _some(values: Iterable[T]) -> Iterator[list[T]]:
    left = iter(values)
    while some := list(islice(left, _ROWS)):
        look()
        yield some


def _times(one: Failure | LeftOut) -> list[Any]:
    return [escape_name(one.key), one.num_bytes, one.mtime_ns, one.ctime_ns]


def _pairs(reasons: Mapping[str, str]) -> Iterator[list[Any]]:
    return ([escape_name(key), escape_name(reason)] for key, reason in sorted(reasons.items()))


def _counts_of(changes: Changes) -> dict[str, Any]:
    return {
        "num_changed": changes.num_changed,
        "num_failed": changes.num_failed,
        "num_left_out": dict(changes.num_left_out),
        "lacks_times": changes.lacks_times,
    }


# ---- Reading ----


class ShardLine(NamedTuple):
    """A planned shard without its images, and their line."""

    name: str
    version: int
    bucket: tuple[int, int]
    line: Line


@dataclass(frozen=True)
class PlanFile:
    """A plan at `path`, of which the head was read; names as in `write_plan`. `made_s`: when, seconds since 1970.

    `counts`: of its changes, by their names there. `lists`: the lines of what else is planned, by name.
    """

    path: Path
    made_s: float
    about: Mapping[str, Any]
    plan_sha256: str
    base_sha256: str | None
    classes: tuple[str, ...]
    num_images: int
    counts: Mapping[str, Any]
    shards: tuple[ShardLine, ...]
    lists: Mapping[str, tuple[Line, ...]]

    @classmethod
    def read(cls, path: Path) -> "PlanFile | None":
        """Read the head of the plan at `path`; None if there is none. Raises `StoreError` if it is damaged."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                head, end = _read_head(file.fileno(), status.st_size)
            if head["version"] != _VERSION:
                raise ValueError(f"of version {head['version']!r:.20}, made by another semdis")
            shards = tuple(_parse_shard(row, end) for row in head["shards"])
            if len({shard.name for shard in shards}) < len(shards):
                raise ValueError("a shard comes twice")
            return cls(
                path,
                status.st_mtime,
                check_object(head["about"]),
                check_sha256(head["plan_sha256"]),
                None if head["base_sha256"] is None else check_sha256(head["base_sha256"]),
                check_classes(head["classes"]),
                sum(shard.line.num_rows for shard in shards),
                _check_counts(check_object(head["changes"])),
                shards,
                {name: tuple(_parse_line(row, end) for row in rows) for name, rows in head["lists"].items()},
            )
        except FileNotFoundError:
            return None
        except MALFORMED as error:
            raise damaged(path, error) from error
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", place=path) from error

    def fields(self, line: Line) -> dict[str, Any]:
        """Read a line of the file. Raises `StoreError` if it is not what it was."""
        try:
            with self.path.open("rb") as file:
                return check_object(parse_json(_read(file.fileno(), line)))
        except MALFORMED as error:
            raise damaged(self.path, error) from error
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", place=self.path) from error


def damaged(path: Path, error: BaseException) -> StoreError:
    """Return the error to raise for a plan that is not what `write_plan` writes."""
    return StoreError(f"the plan is damaged ({error}); make it again with semdis plan", place=path)


def _read_head(descriptor: int, num_bytes: int) -> tuple[dict[str, Any], int]:
    """Return the head, and where it begins. Raises one of `MALFORMED` or `OSError`."""
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, num_bytes - _TAIL_BYTES))
    last = tail.removesuffix(b"\n").rpartition(b"\n")[2]
    where = check_object(parse_json(last))
    start = check_count(where["head"])
    line = Line(0, start, num_bytes - start - len(last) - 1, check_sha256(where["sha256"]))
    return check_object(parse_json(_read(descriptor, line))), start


def _read(descriptor: int, line: Line) -> bytes:
    """Return the bytes of a line. Raises `ValueError` if they are others than they were, or `OSError`."""
    if line.num_bytes < 0:
        raise ValueError("it ends too early")
    pieces, left = [], line.num_bytes
    while left and (piece := os.pread(descriptor, left, line.offset + line.num_bytes - left)):
        pieces.append(piece)
        left -= len(piece)
    data = b"".join(pieces)
    if left or hashlib.sha256(data).hexdigest() != line.sha256:
        raise ValueError("a line does not match its sha256")
    return data


def _parse_shard(row: list[Any], end: int) -> ShardLine:
    name, version, (height, width), *line = row
    shard = ShardLine(
        check_shard_name(name), check_count(version), (check_count(height), check_count(width)), _parse_line(line, end)
    )
    if not 0 < shard.line.num_rows <= MAX_SHARD_IMAGES or not (height and width):
        raise ValueError(f"a shard of {shard.line.num_rows:,} images of {height} x {width} pixels")
    return shard


def _parse_line(row: list[Any], end: int) -> Line:
    num_rows, offset, num_bytes, sha256 = row
    line = Line(check_count(num_rows), check_count(offset), check_count(num_bytes), check_sha256(sha256))
    if line.offset + line.num_bytes > end or line.num_rows > line.num_bytes:
        raise ValueError("a line beyond its end")
    return line


def _check_counts(fields: dict[str, Any]) -> dict[str, Any]:
    lacks_times = fields["lacks_times"]
    if not isinstance(lacks_times, bool):
        raise ValueError(f"{lacks_times!r:.40} is neither true nor false")  # noqa: TRY004
    return {
        "num_changed": check_count(fields["num_changed"]),
        "num_failed": check_count(fields["num_failed"]),
        "num_left_out": {name: check_count(number) for name, number in check_object(fields["num_left_out"]).items()},
        "lacks_times": lacks_times,
    }
