"""The files of a set's index, as its manifest lists them: one, or pieces of a million rows where there are more.

A piece holds the rows of a range of keys, and is never written to again: one in which rows change gives way to another,
of the next number. So what a set was before stays whole until its new manifest is there, and a run that adds a few
images to a hundred million leaves nearly all pieces alone.
"""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, count, pairwise
from typing import Any, NamedTuple, Self

from semdis_cli.files.json_text import key_fields
from semdis_cli.files.set_names import INDEX_FILE, INDEX_FOLDER, SEEN_FILE, SEEN_FOLDER
from semdis_cli.records import FileDigest
from semdis_cli.store.checks import check_count, check_object, check_record_key, check_text
from semdis_cli.store.columns import check_column_name
from semdis_cli.store.record import parse_digest

_MOST_PIECES = 10**8
_NAME = re.compile(rf"{INDEX_FOLDER}/([0-9]{{8}})\.jsonl")


class RowCounts(NamedTuple):
    """Rows of each status."""

    ok: int = 0
    failed: int = 0
    removed: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class IndexPiece:
    """A file of an index: `name` below the folder of the lists, with the rows of keys from `first_key` on.

    It ends where the next piece begins; the first one has no `first_key`. `columns`: of the images that are to be used,
    how many have each.
    """

    name: str
    file: FileDigest
    rows: RowCounts
    columns: Mapping[str, int] = field(default_factory=dict)
    first_key: str = ""

    @property
    def seen_name(self) -> str:
        """The file with the times of its images, below the same folder."""
        return seen_name(self.name)

    def to_json(self) -> dict[str, Any]:
        """As plain values, absent facts left out."""
        fields: dict[str, Any] = {"name": self.name, **self.file.to_json()}
        fields["rows"] = {status: number for status, number in self.rows._asdict().items() if number}
        fields |= {"columns": dict(sorted(self.columns.items()))} if self.columns else {}
        return fields | (key_fields(self.first_key) if self.first_key else {})

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse what `to_json` gave. Raises one of `MALFORMED`."""
        fields = check_object(value)
        rows, columns = check_object(fields["rows"]), check_object(fields.get("columns", {}))
        return cls(
            check_piece_name(fields["name"]),
            parse_digest(fields),
            RowCounts(**{status: check_count(number) for status, number in rows.items()}),
            {check_column_name(name): check_count(number) for name, number in columns.items()},
            check_record_key(fields) if "key" in fields else "",
        )


class SetIndex:
    """An index of `pieces`, in the order of their keys; of no set, of none.

    Places in it are bytes from 0 on, as if its pieces were one file.
    """

    def __init__(self, pieces: Sequence[IndexPiece]) -> None:
        self.pieces = tuple(pieces)

    @property
    def is_split(self) -> bool:
        """Tell whether it lies in pieces; else it is the one file of that name."""
        return any(piece.name != INDEX_FILE for piece in self.pieces)

    @property
    def rows(self) -> RowCounts:
        """The rows of all pieces."""
        return RowCounts(*map(sum, zip(*(piece.rows for piece in self.pieces), strict=True)))

    @property
    def columns(self) -> dict[str, int]:
        """Of the images that are to be used, how many have each column."""
        columns = Counter[str]()
        for piece in self.pieces:
            columns.update(piece.columns)
        return dict(columns)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each piece begins, and last the size of all."""
        return tuple(accumulate((piece.file.num_bytes for piece in self.pieces), initial=0))

    @cached_property
    def _first_keys(self) -> tuple[str, ...]:
        return tuple(piece.first_key for piece in self.pieces[1:])

    def number_at(self, offset: int) -> int:
        """Return the number of the piece in which a byte lies."""
        return min(bisect_right(self.starts, offset), len(self.pieces)) - 1

    def number_of(self, key: str) -> int:
        """Return the number of the piece in which the row of a key is, if it has one."""
        return bisect_right(self._first_keys, key)

    def numbers_between(self, first_key: str, end: str | None) -> range:
        """Return the numbers of the pieces that may have keys from the first one on and below `end`; None: all."""
        stop = len(self.pieces) if end is None else min(self.number_of(end) + 1, len(self.pieces))
        return range(self.number_of(first_key), stop)

    def range_of(self, number: int) -> tuple[str, str | None]:
        """Return the keys of a piece: from the first one on, and below the second; None: all that follow."""
        end = self._first_keys[number] if number < len(self._first_keys) else None
        return self._first_keys[number - 1] if number else "", end


def digest_pieces(pieces: Iterable[IndexPiece]) -> FileDigest:
    """Return the identity of an index in pieces: bytes of all, and the sha256 of their names and digests."""
    digest, num_bytes = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(f"{piece.file.sha256}  {piece.name}\n".encode())
        num_bytes += piece.file.num_bytes
    return FileDigest(num_bytes, digest.hexdigest())


def check_pieces(pieces: Sequence[IndexPiece], index: FileDigest) -> tuple[IndexPiece, ...]:
    """Return the pieces of an `index` if they can be that. Raises `ValueError`."""
    if not pieces or len({piece.name for piece in pieces}) < len(pieces):
        raise ValueError("no pieces of an index, or one of them twice")
    if pieces[0].first_key or any(second.first_key <= first.first_key for first, second in pairwise(pieces)):
        raise ValueError("pieces of an index in no order")
    if digest_pieces(pieces) != index:
        raise ValueError("the pieces of the index are not those that it was written with")
    return tuple(pieces)


def piece_name(number: int) -> str:
    """Return the name of a piece."""
    return f"{INDEX_FOLDER}/{number:08d}.jsonl"


def is_piece_name(name: str) -> bool:
    """Tell whether `name` is that of a piece."""
    return _NAME.fullmatch(name) is not None


def check_piece_name(name: object) -> str:
    """Return `name` if it is that of a piece. Raises `ValueError`."""
    if not is_piece_name(text := check_text(name)):
        raise ValueError(f"{text!r:.40} is no piece of an index")
    return text


def new_name(pieces: Iterable[IndexPiece]) -> str:
    """Return the name of the piece that is written next: after the highest number or, beyond the last, a free one."""
    numbers = {int(name[1]) for piece in pieces if (name := _NAME.fullmatch(piece.name)) is not None}
    number = max(numbers, default=-1) + 1
    return piece_name(number if number < _MOST_PIECES else next(free for free in count() if free not in numbers))


def seen_name(index_name: str) -> str:
    """Return the name of the times that go with a file of an index."""
    return SEEN_FILE if index_name == INDEX_FILE else f"{SEEN_FOLDER}/{index_name.rpartition('/')[2]}"
