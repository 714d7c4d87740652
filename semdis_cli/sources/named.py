"""Sources as a user named them, and the readers in them as plain values of JSON, and back.

A file is named by the number of a source, among those that the user named, and its path within that. Who reads the
values back names the sources again, and nothing that lies beside them is opened, whatever the values say.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import escape_name, unescape_name
from semdis_cli.files.recent import Recent
from semdis_cli.files.url import Location, Url
from semdis_cli.records import ImageReader
from semdis_cli.sources.files import ON_DISK, FilesOnDisk
from semdis_cli.sources.members import Samples
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.parquet import ImageColumn, ParquetReader
from semdis_cli.sources.plain_values import (
    check_flag,
    check_inside,
    check_integer,
    check_number,
    check_text,
    check_time,
)
from semdis_cli.sources.remote import FarReader
from semdis_cli.sources.tars import PackedTar, Tar
from semdis_cli.sources.zips import ZipReader

_KEPT_READERS = 256


class FilePlace(NamedTuple):
    """A file of a source: the number of that among those named, and the path within it; empty if it is the file."""

    source: int
    inside: str


@dataclass(frozen=True)
class NamedSources:
    """The sources that the user of a run named, each as it was named."""

    locations: tuple[Location, ...]
    _readers: "Recent[tuple[object, ...], ImageReader]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_readers", Recent(lambda key: self._make_reader(key, Samples()), _KEPT_READERS))

    def __reduce__(self) -> tuple[type["NamedSources"], tuple[tuple[Location, ...]]]:
        return NamedSources, (self.locations,)

    @cached_property
    def _numbers(self) -> Mapping[Location, int]:
        return {location: number for number, location in reversed([*enumerate(self.locations)])}

    def find(self, path: Location) -> FilePlace:
        """Return where a file lies. Raises `UsageError` if it lies in none of the sources."""
        above = [Url(path.text)] if isinstance(path, Url) else [path, *path.parents]
        for each in above:
            if each in self._numbers:
                within = path.inner[1:] if isinstance(path, Url) else "/".join(path.parts[len(each.parts) :])
                return FilePlace(self._numbers[each], within)
        raise UsageError("lies in none of the sources that are named", place=path)

    def path(self, place: FilePlace) -> Location:
        """Return the path of a file. Raises `ValueError` for one that would not lie in its source."""
        location = self._location(place.source)
        return location / check_inside(place.inside) if place.inside else location

    def _location(self, source: int) -> Location:
        if source >= len(self.locations):
            raise ValueError(f"there is no source {source:,}")
        return self.locations[source]

    def base(self, source: int) -> tuple[str, str]:
        """Return what the places of images in a source begin with, and the place of one that is the source itself."""
        location = self._location(source)
        whole = location.path if isinstance(location, Url) else os.fspath(location)
        return os.path.join(whole, ""), whole  # noqa: PTH118 (a text, as places are)

    def reader(self, fields: Mapping[str, Any], samples: Samples | None = None) -> ImageReader:
        """Return the reader that `reader_fields` described: one for all, but where `samples` are given.

        Raises `ValueError` for what is none.
        """
        key = tuple(
            sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in fields.items())
        )
        return self._readers.get(key) if samples is None else self._make_reader(key, samples)

    def _make_reader(self, key: tuple[Any, ...], samples: Samples) -> ImageReader:
        fields = dict(key)
        kind, source = fields.pop("kind", None), fields.pop("source", None)
        inside = unescape_name(check_text(fields.pop("inside", "")))
        make = _KINDS.get(kind) if isinstance(kind, str) else None
        if make is None:
            raise ValueError(f"{kind!r:.40} is no kind of source")
        return make(self.path(FilePlace(check_number(source), inside)), samples, **fields)


def _make_files(path: Location, samples: Samples) -> ImageReader:
    del samples
    if isinstance(path, Url):
        raise ValueError("files on a disk in a store")  # noqa: TRY004 (one kind of error for all that is malformed)
    return ON_DISK


def _make_far(path: Location, samples: Samples) -> ImageReader:
    del samples
    if not isinstance(path, Url):
        raise ValueError("a file of a store on a disk")  # noqa: TRY004
    return FarReader(path)


def _make_tar(path: Location, samples: Samples) -> ImageReader:
    return Tar(path, NamedPath.of_container(path), samples)


def _make_packed_tar(path: Location, samples: Samples) -> ImageReader:
    return PackedTar(path, samples)


def _make_zip(path: Location, samples: Samples, *, shift: object, labels: object, mtime_ns: object) -> ImageReader:
    labels_place = None if labels is None else check_number(labels)
    return ZipReader(path, check_integer(shift), samples, labels_place, check_time(mtime_ns))


def _make_parquet(
    path: Location, samples: Samples, *, column: object, is_struct: object, mtime_ns: object, ctime_ns: object
) -> ImageReader:
    del samples
    image_column = ImageColumn(unescape_name(check_text(column)), check_flag(is_struct))
    return ParquetReader(path, check_time(mtime_ns), check_time(ctime_ns), image_column, {})


_KINDS: Mapping[str, Callable[..., ImageReader]] = {
    "file": _make_files,
    "far": _make_far,
    "tar": _make_tar,
    "packed_tar": _make_packed_tar,
    "zip": _make_zip,
    "parquet": _make_parquet,
}


def reader_fields(reader: ImageReader, sources: NamedSources, source: int | None = None) -> dict[str, Any]:
    """Describe a reader: its `kind`, the place of its file, and what `NamedSources.reader` needs to know beyond that.

    `source`: that of files on a disk, which all have one reader. Raises `UsageError` for one that reads stdin.
    """
    more: dict[str, Any] = {}
    match reader:
        case FilesOnDisk():
            return {"kind": "file", "source": source}
        case FarReader():
            return _of("far", sources.find(reader.url))
        case Tar():
            kind = "tar"
        case PackedTar():
            kind = "packed_tar"
        case ZipReader():
            kind = "zip"
            more = {"shift": reader.shift, "labels": reader.labels_place, "mtime_ns": reader.mtime_ns}
        case ParquetReader():
            kind = "parquet"
            more = {"column": escape_name(reader.column.name), "is_struct": reader.column.is_struct}
            more |= {"mtime_ns": reader.mtime_ns, "ctime_ns": reader.ctime_ns}
        case _:
            raise UsageError("what comes on stdin can be read once: write it into a file for a plan")
    return _of(kind, sources.find(reader.path)) | more


def _of(kind: str, place: FilePlace) -> dict[str, Any]:
    inside = {"inside": escape_name(place.inside)} if place.inside else {}
    return {"kind": kind, "source": place.source} | inside
