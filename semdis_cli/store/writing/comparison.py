"""A finished set and the inputs of a run, compared by key, size and content."""

import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.identity import Witness, all_vouch, settled
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import NO_TIME, Images
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.records import SourceImage
from semdis_cli.stops import look
from semdis_cli.store.index import IndexLine
from semdis_cli.store.writing.changes import ALL, DEDUPE, Changes, Choice, Contents, Hashes, seen_of, stretch, within
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.seen import SeenByKey, SeenFile, has_seen, is_just_this, seen_time_ns


def find_changes(
    base: Base, images: Sequence[SourceImage], failures: Sequence[Failure], hashes: Hashes, choice: Choice = ALL
) -> Changes:
    """Compare `images`, sorted by key, and inputs that are known to be unusable, with the set `base`.

    An input is unchanged if it has the size and the times of then or, where these are others or in doubt (`Witness`
    says when), the content of then. `choice`: the filters of this run, which may leave out what the set has, and take
    what it has not. Raises `UsageError` if the set and the inputs have nothing in common.
    """
    images = ImageList.of(images)
    if base.manifest is None:
        return Changes(to_encode=images)
    failed = frozenset(failure.key for failure in failures)
    comparison = _Comparison(base, images, choice, failed)
    comparison.run()
    comparison.settle(hashes)
    result = comparison.result()
    if result.is_on_record:
        return result
    have_times = (has_seen(base.folder / piece.seen_name, piece.file.sha256) for piece in base.index.pieces)
    return replace(result, lacks_times=not all(have_times))


_END: tuple[None, int] = None, 0


def _with_offsets(lines: Iterable[IndexLine], offset: int) -> Iterator[tuple[IndexLine, int]]:
    """Yield lines of an index, each with the byte at which it begins, of which the first is at `offset`."""
    for line in lines:
        yield line, offset
        offset += len(line.data)


class _Row(NamedTuple):
    """The part of a row that matters for its input: `then` and `now`, the filters that leave it out."""

    status: str
    sha256: str | None = None
    size: tuple[int, int] | None = None
    then: str | None = None
    now: str | None = None


