"""Rows on their way into a list of a set: merged by key, and written many at a time."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

from semdis_cli.stops import look

_LINES_AT_ONCE = 256


def joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines many at a time, which are quicker to write."""
    lines = iter(lines)
    while some := list(islice(lines, _LINES_AT_ONCE)):
        yield b"".join(some)


class Keyed(Protocol):
    """Anything that is known by a key."""

    @property
    def key(self) -> str:
        """The key, by which rows are sorted."""


_Row = TypeVar("_Row", bound=Keyed)


def merge_rows(sorted_groups: Iterable[tuple[str, Iterable[_Row]]]) -> Iterator[_Row]:
    """Merge groups of rows, each sorted by key, into one sorted stream.

    `sorted_groups`: (first key of the group, its rows), sorted by first key. A group is opened only when its first key
    is next, so memory holds the groups that overlap, not all of them.
    """
    heap: list[tuple[str, int, _Row, Iterator[_Row]]] = []

    def rows_before(first_key: str | None) -> Iterator[_Row]:
        while heap and (first_key is None or heap[0][0] < first_key):
            look()
            _, number, row, rows = heap[0]
            following = next(rows, None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (following.key, number, following, rows))
            yield row

    for number, (first_key, group) in enumerate(sorted_groups):
        yield from rows_before(first_key)
        rows = iter(group)
        if (row := next(rows, None)) is not None:
            heapq.heappush(heap, (row.key, number, row, rows))
    yield from rows_before(None)


def last_of_each(rows: Iterable[_Row], replaced: Callable[[_Row, _Row], None] | None = None) -> Iterator[_Row]:
    """Yield of the rows of each key, which follow one another, the last one; `replaced` hears of the others."""
    last: _Row | None = None
    for row in rows:
        if last is not None and last.key != row.key:
            yield last
        elif last is not None and replaced is not None:
            replaced(last, row)
        last = row
    if last is not None:
        yield last
