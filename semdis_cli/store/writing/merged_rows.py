"""The rows of a growing set: those of before, as they are to be, and those that a run adds; merged by key."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.json_text import is_strange, key_fields, to_line
from semdis_cli.store.index import IndexLine, IndexRow
from semdis_cli.store.writing.changes import Changes, seen_of
from semdis_cli.store.writing.entry_text import NewLine
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.index_writer import IndexWriter
from semdis_cli.store.writing.journal import Journal, Line
from semdis_cli.store.writing.journal_file import JournalEntry
from semdis_cli.store.writing.merge import last_of_each, merge_rows
from semdis_cli.store.writing.seen import SeenFile, is_just_this, seen_failure, seen_left_out

PlaceInShard = tuple[str, int]  # the name of the shard, and the row


class _NewRows:
    """Rows that are added, by rising keys, of which the next one can be looked at."""

    def __init__(self, rows: Iterator[NewLine]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def has_some(self, end: str | None) -> bool:
        """Tell whether there are rows left whose keys are below `end`; None: any."""
        return self._next is not None and (end is None or self._next.key < end)

    def before(self, end: str | None) -> Iterator[NewLine]:
        """Yield the rows that are left whose keys are below `end`; None: all."""
        while self._next is not None and end is not None and self._next.key < end:
            row, self._next = self._next, next(self._rows, None)
            yield row
        if self._next is not None and end is None:
            row, self._next = self._next, None
            yield row
            yield from self._rows


@dataclass
class MergedRows:
    """The rows of the set to be, in one pass, and what was found on the way; what is merged, as in `Growth`.

    `unseen`: what takes the place of a row of before, without times. `entries`: of the journal, without their rows.
    `num_rows`: latents in each new shard. `identities`: of its rows, as `row_identity`. `without`: latents that served
    before, and will not; `again`: the other way round.
    """

    base: Base
    journal: Journal
    places: Sequence[tuple[str, Line]]
    failures: Sequence[Failure] = ()
    left_out: Sequence[LeftOut] = ()
    changes: Changes | None = None
    has_kept: bool = True
    unseen: set[str] = field(default_factory=set)
    entries: dict[Line, JournalEntry] = field(default_factory=dict)
    num_rows: Counter[str] = field(default_factory=Counter)
    identities: dict[str, bytes] = field(default_factory=dict)
    without: list[PlaceInShard] = field(default_factory=list)
    again: list[PlaceInShard] = field(default_factory=list)

    def write(self, writer: IndexWriter) -> None:
        """Write the index: pieces in which rows change, or come, anew; what they leave room for goes with them."""
        index, changes = self.base.index, self.changes
        changed = set() if changes is None else changes.changed_pieces(index)
        new = _NewRows(self._new_rows())
        for number, piece in enumerate(index.pieces):
            _, end = index.range_of(number)
            if number in changed or new.has_some(end) or writer.has_room_for(piece):
                groups = [("", self._old(number)), ("", new.before(end))]
                writer.write(last_of_each(merge_rows(groups), self._replace))
            else:
                writer.keep(number, has_same_times=self._has_same_times(number))
        writer.write(last_of_each(new.before(None), self._replace))

    def known(self, first_key: str, end: str | None) -> Iterator[SeenFile]:
        """Give the times that are known of files of before, of a range of keys; see `KnownTimes`."""
        changes, index = self.changes, self.base.index
        if changes is not None and self.has_kept:
            some = seen_of(changes.kept_between(first_key, end))
        else:
            gone = frozenset[str]() if changes is None else changes.removed | changes.forgotten
            numbers = index.numbers_between(first_key, end)
            seen = chain.from_iterable(map(self.base.seen_of, numbers))
            within = (one for one in seen if first_key <= one.key and (end is None or one.key < end))
            some = (one for one in within if one.key not in gone)
        return (one for one in some if one.key not in self.unseen)

    def _has_same_times(self, number: int) -> bool:
        """Tell whether the times of the files of a piece are those on record; see `Growth`."""
        changes, base = self.changes, self.base
        if changes is None or not self.has_kept or number in changes.same_pieces:
            return True
        piece = base.index.pieces[number]
        return is_just_this(base.folder / piece.seen_name, piece.file.sha256, changes.kept_in(base.index, number))

    def _new_rows(self) -> Iterator[NewLine]:
        """Yield what is added, sorted by key; of one key may come several."""
        groups = [("", self._failed()), ("", self._left_out())]
        groups += [(first_key, self._new(line)) for first_key, line in sorted(self.places)]
        return merge_rows(groups)

    def _replace(self, old: NewLine, new: NewLine) -> None:
        """Note that a row takes the place of another one, of the set of before. Raises `StoreError` for any other."""
        if old.shard in self.num_rows:
            raise StoreError(f"the journal has two rows for {old.key!r:.80}")
        if old.status == "ok" and old.shard is not None and old.row is not None:
            self.without.append((old.shard, old.row))
        if new.seen is None:
            self.unseen.add(new.key)

    def _old(self, number: int) -> Iterator[NewLine]:
        changes = self.changes or Changes()
        for line in self.base.lines_of(number):
            if line.key in changes.removed:
                self.without += [line.place] if line.place else []
                yield NewLine.of(_with_status(line, "removed"))
            elif line.key in changes.set_aside:
                self.without += [line.place] if line.place and line.status == "ok" else []
                yield NewLine.of(_with_status(line, "removed", changes.set_aside[line.key]))
            elif line.key in changes.returned:
                self.again += [line.place] if line.place else []
                yield NewLine.of(_with_status(line, "ok"))
            elif line.key not in changes.forgotten:
                yield NewLine.of(_as_written_now(line))

    def _new(self, place: Line) -> Iterator[NewLine]:
        entry, lines, self.identities[entry.name] = self.journal.read_lines(place)
        self.entries[place] = entry
        for line in lines:
            self.num_rows[entry.name] += line.row is not None
            yield line

    def _failed(self) -> Iterator[NewLine]:
        for failure in self.failures:
            yield NewLine.of_row(IndexRow.of_failure(failure), seen_failure(failure))

    def _left_out(self) -> Iterator[NewLine]:
        for one in self.left_out:
            yield NewLine.of_row(IndexRow.of_left_out(one), seen_left_out(one))


def _with_status(line: IndexLine, status: str, reason: str | None = None) -> IndexLine:
    """The same line with another status and, where a filter sets it aside, with that."""
    line = _as_written_now(line)
    fields = {name: value for name, value in line.fields.items() if name != "reason"} | {"status": status}
    return line._replace(status=status, data=to_line(fields if reason is None else fields | {"reason": reason}))


def _as_written_now(line: IndexLine) -> IndexLine:
    """The same line; one of an earlier version, with a name that strict parsers do not read, with that escaped."""
    if line.key.isascii() or not is_strange(line.key):
        return line
    fields = {**line.fields, **key_fields(line.key)}
    return line._replace(fields=fields, data=to_line(fields))
