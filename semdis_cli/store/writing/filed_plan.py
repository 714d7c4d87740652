"""The plan that a file holds as a `SetPlan`, of which images and others are read as they are asked for."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Any, TypeVar, overload

from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.json_text import unescape_name
from semdis_cli.files.recent import Recent
from semdis_cli.records import PlannedImage
from semdis_cli.store.checks import MALFORMED, check_count, check_integer, check_sha256, check_text
from semdis_cli.store.writing.changes import Changes
from semdis_cli.store.writing.plan import PlannedShard, SetPlan
from semdis_cli.store.writing.plan_file import KEY_LISTS, REASON_LISTS, ImageForm, Line, PlanFile, ShardLine, damaged

_KEPT_SHARDS = 4  # whose images are in memory, while several are being filled

T = TypeVar("T")


def plan_of(file: PlanFile, form: ImageForm) -> SetPlan:
    """Return the plan in a file. Raises `StoreError` if that is damaged, also where more of it is read later."""
    kept = ImageList()
    for line in file.lists.get("kept", ()):
        kept.join(_read_images(file, line, form))
    rows = partial(_FiledRows, file)
    keys: dict[str, Any] = {name: frozenset(rows(name, _parse_key)) for name in KEY_LISTS}
    reasons: dict[str, Any] = {name: dict(rows(name, _parse_reason)) for name in REASON_LISTS}
    changes = Changes(kept=kept, **keys, **reasons, **file.counts)
    failures, left_out = rows("failures", _parse_failure), rows("left_out", _parse_left_out)
    return SetPlan(FiledShards(file, form), failures, changes, file.plan_sha256, file.classes, left_out)


class FiledShards(Sequence[PlannedShard]):
    """The planned shards of a file."""

    def __init__(self, file: PlanFile, form: ImageForm) -> None:
        self._file = file
        self._images: Recent[Line, ImageList] = Recent(lambda line: _read_images(file, line, form), _KEPT_SHARDS)

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

    def _shard(self, line: ShardLine) -> PlannedShard:
        return _FiledShard(line.name, _FiledImages(line, self._images.get), line.version, line.bucket)


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


@dataclass(frozen=True)
class _FiledShard(PlannedShard):
    """A planned shard whose size, (H, W) px, is known without its images."""

    size: tuple[int, int] = (0, 0)

    @property
    def bucket(self) -> tuple[int, int]:
        """(H, W) in pixels, the same for all its images."""
        return self.size


class _FiledImages(Sequence[PlannedImage]):
    """The images of a planned shard, which are read together."""

    def __init__(self, shard: ShardLine, read: Callable[[Line], ImageList]) -> None:
        self._shard, self._read = shard, read

    def __len__(self) -> int:
        return self._shard.line.num_rows

    @overload
    def __getitem__(self, index: int) -> PlannedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlannedImage]: ...

    def __getitem__(self, index: int | slice) -> PlannedImage | list[PlannedImage]:
        images = self._read(self._shard.line)
        if isinstance(index, slice):
            return [PlannedImage(image, self._shard.bucket) for image in images[index]]
        return PlannedImage(images[index], self._shard.bucket)

    def __iter__(self) -> Iterator[PlannedImage]:
        return (PlannedImage(image, self._shard.bucket) for image in self._read(self._shard.line))


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
