"""Images of a run as plain values of JSON, and back: what a plan in a file has of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from semdis_cli.errors import UsageError
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.json_text import escape_name, unescape_name
from semdis_cli.records import WHOLE, ImageReader, SourceImage, Stamp, View
from semdis_cli.sources.members import Beside, Samples
from semdis_cli.sources.named import NamedSources, reader_fields
from semdis_cli.sources.plain_values import (
    check_inside,
    check_key,
    check_list,
    check_number,
    check_object,
    check_text,
    check_time,
)
from semdis_cli.sources.remote import FarReader
from semdis_cli.sources.tars import PackedTar, Tar
from semdis_cli.sources.zips import ZipReader


class _Root(NamedTuple):
    """What images of a reader have in common: `start` None: places are numbers; else what follows a key's `cut`."""

    reader: int
    view: View
    start: str | None = None
    cut: int = 0


@dataclass
class _Roots:
    """Readers and roots of images so far."""

    sources: NamedSources
    readers: dict[tuple[int, int | None], int] = field(default_factory=dict)
    fields: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[_Root, int] = field(default_factory=dict)
    last: dict[tuple[int, View], _Root] = field(default_factory=dict)  # of those whose places are texts
    _base: tuple[int, str, str] | None = None  # of the last source

    def of(self, image: SourceImage) -> int:
        """Return the number of an image's root."""
        if isinstance(image.place, int):
            root = _Root(self._reader(image.reader, None), image.view)
        else:
            root = self._named_root(image)
        return self.numbers.setdefault(root, len(self.numbers))

    def _named_root(self, image: SourceImage) -> _Root:
        """Return the root of an image whose place is a text; most often it is that of the one before."""
        source, inside = self._within(image)
        reader, key = self._reader(image.reader, source), image.file_key
        last = self.last.get((reader, image.view))
        if last is None or f"{last.start}{key[last.cut :]}" != inside:
            same = _same_end(inside, key)
            last = _Root(reader, image.view, inside[: len(inside) - same], len(key) - same)
            self.last[reader, image.view] = last
        return last

    def _reader(self, reader: ImageReader, source: int | None) -> int:
        number = self.readers.setdefault((id(reader), source), len(self.fields))
        if number == len(self.fields):
            self.fields.append(reader_fields(reader, self.sources, source))
        return number

    def _within(self, image: SourceImage) -> tuple[int, str]:
        """Return the source of an image that is a file of its own, and its path in that."""
        place = os.fspath(image.place)
        if self._base is None or not place.startswith(self._base[1]):
            self._base = self._base_of(image, place)
        source, start, whole = self._base
        return source, "" if place == whole else place.removeprefix(start)

    def _base_of(self, image: SourceImage, place: str) -> tuple[int, str, str]:
        reader = image.reader
        path = reader.url if isinstance(reader, FarReader) else Path(place)
        source = self.sources.find(path).source
        start, whole = self.sources.base(source)
        if not (place == whole or place.startswith(start)):
            raise UsageError("is listed under a name that does not lead to it", place=reader.locate(image)[0])
        return source, start, whole


