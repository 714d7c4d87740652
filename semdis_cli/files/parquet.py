"""Rows of a Parquet, a batch at a time, by many threads: in flat memory, whatever the size of its row groups.

Nothing but pyarrow reads them, which can go through a row group from its first row on, and no other way.
"""

import json
import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from itertools import accumulate
from threading import Lock
from typing import Any, NamedTuple

from semdis_cli.errors import MissingExtraError, UnreadableImageError
from semdis_cli.files.disk import count_cores
from semdis_cli.files.url import Location, Url
from semdis_cli.wording import first_line

_BATCH_BYTES = 1 << 18  # of a batch, about: more at once is no quicker
_MOST_ROWS = 64  # of a batch: values that repeat are stored once, and take their room for each row here
_KEPT_BYTES = 16 << 20  # of batches of one file, but for one for each thread
_BUFFER_BYTES = 1 << 18  # read of a column at a time; without, a column of a row group is read whole
_FAR_BUFFER_BYTES = 4 << 20  # the same in a store, which answers after some 50 ms


class OpenParquet:
    """Parquet file that is open: its schema, and the batches of its row groups."""

    def __init__(self, path: Location) -> None:
        """Open it. Raises `OSError`, `MissingExtraError` and `UnreadableImageError` for what is no Parquet."""
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            what = f"a Parquet needs pyarrow: pip install 'semdis[parquet]' ({error!s:.200})"
            raise MissingExtraError(what, place=path) from error
        with arrow_errors():
            self._file = pq.ParquetFile(
                path.open(buffering=_BUFFER_BYTES) if isinstance(path, Url) else path,
                pre_buffer=False,
                buffer_size=_FAR_BUFFER_BYTES if isinstance(path, Url) else _BUFFER_BYTES,
                page_checksum_verification=True,
            )
            metadata = self._file.metadata
            self.schema: Any = self._file.schema_arrow
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            # Not those of its columns: pyarrow 26 ends the process where what a damaged file says of one cannot be.
            self._sizes: list[int] = [group.total_byte_size for group in groups]
            self.starts: list[int] = [0, *accumulate(group.num_rows for group in groups)]

    @property
    def num_groups(self) -> int:
        """Number of row groups."""
        return len(self._sizes)

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows of a row group, so many at a time that it stays small. Raises `UnreadableImageError`."""
        batches = self._file.iter_batches(
            self.rows_at_once(group, columns), row_groups=[group], columns=list(columns), use_threads=False
        )
        while True:
            with arrow_errors():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def rows_at_once(self, group: int, columns: Sequence[str]) -> int:
        """Return how many rows of a row group make a batch: where it has columns of bytes, as large as all of them."""
        if not any("binary" in str(self.schema.field(name.split(".")[0]).type) for name in columns):
            return _MOST_ROWS
        num_rows = self.starts[group + 1] - self.starts[group]
        return max(1, min(_MOST_ROWS, _BATCH_BYTES * num_rows // max(1, self._sizes[group])))


@dataclass(slots=True)
class _Cursor:
    """Place in a row group up to which its batches were read; `row` is the first one of the next batch."""

    group: int
    row: int
    batches: Iterator[Any]


@dataclass(slots=True)
class RowReader:
    """Reads rows of some columns by their numbers. Safe to use from several threads.

    Threads go through the rows side by side, some hundred apart. Each finds a cursor a little before its row, or begins
    the row group anew; what was read on the way is kept for a while. `prepare`: what is kept of a batch.
    """

    opened: OpenParquet
    columns: Sequence[str]
    prepare: Callable[[Any], Any] = lambda batch: batch
    _cursors: list[_Cursor] = field(default_factory=list)  # the one that was used last is the last one
    _recent: "OrderedDict[int, _Kept]" = field(default_factory=OrderedDict)  # by their first row
    _held: int = 0  # bytes of these
    _rows_at_once: dict[int, int] = field(default_factory=dict)  # by row groups
    _lock: Lock = field(default_factory=Lock)
    _num_threads: int = field(default_factory=count_cores)

    def find(self, row: int) -> tuple[Any, int]:
        """Return what `prepare` made of a batch that holds a row, and which of its rows that is.

        Raises `OSError`, and `UnreadableImageError`.
        """
        starts = self.opened.starts
        group = bisect_right(starts, row) - 1
        with self._lock:
            if group not in self._rows_at_once:
                self._rows_at_once[group] = self.opened.rows_at_once(group, self.columns)
            first = row - (row - starts[group]) % self._rows_at_once[group]
            kept = self._recent.get(first)
            if kept is not None:
                return kept.value, row - first
            cursor = self._cursor(group, row)
            while cursor.row <= row:
                first, batch = cursor.row, next(cursor.batches, None)
                if batch is None:
                    raise UnreadableImageError(f"row {row:,} is missing in its row group; the Parquet is damaged")
                cursor.row += batch.num_rows
                kept = self._keep(first, batch)
            if cursor.row < starts[group + 1]:  # one at the end would hold on to a dictionary
                self._cursors.append(cursor)
            assert kept is not None
            return kept.value, row - first

    def _keep(self, first: int, batch: Any) -> "_Kept":
        self._recent[first] = kept = _Kept(self.prepare(batch), batch.nbytes)
        self._held += kept.num_bytes
        while self._held > _KEPT_BYTES and len(self._recent) > self._num_threads + 1:
            self._held -= self._recent.popitem(last=False)[1].num_bytes
        return kept

    def _cursor(self, group: int, row: int) -> _Cursor:
        """Take the cursor that is the nearest one before a row, or begin its row group."""
        before = [each for each in self._cursors if each.group == group and each.row <= row]
        if before:
            nearest = max(before, key=lambda each: each.row)
            self._cursors.remove(nearest)
            return nearest
        del self._cursors[: max(0, len(self._cursors) - self._num_threads)]
        return _Cursor(group, self.opened.starts[group], self.opened.batches(group, self.columns))


class _Kept(NamedTuple):
    """Part of a batch that is kept."""

    value: Any
    num_bytes: int


@contextmanager
def arrow_errors() -> Iterator[None]:
    """Turn what pyarrow raises for damaged files into `UnreadableImageError`."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UnreadableImageError(f"cannot be read as Parquet ({first_line(error)})") from error
    except OSError as error:
        if error.strerror is None:  # of pyarrow, about the content
            raise UnreadableImageError(f"cannot be read as Parquet ({first_line(error)})") from error
        raise


def features_of(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Mapping[str, Any]]:
    """Return what `datasets` notes of each column beside a schema; it is for other programs, and proves nothing."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: fields for name, fields in features.items() if isinstance(fields, dict)}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Return the names of the numbers in each column of classes."""
    named = {name: fields.get("names") for name, fields in features_of(metadata).items()}
    return {
        name: tuple(names)
        for name, names in named.items()
        if isinstance(names, list) and all(isinstance(each, str) for each in names)
    }


def holds_bytes(kind: Any) -> bool:
    """Tell whether values of an Arrow type hold bytes that are no text."""
    storage = getattr(kind, "storage_type", kind)
    inner = [storage.field(number).type for number in range(storage.num_fields)]
    return "binary" in str(storage) if not inner else any(map(holds_bytes, inner))


def plain(value: Any) -> Any:
    """Return a value as JSON has it: NaN, by which pandas marks what is missing, as none, times as texts."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | bool) else str(value)
