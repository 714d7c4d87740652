"""The plan that a file holds as a `SetPlan`, of which images and others are read as they are asked for."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, TypeVar, overload

from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import FactColumns, Images
from semdis_cli.files.json_text import unescape_name
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.files.recent import Recent
from semdis_cli.records import SourceImage
from semdis_cli.store.checks import MALFORMED, check_count, check_integer, check_sha256, check_text
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.plan import PlannedShard, SetPlan
from semdis_cli.store.writing.plan_file import KEY_LISTS, REASON_LISTS, ImageForm, Line, PlanFile, ShardLine, damaged

_KEPT_LINES = 4  # of images in memory, while several shards are being filled

T = TypeVar("T")


def plan_of(file: PlanFile, form: ImageForm) -> SetPlan:
    """Return the plan in a file. Raises `StoreError` if that is damaged, also where more of it is read later."""
    rows = partial(_FiledRows, file)
    keys: dict[str, Any] = {name: frozenset(rows(name, _parse_key)) for name in KEY_LISTS}
    reasons: dict[str, Any] = {name: dict(rows(name, _parse_reason)) for name in REASON_LISTS}
    kept = _FiledImages(file.lists.get("kept", ()), _recent_images(file, form))
    changes = Changes(kept=kept, **keys, **reasons, **file.counts)
    failures, left_out = rows("failures", _parse_failure), rows("left_out", _parse_left_out)
    return SetPlan(_FiledShards(file, form), failures, changes, file.plan_sha256, file.classes, left_out)


class _FiledShards(Sequence[PlannedShard]):
    """The planned shards of a file."""

    def __init__(self, file: PlanFile, form: ImageForm) -> None:
        self._file, self._images = file, _recent_images(file, form)

    def __len__(self) -> int:
        return len(self._file.shards)

    @overload
    def __getitem__(self, index: int) -> PlannedShard: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedShard]: ...

    def __getitem__(self, index: int | slice) -> PlannedShard | list[PlannedShard]:
        if isinstance(index, slice):
            return list(map(self._shard, self._file.shards[index]))
        return self._shard(self._file.shards[index])

    def _shard(self, shard: ShardLine) -> PlannedShard:
        images = _FiledImages([shard.line], self._images)
        return PlannedShard(shard.name, PlannedImages(images, [shard.bucket]), shard.version)


class _FiledImages(Images):
    """The images of some lines, each of which is read when it is needed; of few of them there is more in memory."""

    def __init__(self, lines: Sequence[Line], images: Recent[Line, ImageList]) -> None:
        self._lines, self._images = lines, images
        self._ends = list(accumulate(line.num_rows for line in lines))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def some(self, first: int, stop: int) -> list[SourceImage]:
        """Return the images from one place up to another."""
        return [image for images, part in self._parts(first, stop) for image in images.some(part.start, part.stop)]

    def facts_of(self, first: int, stop: int) -> FactColumns:
        """Return what is compared of them."""
        if first == stop:
            return FactColumns((), (), (), ())
        found = [images.facts_of(part.start, part.stop) for images, part in self._parts(first, stop)]
        return FactColumns(*[list(chain.from_iterable(columns)) for columns in zip(*found, strict=True)])

    def pick(self, places: Sequence[int]) -> Images:
        """Return the images at those places, which are read."""
        return ImageList(self[place] for place in places)

    def changed(self, images: Iterable[SourceImage]) -> Images:
        """Return the same images, which are read, but for those of the keys of `images`."""
        return ImageList(self).changed(images)

    @property
    def are_files(self) -> bool:
        """Tell whether each of them surely has a file of its own; of several lines nobody looks at all."""
        return len(self._lines) == 1 and self._images.get(self._lines[0]).are_files

    @property
    def are_whole(self) -> bool:
        """Tell whether surely none is one of several views; of several lines nobody looks at all."""
        return len(self._lines) == 1 and self._images.get(self._lines[0]).are_whole

    def _parts(self, first: int, stop: int) -> Iterator[tuple[ImageList, range]]:
        """Yield the lists in which images lie, each with the places in that."""
        at = bisect_right(self._ends, first)
        while first < stop:
            begin, end = self._ends[at] - self._lines[at].num_rows, min(stop, self._ends[at])
            yield self._images.get(self._lines[at]), range(first - begin, end - begin)
            first, at = end, at + 1


def _recent_images(file: PlanFile, form: ImageForm) -> Recent[Line, ImageList]:
    return Recent(lambda line: _read_images(file, line, form), _KEPT_LINES)


def _read_images(file: PlanFile, line: Line, form: ImageForm) -> ImageList:
    """Read the images of a line, which are sorted by key. Raises `StoreError` if they are damaged."""
    fields = file.fields(line)
    try:
        images = form.read(fields)
        if len(images) != line.num_rows or not images.is_rising:
            raise ValueError("other images than it says")
    except MALFORMED as error:
        raise damaged(file.path, error) from error
    return images


class _FiledRows(Sequence[T]):
    """The rows of one list, each as `parse` takes it; of some thousands at a time there is more in memory than that."""

    def __init__(self, file: PlanFile, name: str, parse: Callable[[list[Any]], T]) -> None:
        self._file, self._name, self._parse = file, name, parse
        self._lines = file.lists.get(name, ())
        self._ends = list(accumulate(line.num_rows for line in self._lines))
        self._read: Recent[Line, list[T]] = Recent(self._read_line, 1)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        at = bisect_right(self._ends, number)
        return self._read.get(self._lines[at])[number - self._ends[at]]  # below 0: from its end on

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(map(self._read.get, self._lines))

    def _read_line(self, line: Line) -> list[T]:
        fields = self._file.fields(line)
        try:
            rows = list(map(self._parse, fields[self._name]))
            if len(rows) != line.num_rows:
                raise ValueError(f"{len(rows):,} {self._name} for {line.num_rows:,}")
        except MALFORMED as error:
            raise damaged(self._file.path, error) from error
        return rows


def _parse_key(row: list[Any]) -> str:
    (key,) = row
    return unescape_name(check_text(key))


def _parse_reason(row: list[Any]) -> tuple[str, str]:
    key, reason = row
    return unescape_name(check_text(key)), unescape_name(check_text(reason))


def _parse_failure(row: list[Any]) -> Failure:
    key, num_bytes, mtime_ns, ctime_ns, reason = row
    size = None if num_bytes is None else check_count(num_bytes)
    times = _parse_time(mtime_ns), _parse_time(ctime_ns)
    return Failure(unescape_name(check_text(key)), unescape_name(check_text(reason)), size, *times)


def _parse_left_out(row: list[Any]) -> LeftOut:
    key, num_bytes, mtime_ns, ctime_ns, reason, size, sha256 = row
    stamp = check_count(num_bytes), _parse_time(mtime_ns), _parse_time(ctime_ns)
    px = None if size is None else (check_count(size[0]), check_count(size[1]))
    return LeftOut(
        unescape_name(check_text(key)), check_text(reason), *stamp, px, None if sha256 is None else check_sha256(sha256)
    )


def _parse_time(value: object) -> int | None:
    return None if value is None else check_integer(value)
