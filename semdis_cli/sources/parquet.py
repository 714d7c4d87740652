"""Parquet with a column of images, as the Hub has it: what its rows are called, and how one of them is read."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.files.disk import count_cores
from semdis_cli.files.parquet import OpenParquet, RowReader, class_names, features_of, holds_bytes, plain
from semdis_cli.files.recent import Recent
from semdis_cli.files.url import Location, Url
from semdis_cli.kinds.formats import image_format
from semdis_cli.records import SourceImage, Stamp
from semdis_cli.sources.files import regular_stamp
from semdis_cli.sources.input_rules import PassedOver, is_plain_member
from semdis_cli.sources.members import parts_of
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds, Search
from semdis_cli.wording import first_line

PARQUET_SUFFIX = ".parquet"
_MORE_OPEN = 2  # files than threads, as these go from one to the next
_LONGEST_PATH = 1024  # characters of one that becomes a key
# Numbers that say where values begin, by their Arrow type.
_OFFSETS: Mapping[str, np.dtype[Any]] = {"binary": np.dtype(np.int32), "large_binary": np.dtype(np.int64)}
_TEXTS = frozenset({"string", "large_string", "string_view"})
_ROW_DIGITS = 9  # so that keys sort as rows do


@dataclass(frozen=True)
class Parquet:
    """Source of the images in a column of a Parquet file. They have the times of the file, as in a tar."""

    path: Location
    naming: NamedPath

    def images(self, prefix: str, search: Search) -> Finds:
        """List the images in it; their keys are `prefix` and the path in a row, or the number of the row.

        A path counts where it stays in the folder and comes for the first time. Sizes lie beside the bytes: the column
        is read once. Raises `MissingExtraError` without pyarrow.
        """
        listing = _Listing(self.path, prefix, search)
        try:
            listing.read(regular_stamp(self.path))
        except UnreadableImageError as error:
            listing.finds.damage = str(error)
        except OSError as error:
            listing.finds.damage = f"cannot be read ({error.strerror or first_line(error)})"
        return listing.finds


class ImageColumn(NamedTuple):
    """Column of images: bytes, or if `is_struct` bytes and perhaps a path."""

    name: str
    is_struct: bool

    @property
    def bytes_name(self) -> str:
        """Name of what holds the bytes alone."""
        return f"{self.name}.bytes" if self.is_struct else self.name

    def values(self, batch: Any) -> Sequence[bytes | None]:
        """Return the bytes of a batch: of all rows at once in a third of the time that one by one takes."""
        data: Sequence[bytes | None] = self.fields(batch)[0].to_pylist()
        return data

    def fields(self, batch: Any) -> tuple[Any, Any | None]:
        """Return bytes and paths of a batch as Arrow arrays; None where there are no paths."""
        column = batch.column(0)
        if not self.is_struct:
            return column, None
        names = [column.type.field(number).name for number in range(column.type.num_fields)]
        fields = dict(zip(names, column.flatten(), strict=True))
        return fields["bytes"], fields.get("path")


@dataclass(frozen=True, eq=False)
class ParquetReader:
    """Reader of the images in a Parquet. The place of an image is the number of its row."""

    path: Location
    mtime_ns: int | None
    ctime_ns: int | None
    column: ImageColumn
    classes: Mapping[str, Sequence[str]]
    has_one_file = True

    @property
    def is_far(self) -> bool:
        """Tell whether it lies in a store."""
        return isinstance(self.path, Url)

    def for_process(self) -> "ParquetReader":
        """Return what another process reads the images with."""
        return self

    def open(self, image: SourceImage) -> io.BytesIO:
        """Open an image, from its first byte to its last. Raises `OSError`, and `UnreadableImageError`."""
        values, row = _OPENED.get(self).images.find(image.place)
        data = values[row]
        if data is None or len(data) != image.num_bytes:
            raise PassingReadError("the Parquet was changed while the run was going on; run again")
        return io.BytesIO(data)

    def stamp(self, image: SourceImage) -> Stamp:
        """Return the size of an image, and the times of the file. Raises `OSError`, and `UnreadableImageError`."""
        self.check()
        return image.stamp

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the path of the file, and which row the image is in."""
        return str(self.path), image.place

    def columns(self, image: SourceImage) -> Mapping[str, object]:
        """Return the other columns of an image's row, as `ColumnSource` says; each is read when it is asked for."""
        others = _OPENED.get(self).others
        return {} if others is None else Row(*others.find(image.place))

    def class_names(self, column: str) -> Sequence[str] | None:
        """Return the names of the numbers in a column, None if it has none."""
        return self.classes.get(column)

    def check(self) -> None:
        """Raise `PassingReadError` if the file is another one than was listed. One that is open stays what it was.

        Of one in a store the next run finds out.
        """
        if isinstance(self.path, Url):
            return
        status = os.stat(self.path)  # noqa: PTH116 # as for files
        if (status.st_mtime_ns, status.st_ctime_ns) != (self.mtime_ns, self.ctime_ns):
            raise PassingReadError("the Parquet was changed while the run was going on; run again")


class Row(Mapping[str, object]):
    """Row of a batch, without what is null. Values are made when they are asked for: some are long lists."""

    def __init__(self, batch: Any, row: int) -> None:
        self._batch, self._row = batch, row

    def __getitem__(self, name: str) -> object:
        number = self._batch.schema.get_field_index(name)
        value = None if number < 0 else _value(self._batch.column(number)[self._row])
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._batch.schema.names if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _value(cell: Any) -> object:
    """Return a cell as JSON has it; a text that is no UTF-8 as its bytes, and what Python has no value for as none."""
    try:
        return plain(cell.as_py())
    except (ValueError, OverflowError):
        return cell.as_buffer().to_pybytes() if str(cell.type) in _TEXTS else None


