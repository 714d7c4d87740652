"""Origins of columns: the row of a table, files and fields beside an image, the folder that it lies in."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from semdis_cli.columns.table import Table
from semdis_cli.columns.values import read_object, read_text
from semdis_cli.errors import UnreadableImageError
from semdis_cli.files.json_text import escape_name
from semdis_cli.records import MAX_BESIDE_BYTES, ColumnSource, SourceImage
from semdis_cli.settings import FOLDERS
from semdis_cli.sources.files import FilesOnDisk, open_regular

SIDECARS = ("txt", "caption", "cls", "json")


class Fields(Protocol):
    """Values for one image, by name."""

    def get(self, name: str) -> Any:
        """Return a value, None if there is none of that name. Raises `ValueError`: what is wrong with it."""


class Provider(Protocol):
    """One place where columns of images come from. Safe to use from several threads."""

    def look(self, image: SourceImage) -> Fields:
        """Return what is known of an image. Raises `ValueError` if nothing is, or it cannot be read."""

    def describe(self, name: str) -> str:
        """Return what the value of that name is."""


@dataclass(frozen=True, eq=False)
class TableRows:
    """The rows of a table, by the keys of the images."""

    table: Table

    def look(self, image: SourceImage) -> Fields:
        """Return the row of an image. Raises `ValueError` if it has none."""
        row = self.table.find(image.key)
        if row is None:
            raise ValueError(f"has no row in {self.table.name}")
        return row

    def describe(self, name: str) -> str:
        """Return what the value of that name is."""
        return f"{name} in {self.table.name}"


@dataclass(frozen=True)
class BesideImages:
    """Texts and fields beside images: in their container, or as files. `suffixes`: those to be looked for."""

    suffixes: Collection[str] = SIDECARS

    def look(self, image: SourceImage) -> "_Beside":
        """Return what lies beside an image. Raises `ValueError` if that cannot be read."""
        reader = image.reader
        try:
            if isinstance(reader, ColumnSource):
                return _Beside(reader.columns(image))
            return _Beside(self._sidecars(image.place) if isinstance(reader, FilesOnDisk) else {})
        except UnreadableImageError as error:
            raise ValueError(f"has columns that cannot be read ({error.reason})") from error
        except OSError as error:
            raise ValueError(f"has columns that cannot be read ({error.strerror or error})") from error

    def names(self, image: SourceImage) -> Sequence[str]:
        """List the names of what lies beside an image; none if it cannot be read."""
        try:
            return self.look(image).names()
        except ValueError:
            return ()

    def describe(self, name: str) -> str:
        """Return what the value of that name is."""
        return f"{name} beside it"

    def _sidecars(self, place: str | os.PathLike[str]) -> dict[str, bytes]:
        """Read the files of an image's name with other suffixes. Raises `OSError`."""
        stem = os.path.splitext(place)[0]  # noqa: PTH122 (a Path for each image would take longer)
        files = ((suffix, _read_file(f"{stem}.{suffix}")) for suffix in self.suffixes)
        return {suffix: data for suffix, data in files if data is not None}


def _read_file(path: str) -> bytes | None:
    """Read a file, or as much of it as shows that it is too large; None if there is none. Raises `OSError`."""
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_BESIDE_BYTES + 1)


class _Beside:
    """Texts and fields beside one image; they are read when they are asked for."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw
        self._json: dict[str, Any] | None = None

    def get(self, name: str) -> Any:
        """Return a value, None if there is none of that name. Raises `ValueError`: what is wrong with it."""
        value = self._raw.get(name)
        if name != "json" and isinstance(value, bytes):
            return read_text(value)
        data = self._raw.get("json")
        if value is None and isinstance(data, bytes):
            return self._read_json(data).get(name)
        return self._read_json(value) if isinstance(value, bytes) else value

    def names(self) -> Sequence[str]:
        """List all names, each once. Raises `ValueError` if there is a json that cannot be read."""
        data = self._raw.get("json")
        return [*dict.fromkeys([*self._raw, *(self._read_json(data) if isinstance(data, bytes) else ())])]

    def _read_json(self, data: bytes) -> dict[str, Any]:
        if self._json is None:
            try:
                self._json = read_object(data)
            except ValueError as error:
                raise ValueError(f"would be in a json that {error}") from error
        return self._json


@dataclass(frozen=True)
class TopFolders:
    """Folders at the top of the sources, whose keys have these `prefixes`."""

    prefixes: frozenset[str]

    def look(self, image: SourceImage) -> Fields:
        """Return the folder of an image. Raises `ValueError` if it lies in none."""
        name = self.name_of(image.key)
        if name is None:
            raise ValueError("has no label: it lies in no folder of its source")
        return {FOLDERS: name}

    def describe(self, name: str) -> str:
        """Return what the value of that name is."""
        del name
        return "folder of its source"

    def name_of(self, key: str) -> str | None:
        """Return the name of the folder at the top of its source that a key lies in, None if it lies in none."""
        top, slash, _ = self.rest_of(key).partition("/")
        return escape_name(top) if slash else None

    def rest_of(self, key: str) -> str:
        """Return what follows in a key after the prefix of its source."""
        end = len(key)
        while (end := key.rfind("/", 0, end)) >= 0:
            if key[: end + 1] in self.prefixes:
                return key[end + 1 :]
        return key


def spread(images: Sequence[SourceImage], number: int) -> list[SourceImage]:
    """Choose about `number` of `images`, evenly."""
    step = -(-len(images) // number) or 1
    return list(images[::step])