def _same_end(one: str, other: str) -> int:
    """Count the characters at the end of two texts that are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@dataclass(frozen=True)
class RecordedImages:
    """The form of images in a plan, whose `sources` are named.

    `has_beside`: where in containers lies what belongs to images that are going to be read is said too.
    """

    sources: NamedSources
    has_beside: bool

    def describe(self, images: Sequence[SourceImage], *, are_kept: bool) -> dict[str, Any]:
        """Return images as plain values. `are_kept`: nobody reads them. Raises as `images_to_json`."""
        return images_to_json(images, self.sources, has_beside=self.has_beside and not are_kept)

    def read(self, fields: Mapping[str, Any]) -> ImageList:
        """Return the images again. Raises as `images_from_json`."""
        return images_from_json(fields, self.sources)


def images_to_json(images: Sequence[SourceImage], sources: NamedSources, *, has_beside: bool) -> dict[str, Any]:
    """Return images as plain values. `has_beside`: also where in their containers lies what belongs to each.

    Raises `UsageError` for images that only this process can read, or that lie in none of the sources.
    """
    roots = _Roots(sources)
    numbers = [roots.of(image) for image in images]
    fields: dict[str, Any] = {
        "keys": [escape_name(image.key) for image in images],
        "bytes": _shortened([image.num_bytes for image in images]),
        "mtimes": _shortened([image.mtime_ns for image in images]),
        "ctimes": _shortened([image.ctime_ns for image in images]),
        "readers": roots.fields,
        "roots": [_root_fields(root) for root in roots.numbers],
        "root": _shortened(numbers),
    }
    if places := [image.place for image in images if isinstance(image.place, int)]:
        fields["places"] = places
    if has_beside and (
        beside := {str(number): found for number, image in enumerate(images) if (found := _beside(image))}
    ):
        fields["beside"] = beside
    return fields


def _root_fields(root: _Root) -> dict[str, Any]:
    fields: dict[str, Any] = {"reader": root.reader}
    if root.view != WHOLE:
        fields["view"] = list(root.view)
    return fields if root.start is None else fields | {"start": escape_name(root.start), "cut": root.cut}


def _beside(image: SourceImage) -> list[Beside]:
    """Return what lies beside an image in its container."""
    reader = image.reader
    return reader.samples.beside(image.place) if isinstance(reader, Tar | PackedTar | ZipReader) else []


def _shortened(values: list[Any]) -> Any:
    """Return one value for all where they are the same, as the times of what lies in one file are."""
    return values[0] if values and values.count(values[0]) == len(values) else values


def images_from_json(fields: Mapping[str, Any], sources: NamedSources) -> ImageList:
    """Return the images that `images_to_json` described.

    Raises `ValueError`, `ArithmeticError`, `TypeError` or `LookupError` for anything else.
    """
    rows = _Rows.parse(fields)
    members = _members(rows, fields.get("beside", {}))
    readers = [sources.reader(each, members.get(number)) for number, each in enumerate(rows.readers)]
    images, first = ImageList(), 0
    for number, run in groupby(rows.numbers):
        stop = first + sum(1 for _ in run)
        root = rows.roots[number]
        if root.start is None:
            _extend_numbered(images, rows, root, readers[root.reader], slice(first, stop))
        else:
            base = sources.base(check_number(rows.readers[root.reader]["source"]))
            _extend_named(images, rows, root, readers[root.reader], slice(first, stop), base)
        first = stop
    return images


@dataclass(frozen=True)
class _Rows:
    """What a file says of images, a column for each fact. `figures`: size, mtime and ctime of one after the other."""

    keys: list[str]
    figures: list[int | None]
    readers: list[dict[str, Any]]
    roots: list[_Root]
    numbers: list[int]  # of the roots
    places: list[int]  # 0 of those whose place follows from the key

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> "_Rows":
        """Take what is well-formed. Raises as `images_from_json`."""
        keys = [check_key(unescape_name(check_text(key))) for key in check_list(fields["keys"])]
        sizes, mtimes, ctimes = (_column(fields[name], len(keys)) for name in ("bytes", "mtimes", "ctimes"))
        figures = [each for row in zip(map(check_number, sizes), mtimes, ctimes, strict=True) for each in row]
        for figure in figures:
            check_time(figure)
        readers = [check_object(each) for each in check_list(fields["readers"])]
        roots = [_parse_root(check_object(each), readers) for each in check_list(fields["roots"])]
        numbers = [check_number(number) for number in _column(fields["root"], len(keys))]
        left = iter(check_list(fields.get("places", [])))
        places = [check_number(next(left, None)) if roots[number].start is None else 0 for number in numbers]
        if next(left, None) is not None:
            raise ValueError("more places than images")
        return cls(keys, figures, readers, roots, numbers, places)

    def stamp(self, number: int) -> Stamp:
        """Return size and times of an image."""
        num_bytes, mtime_ns, ctime_ns = self.figures[3 * number : 3 * number + 3]
        return Stamp(num_bytes or 0, mtime_ns, ctime_ns)


def _parse_root(fields: Mapping[str, Any], readers: Sequence[Mapping[str, Any]]) -> _Root:
    reader, view = check_number(fields["reader"]), View(*check_list(fields.get("view", list(WHOLE))))
    for part in view:
        if part is not None:
            check_number(part)
    start, cut = fields.get("start"), check_number(fields.get("cut", 0))
    if (start is None) == (readers[reader]["kind"] in {"file", "far"}):
        raise ValueError("places of another kind than the source has")
    return _Root(reader, view, None if start is None else unescape_name(check_text(start)), cut)


def _members(rows: _Rows, beside: object) -> dict[int, Samples]:
    """Return what lies beside the images of each reader where anything does, by the number of the reader."""
    found = {check_number(int(number)): _parse_beside(each) for number, each in check_object(beside).items()}
    by_reader: dict[int, dict[int, Sequence[Beside]]] = {
        rows.roots[rows.numbers[number]].reader: {} for number in found
    }
    for number, (root, place) in enumerate(zip(rows.numbers, rows.places, strict=True)):
        reader = rows.roots[root].reader
        if reader in by_reader:
            by_reader[reader][place] = found.get(number, ())
    return {reader: Samples.of(members) for reader, members in by_reader.items()}


def _parse_beside(value: object) -> list[Beside]:
    members = [check_list(each) for each in check_list(value)]
    return [Beside(check_text(name), check_number(place), check_number(size)) for name, place, size in members]


def _extend_numbered(images: ImageList, rows: _Rows, root: _Root, reader: ImageReader, part: slice) -> None:
    if root.view == WHOLE:
        figures = rows.figures[3 * part.start : 3 * part.stop]
        images.extend_numbered(reader, rows.keys[part], rows.places[part], figures)
        return
    for number in range(part.start, part.stop):
        images.append(SourceImage(rows.keys[number], reader, rows.places[number], *rows.stamp(number), root.view))


def _extend_named(
    images: ImageList, rows: _Rows, root: _Root, reader: ImageReader, part: slice, base: tuple[str, str]
) -> None:
    start, whole = base
    keys = rows.keys[part]
    insides = [f"{root.start}{(root.view.file_of(key) or key)[root.cut :]}" for key in keys]
    for inside in filter(None, insides):
        check_inside(inside)
    figures = [figure for figure in rows.figures[3 * part.start : 3 * part.stop] if figure is not None]
    if root.view == WHOLE and all(insides) and len(figures) == 3 * len(keys):  # as nearly always; it is quicker
        images.extend(images.root(reader, f"{start}{root.start}", root.cut), keys, figures)
        return
    for number, (key, inside) in enumerate(zip(keys, insides, strict=True), start=part.start):
        place = start + inside if inside else whole
        images.append(SourceImage(key, reader, place, *rows.stamp(number), root.view))


def _column(value: object, number: int) -> Sequence[Any]:
    """Return a column of so many values, of which one may stand for all."""
    if not isinstance(value, list):
        return [value] * number
    if len(value) != number:
        raise ValueError(f"{len(value):,} values for {number:,} images")
    return value