@dataclass
class _Comparison:
    """Sorts inputs and rows into the groups of `Changes`; `images` go by their numbers, for there may be millions.

    `in_doubt`: images, each with the byte at which its row begins in the index. `settled`: those that are kept with
    other times than they were listed with.
    """

    base: Base
    images: Images
    choice: Choice
    failed: frozenset[str]
    same_pieces: set[int] = field(default_factory=set)
    to_encode: "array[int]" = field(default_factory=lambda: array("I"))
    kept: "array[int]" = field(default_factory=lambda: array("I"))
    settled: list[SourceImage] = field(default_factory=list)
    returned: set[str] = field(default_factory=set)
    set_aside: dict[str, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    num_left_out: Counter[str] = field(default_factory=Counter)
    contents: Contents = field(default_factory=Contents)
    gone: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by status
    in_doubt: "array[int]" = field(default_factory=lambda: array("I"))
    rows_in_doubt: "array[int]" = field(default_factory=lambda: array("Q"))
    num_changed: int = 0
    num_failed: int = 0
    num_unusable: int = 0  # inputs with latents that cannot even be looked at now
    failed_before: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Compare inputs and rows, a piece of the index after the other. Raises `StoreError` for a row that is none."""
        index = self.base.index
        for number, piece in enumerate(index.pieces):
            start, stop = stretch(self.images, *index.range_of(number))
            if self._is_same(number, start, stop):
                self.same_pieces.add(number)
                self.kept.extend(range(start, stop))
                self.num_failed += piece.rows.failed
            else:
                self._walk_through(number, start, stop)

    @cached_property
    def witness(self) -> Witness:
        """Return what the times of all inputs are worth."""
        paths = (self.base.folder / piece.seen_name for piece in self.base.index.pieces)
        return Witness.of(self.images, time.time_ns(), seen_time_ns(paths))

    @cached_property
    def _all_vouch(self) -> bool:
        return all_vouch(self.images)

    @cached_property
    def _pieces_with_failures(self) -> frozenset[int]:
        return frozenset(map(self.base.index.number_of, self.failed))

    def _is_same(self, number: int, start: int, stop: int) -> bool:
        """Tell whether the inputs from one place up to another are just those of a piece, all of them unchanged."""
        piece = self.base.index.pieces[number]
        is_plain = self.choice.is_all and not piece.rows.left_out and number not in self._pieces_with_failures
        is_clear = not (piece.rows.removed and piece.rows.failed)  # one that is gone may count for one set aside
        if not (is_plain and is_clear and stop - start == piece.rows.ok + piece.rows.failed):
            return False
        images = within(self.images, start, stop)
        if any(NO_TIME in mtimes for mtimes, _ in images.times()):
            return False
        if not is_just_this(self.base.folder / piece.seen_name, piece.file.sha256, images):
            return False
        return self._all_vouch or all(map(self.witness.is_unchanged, images, seen_of(images)))

    def _walk_through(self, number: int, start: int, stop: int) -> None:
        """Walk through rows and inputs of a piece side by side, both sorted by key."""
        try:
            self._walk(number, start, stop)
        except StoreError as error:
            if error.place is not None:
                raise
            place = self.base.folder / self.base.index.pieces[number].name
            raise StoreError(f"{error.reason}; damaged or edited", place=place) from error

    def _walk(self, piece: int, start: int, stop: int) -> None:
        seen = SeenByKey(self.base.seen_of(piece))
        lines = _with_offsets(self.base.lines_of(piece), self.base.index.starts[piece])
        line, offset = next(lines, _END)
        for number, image in enumerate(within(self.images, start, stop), start):
            look()
            while line is not None and line.key < image.key:
                self._miss(line)
                line, offset = next(lines, _END)
            if line is not None and line.key == image.key:
                self._compare(number, image, line, offset, seen.of(image))
                line, offset = next(lines, _END)
            else:
                self.to_encode.append(number)
        while line is not None:
            self._miss(line)
            line, _ = next(lines, _END)

    def settle(self, hashes: Hashes) -> None:
        """Look into the files whose size and time do not tell."""
        if not self.in_doubt:
            return
        images = self.images.pick(self.in_doubt)
        lines = self.base.lines_at(self.rows_in_doubt)
        for number, image, line, digest in zip(self.in_doubt, images, lines, hashes(images), strict=True):
            if digest == line.content:
                stamp = settled(image.stamp, time.time_ns())
                now = replace(image, mtime_ns=stamp.mtime_ns)
                self._keep(number, now, self._judge(image, line)._replace(sha256=digest))
                if stamp != image.stamp:
                    self.settled.append(now)
            else:
                self._change(number)

    def result(self) -> Changes:
        """The groups. Raises `UsageError` if the inputs are all others than those of the set."""
        num_common = len(self.kept) + self.num_changed + len(self.failed_before)
        num_lost = len(self.gone["ok"]) + self.num_unusable
        if num_lost and not num_common and (self.base.root / MANIFEST_FILE).exists():
            raise UsageError(
                f"holds latents of other images: none of its {num_lost:,} is among "
                "the inputs that can be read; to add these, name its sources too, else give another -o",
                place=self.base.root,
            )
        is_on_record = len(self.same_pieces) == len(self.base.index.pieces)
        return Changes(
            is_on_record=is_on_record,
            same_pieces=frozenset(self.same_pieces),
            to_encode=self._picked(self.to_encode),
            kept=self._picked(self.kept),
            returned=frozenset(self.returned),
            removed=frozenset(self.gone["ok"]),
            forgotten=frozenset(self.gone["failed"] | self.gone["left_out"]),
            num_changed=self.num_changed,
            failed_before=self.failed_before,
            num_failed=self.num_failed,
            left_out=tuple(self.left_out),
            num_left_out=self.num_left_out,
            set_aside=self.set_aside,
            contents=self.contents,
        )

    def _picked(self, numbers: "array[int]") -> Images:
        """Return images in the order of their keys, all of them as they were listed if none was left out."""
        is_all = len(numbers) == len(self.images)
        images = self.images if is_all else self.images.pick(array("I", np.sort(np.asarray(numbers)).tobytes()))
        return images.changed(self.settled) if self.settled else images

    def _miss(self, line: IndexLine) -> None:
        if line.key not in self.failed:
            self.gone[line.status].add(line.key)
        elif line.status == "failed":
            self.failed_before[line.key] = line.error or ""
        elif line.status != "left_out":
            self.num_unusable += 1

    def _compare(self, number: int, image: SourceImage, line: IndexLine, offset: int, seen: SeenFile | None) -> None:
        if self.witness.is_unchanged(image, seen):
            self._keep(number, image, self._judge(image, line))
        elif (source := line.source) is None:
            self.to_encode.append(number)
            if line.status == "failed":
                self.failed_before[line.key] = line.error or ""
        elif image.num_bytes != source.num_bytes:
            self._change(number)
        else:
            self.in_doubt.append(number)
            self.rows_in_doubt.append(offset)

    def _judge(self, image: SourceImage, line: IndexLine) -> _Row:
        """Return a row, and what the filters of this run make of it."""
        then, choice = line.reason, self.choice
        if choice.is_all:
            return _Row(line.status, then=then)
        size = line.size
        now = choice.why_not(image, size) if choice.why_not is not None and size is not None else None
        if now is None and then == DEDUPE and choice.drops_twins:
            now = then  # until hashes tell: the other one may be gone
        file = line.left_out or line.source
        return _Row(line.status, None if file is None else file.sha256, size, then, now)

    def _change(self, number: int) -> None:
        self.to_encode.append(number)
        self.num_changed += 1

    def _keep(self, number: int, image: SourceImage, row: _Row) -> None:
        if row.status == "left_out" and row.now is None:
            self.to_encode.append(number)
        elif row.status == "left_out" and row.now != row.then:
            self.left_out.append(LeftOut(image.key, str(row.now), *image.stamp, row.size))
        else:
            self.kept.append(number)
            self._count(image, row)

    def _count(self, image: SourceImage, row: _Row) -> None:
        self.num_failed += row.status == "failed"
        if row.now is not None:
            self.num_left_out[row.now] += 1
            if row.now != row.then:
                self.set_aside[image.key] = row.now
        elif row.status == "removed":
            self.returned.add(image.key)
        if self.choice.drops_twins and row.now in {None, DEDUPE}:
            self.contents.add(image, row.status, row.sha256, is_twin=row.now is not None)
