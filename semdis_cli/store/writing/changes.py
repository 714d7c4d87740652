"""Changes that make a finished set hold the inputs of this run: a comparison by key, size and content."""

import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.identity import Witness, all_vouch, settled
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import NO_TIME, Images
from semdis_cli.files.set_names import INDEX_FILE, MANIFEST_FILE
from semdis_cli.records import SourceImage
from semdis_cli.stops import look
from semdis_cli.store.index import IndexLine
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.seen import SeenByKey, SeenFile, has_seen, is_just_this, seen_time_ns

# What each image is made from, as `content_of` gives it, in order; None where that cannot be read.
Hashes = Callable[[Sequence[SourceImage]], Iterable[str | None]]
DEDUPE = "dedupe"  # the filter that looks at all files


@dataclass(frozen=True)
class Choice:
    """Filters of a run, for images that the set has a row of.

    `why_not`: the filter that leaves out an image of a size (H, W) in px; None: it is taken. `drops_twins`: of files
    with the same bytes the first is taken alone.
    """

    why_not: Callable[[SourceImage, tuple[int, int]], str | None] | None = None
    drops_twins: bool = False

    @property
    def is_all(self) -> bool:
        """Tell whether all images are taken."""
        return self.why_not is None and not self.drops_twins


_ALL = Choice()


@dataclass
class Contents:
    """Inputs that are kept, in no order, with the status of each one's row and, if known, the sha256 of its file.

    `are_twins`: 1 for those that were left out for a file with the same bytes.
    """

    images: ImageList = field(default_factory=ImageList)
    statuses: list[str] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)
    are_twins: bytearray = field(default_factory=bytearray)

    def add(self, image: SourceImage, status: str, sha256: str | None, *, is_twin: bool) -> None:
        """Append one."""
        self.images.append(image)
        self.statuses.append(status)
        self.digests.append(sha256)
        self.are_twins.append(is_twin)


@dataclass(frozen=True)
class Changes:
    """Differences between the inputs of a run and a set; all sorted by key.

    `to_encode`: new inputs, changed ones, and those that failed for a reason that may have passed. `kept`: the others,
    with the times to remember. Of those `returned` were marked as removed. `removed` have latents and are
    no longer among the inputs; `forgotten` failed, and are not either. `num_changed` of `to_encode` had latents.
    `failed_before`: why inputs of this run have no latents so far, for those that are not kept. `left_out`: inputs
    without latents that another filter than in the set leaves out. `num_left_out` of `kept`, by filter, are left out
    too: their rows say so already or, of those with latents that are to be `set_aside`, by which filter. `contents`: of
    `kept`, where twins are dropped, as far as no filter leaves them out by their size.
    """

    to_encode: Images = field(default_factory=ImageList)
    kept: Images = field(default_factory=ImageList)
    returned: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    num_changed: int = 0
    failed_before: Mapping[str, str] = field(default_factory=dict)
    num_failed: int = 0  # of `kept`: their contents are the reason, and have not changed
    left_out: tuple[LeftOut, ...] = ()
    num_left_out: Mapping[str, int] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)
    is_on_record: bool = False  # the set's own list of times is that of `kept`
    lacks_times: bool = False  # the set has no such list

    def seen(self) -> Iterator[SeenFile]:
        """Return what to remember of the files that are kept."""
        return map(SeenFile._make, self.kept.facts())

    @property
    def num_taken(self) -> int:
        """Number of the inputs that are kept, and not left out."""
        return len(self.kept) - sum(self.num_left_out.values())


def find_changes(
    base: Base, images: Sequence[SourceImage], failures: Sequence[Failure], hashes: Hashes, choice: Choice = _ALL
) -> Changes:
    """Compare `images`, sorted by key, and inputs that are known to be unusable, with the set `base`.

    An input is unchanged if it has the size and the times of then or, where these are others or in doubt (`Witness`
    says when), the content of then. `choice`: the filters of this run, which may leave out what the set has, and take
    what it has not. Raises `UsageError` if the set and the inputs have nothing in common.
    """
    images = ImageList.of(images)
    if base.manifest is None:
        return Changes(to_encode=images)
    num_inputs = base.manifest.num_ok + base.manifest.num_failed
    is_plain = choice.is_all and not base.manifest.num_left_out and not failures
    if len(images) == num_inputs and is_plain and all(NO_TIME not in mtimes for mtimes, _ in images.times()):
        num_failed = base.manifest.num_failed
        unchanged = Changes(kept=images, num_failed=num_failed, is_on_record=True)
        is_same = is_just_this(base.folder, base.manifest.index.sha256, images)
        if is_same and (all_vouch(images) or all(map(_witness(base, images).is_unchanged, images, unchanged.seen()))):
            return unchanged
    failed = frozenset(failure.key for failure in failures)
    comparison = _Comparison(base, images, choice, failed, _witness(base, images))
    comparison.run()
    comparison.settle(hashes)
    return replace(comparison.result(), lacks_times=not has_seen(base.folder, base.manifest.index.sha256))


def _witness(base: Base, images: Sequence[SourceImage]) -> Witness:
    return Witness.of(images, time.time_ns(), seen_time_ns(base.folder))


_END: tuple[None, int] = None, 0


def _with_offsets(lines: Iterable[IndexLine]) -> Iterator[tuple[IndexLine, int]]:
    """Yield lines of an index, each with the byte at which it begins."""
    offset = 0
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
    witness: Witness
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
        """Walk through inputs and rows side by side, both sorted by key. Raises `StoreError` for a row that is none."""
        try:
            self._run()
        except StoreError as error:
            if error.place is not None:
                raise
            raise StoreError(f"{error.reason}; damaged or edited", place=self.base.folder / INDEX_FILE) from error

    def _run(self) -> None:
        seen = SeenByKey(self.base.seen())
        lines = _with_offsets(self.base.lines())
        line, offset = next(lines, _END)
        for number, image in enumerate(self.images):
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
        return Changes(
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
