"""Outline of a planned set, without its images: for whoever finishes a set that shares of a run have written.

A file of JSON lines: the plan, then what it holds line by line, each as [kind, ...], and last the sha256 of all that.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.atomic import publish
from semdis_cli.files.json_text import escape_name, parse_json, to_line, unescape_name
from semdis_cli.store.checks import MALFORMED, check_count, check_integer, check_sha256, check_shard_name, check_text
from semdis_cli.store.columns import check_classes
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.merge import joined
from semdis_cli.store.writing.plan import SetPlan

_NOT_THIS = "the journal has other shards than are planned; delete its outline, which the next part writes again"
_GONE = ("returned", "removed", "forgotten")


class OutlinedShard(NamedTuple):
    """A planned shard: its name, and the number of its images."""

    name: str
    num_images: int


@dataclass(frozen=True)
class Outline:
    """A plan as whoever finishes the set needs it; the names as in `SetPlan`.

    `changes`: without the images that are to be encoded; those that are kept are in it only if `has_kept`.
    """

    sha256: str
    shards: tuple[OutlinedShard, ...]
    num_inputs: int
    failures: Sequence[Failure] = ()
    changes: Changes = field(default_factory=Changes)
    classes: tuple[str, ...] = ()
    left_out: Sequence[LeftOut] = ()
    has_kept: bool = True

    @classmethod
    def of(cls, plan: SetPlan) -> Self:
        """Return that of a plan."""
        shards = tuple(OutlinedShard(shard.name, len(shard.images)) for shard in plan.shards)
        facts = plan.failures, plan.changes, plan.classes, plan.left_out
        return cls(plan.sha256, shards, plan.num_inputs, *facts)

    def check_shards(self, num_images: Mapping[str, int], root: Path) -> None:
        """Raise `StoreError` unless the set in `root` has these shards, each once; `num_images`: what they hold."""
        names = {shard.name for shard in self.shards}
        if len(names) < len(self.shards) or any(num_images[name] != number for name, number in self.shards):
            raise StoreError(_NOT_THIS, place=root)

    def check_inputs(self, num_rows: int, root: Path) -> None:
        """Raise `StoreError` unless the set in `root` has a row for each input."""
        if num_rows != self.num_inputs:
            raise StoreError(f"{_NOT_THIS} ({num_rows:,} rows for {self.num_inputs:,} inputs)", place=root)

    def write(self, path: Path) -> None:
        """Publish it at `path`. Raises `NoSpaceError` or `UsageError`."""
        publish(path, proved(chain([to_line(self._head())], self._lines())))

    def _head(self) -> dict[str, Any]:
        return {"plan_sha256": self.sha256, "num_inputs": self.num_inputs, "classes": list(self.classes)}

    def _lines(self) -> Iterator[bytes]:
        for name, num_images in self.shards:
            yield to_line(["shard", name, num_images])
        for failure in self.failures:
            times = failure.num_bytes, failure.mtime_ns, failure.ctime_ns
            yield to_line(["failure", escape_name(failure.key), escape_name(failure.reason), *times])
        for one in self.left_out:
            size = None if one.size is None else list(one.size)
            facts = one.reason, one.num_bytes, one.mtime_ns, one.ctime_ns, size, one.sha256
            yield to_line(["left_out", escape_name(one.key), *facts])
        for kind in _GONE:
            for key in sorted(getattr(self.changes, kind)):
                yield to_line([kind, escape_name(key)])
        for key, reason in sorted(self.changes.set_aside.items()):
            yield to_line(["set_aside", escape_name(key), reason])

    @staticmethod
    def read(path: Path) -> "Outline":
        """Read what `write` has published. Raises `StoreError` if it is missing or damaged."""
        try:
            with path.open("rb") as file:
                return _Lines(file).outline()
        except MALFORMED as error:
            raise StoreError(f"damaged ({error}); delete it: the next part writes it again", place=path) from error
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror or error})", place=path) from error


def outline_of(path: Path) -> str | None:
    """Return the hash of the plan of an outline at `path`; None if there is none that can be read."""
    try:
        with path.open("rb") as file:
            return check_sha256(parse_json(file.readline())["plan_sha256"])
    except (*MALFORMED, OSError):
        return None


def proved(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `lines`, some at a time, and last their sha256."""
    digest = hashlib.sha256()
    for some in joined(lines):
        digest.update(some)
        yield some
    yield to_line(["sha256", digest.hexdigest()])


class _Lines:
    """The lines of an outline, by kind."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        digest = hashlib.sha256()
        first = next(iter(lines), b"")
        self._head = parse_json(first)
        digest.update(first)
        self._found: dict[str, list[Sequence[Any]]] = {}
        proved = None
        for line in lines:
            kind, *facts = parse_json(line)
            if proved is not None:
                raise ValueError("it goes on after its end")
            if kind == "sha256":
                proved = facts == [digest.hexdigest()]
            else:
                self._found.setdefault(check_text(kind), []).append(facts)
                digest.update(line)
        if not proved:
            raise ValueError("it does not match its sha256")

    def outline(self) -> Outline:
        """Return what the lines say. Raises one of `MALFORMED`."""
        head = self._head
        returned, removed, forgotten = (frozenset(key for (key,) in self._keyed(kind)) for kind in _GONE)
        set_aside = {key: check_text(reason) for key, reason in self._keyed("set_aside")}
        shards = [OutlinedShard(check_shard_name(name), check_count(number)) for name, number in self._all("shard")]
        return Outline(
            check_sha256(head["plan_sha256"]),
            tuple(shards),
            check_count(head["num_inputs"]),
            tuple(map(_failure, self._keyed("failure"))),
            Changes(returned=returned, removed=removed, forgotten=forgotten, set_aside=set_aside),
            tuple(check_classes(head["classes"])),
            tuple(map(_left_out, self._keyed("left_out"))),
            has_kept=False,
        )

    def _all(self, kind: str) -> list[Sequence[Any]]:
        return self._found.get(kind, [])

    def _keyed(self, kind: str) -> Iterator[list[Any]]:
        for key, *facts in self._all(kind):
            yield [unescape_name(check_text(key)), *facts]


def _number(value: object) -> int | None:
    return None if value is None else check_integer(value)


def _failure(facts: Sequence[Any]) -> Failure:
    key, reason, num_bytes, mtime_ns, ctime_ns = facts
    return Failure(key, unescape_name(check_text(reason)), _number(num_bytes), _number(mtime_ns), _number(ctime_ns))


def _left_out(facts: Sequence[Any]) -> LeftOut:
    key, reason, num_bytes, mtime_ns, ctime_ns, size, sha256 = facts
    times = check_count(num_bytes), _number(mtime_ns), _number(ctime_ns)
    sides = None if size is None else (check_count(size[0]), check_count(size[1]))
    return LeftOut(key, check_text(reason), *times, sides, None if sha256 is None else check_sha256(sha256))