class _Opened:
    """Parquet that is open for reading."""

    def __init__(self, reader: ParquetReader) -> None:
        opened = OpenParquet(reader.path)
        reader.check()
        self.images = RowReader(opened, [reader.column.bytes_name], reader.column.values)
        names = [field.name for field in opened.schema if not holds_bytes(field.type)]
        self.others = RowReader(opened, names) if names else None


_OPENED: Recent[ParquetReader, _Opened] = Recent(_Opened, count_cores() + _MORE_OPEN)


def find_column(opened: OpenParquet) -> ImageColumn | None:
    """Find the first column of images: one that `datasets` calls that, or bytes beside a path, or bytes of an image."""
    features = features_of(opened.schema.metadata)
    declared = [field for field in opened.schema if features.get(field.name, {}).get("_type") == "Image"]
    others = [field for field in opened.schema if "_type" not in features.get(field.name, {})]
    for found in (*declared, *others):
        names = [found.type.field(number).name for number in range(found.type.num_fields)]
        if "bytes" in names and holds_bytes(found.type.field("bytes").type):
            return ImageColumn(found.name, is_struct=True)
        if not names and holds_bytes(found.type):
            column = ImageColumn(found.name, is_struct=False)
            if found in declared or _begins_with_image(opened, column):
                return column
    return None


def _begins_with_image(opened: OpenParquet, column: ImageColumn) -> bool:
    """Tell whether the first value of a column is an image; nulls before it prove nothing."""
    for group in range(opened.num_groups):
        for batch in opened.batches(group, [column.name]):
            values = batch.column(0).drop_null()
            if len(values):
                return image_format(values[0].as_py()) is not None
    return False


@dataclass(slots=True)
class _Listing:
    """Rows of a Parquet so far."""

    path: Location
    prefix: str
    search: Search
    finds: Finds = field(default_factory=Finds)
    taken: set[str] = field(default_factory=set)  # paths that are keys

    def read(self, stamp: Stamp) -> None:
        """Take the rows as they come; a row group that is damaged costs what lies behind the damage."""
        opened = OpenParquet(self.path)
        column = find_column(opened)
        if column is None:
            self.finds.passed_over.add(PassedOver.NO_IMAGE)
            return
        reader = ParquetReader(self.path, *stamp[1:], column, class_names(opened.schema.metadata))
        for group in range(opened.num_groups):
            row, end = opened.starts[group : group + 2]
            try:
                for batch in opened.batches(group, [column.name]):
                    self._add(batch, row, reader, stamp)
                    row += batch.num_rows
                    self.search.tell(self.finds.num_seen)
            except UnreadableImageError as error:
                rows = f"{error}; with it all rows from {row:,} to {end - 1:,}"
                self.finds.fail(f"{self.prefix}{row:0{_ROW_DIGITS}d}", self.path, rows)

    def _add(self, batch: Any, first: int, reader: ParquetReader, stamp: Stamp) -> None:
        data, paths = reader.column.fields(batch)
        sizes = _lengths(data)
        texts = [None] * len(sizes) if paths is None else _texts(paths)
        keys: list[str] = []
        rows: list[int] = []
        figures: list[int | None] = []
        rules = self.search.rules
        for row, (num_bytes, path) in enumerate(zip(sizes, texts, strict=True), start=first):
            name = self._name(path, row)
            is_plain = name is path and is_plain_member(name) and not rules.has_patterns
            kind = None if is_plain else rules.judge(name.split("/")).kind
            if kind is not None:
                self.finds.passed_over.add(kind)
            elif num_bytes is None:
                where = "" if path is None else f": the image is only named, {path!r:.80}; write it into the Parquet"
                self.finds.fail(self.prefix + name, self.path, f"has no bytes in its row{where}")
            else:
                keys.append(self.prefix + name)
                rows.append(row)
                figures += (num_bytes, *stamp[1:])
        self.finds.images.extend_numbered(reader, keys, rows, figures)

    def _name(self, path: object, row: int) -> str:
        """Return what a row is called: its path, or its number where that cannot be, or is another row's already."""
        if not isinstance(path, str) or path in self.taken or not _is_safe(path):
            return f"{row:0{_ROW_DIGITS}d}"
        self.taken.add(path)
        return path


def _is_safe(path: str) -> bool:
    """Tell whether a path can be a key: relative, without detours, no control characters, and no number of a row."""
    if len(path) <= _LONGEST_PATH and is_plain_member(path):
        return True
    parts = parts_of(path)
    if ".." in parts or "/".join(parts) != path or not path or len(path) > _LONGEST_PATH:
        return False
    return path.isprintable() and not path.isdigit()


def _texts(values: Any) -> Sequence[object]:
    """Return a column of texts as Python has them; those that are no UTF-8 as bytes."""
    try:
        texts: Sequence[object] = values.to_pylist()
    except UnicodeDecodeError:
        return [_value(cell) for cell in values]
    return texts


def _lengths(data: Any) -> list[int | None]:
    """Return the lengths of an array of bytes, None of those that are null."""
    offset_type = _OFFSETS.get(str(data.type))
    if data.null_count or offset_type is None or not len(data):
        import pyarrow.compute as pc  # which takes 80 ms

        lengths: list[int | None] = pc.binary_length(data).to_pylist()
        return lengths
    offsets = np.frombuffer(data.buffers()[1], offset_type, len(data) + 1, data.offset * offset_type.itemsize)
    return list(np.diff(offsets).tolist())
