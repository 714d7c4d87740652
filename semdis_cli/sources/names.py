"""Beginnings of keys: a source's own name, and as many folders above it as tell it from the others."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from semdis_cli.files.url import Location, Url


@dataclass(frozen=True, slots=True)
class NamedPath:
    """Source with the parts of its path, without links, the last one its name; at least `depth` of them are used.

    `suffix`: what was left out of the name of a file that holds many images, as a tar does; None for a folder.
    """

    path: Location
    parts: tuple[str, ...]
    depth: int = 1
    suffix: str | None = None

    @classmethod
    def of_folder(cls, path: Path) -> "NamedPath":
        """Name a folder: by its own name, whatever link leads to it, and whether it was given as `.`."""
        return cls(path, Path(os.path.realpath(path)).parts[1:])

    @classmethod
    def of_file(cls, path: Path) -> "NamedPath":
        """Name a tar or the like: as it was given, without its suffix. In caches it is a link to a hash."""
        return cls.of_file_in(path.parent, path)

    @classmethod
    def of_file_in(cls, folder: Path, path: Path) -> "NamedPath":
        """Name a tar or the like that was found in a folder that was named: by its path in that."""
        inside = path.relative_to(folder)
        above = Path(os.path.realpath(folder)).parts[1:]
        stem, suffix = split_suffix(path.name)
        return cls(path, (*above, *inside.parent.parts, stem), len(inside.parts), suffix)

    @classmethod
    def of_url(cls, url: Url) -> "NamedPath":
        """Name a folder of a store."""
        return cls(url, url.parts)

    @classmethod
    def of_container(cls, path: Location, folder: Location | None = None) -> "NamedPath":
        """Name a tar or the like, here or in a store; one that was found in a folder that was named: by its path."""
        if isinstance(path, Url):
            depth = 1 if folder is None else len(path.parts) - len(folder.parts)
            return cls(path, (*path.parts[:-1], path.name.removesuffix(path.suffix)), depth, path.suffix)
        return cls.of_file(path) if folder is None else cls.of_file_in(Path(folder), path)

    @property
    def names(self) -> Iterator[str]:
        """Yield all names that it can have, from the shortest on."""
        return ("/".join(self.parts[-depth:]) for depth in range(self.depth, len(self.parts) + 1))

    @property
    def linked_names(self) -> Iterator[str]:
        """Yield the names that it could have by what it is a link to, if it is one."""
        if isinstance(self.path, Url):
            return iter(())
        real = Path(os.path.realpath(self.path))
        parts = (*real.parts[1:-1], real.name if self.suffix is None else split_suffix(real.name)[0])
        return iter(()) if parts == self.parts else replace(self, parts=parts).names

    @property
    def name(self) -> str:
        """Return the shortest of them."""
        return "/".join(self.parts[-self.depth :])


def split_suffix(name: str) -> tuple[str, str]:
    """Split the name of a file with many images into what its keys begin with and the suffix, `.tar.gz` included."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 # a name alone
    if name.lower().endswith(".tar.gz"):
        return name[: -len(".tar.gz")], name[-len(".tar.gz") :]
    return stem, suffix


def shortest_names(paths: Sequence[NamedPath]) -> list[str]:
    """Find a name for each source, in order, none longer than needed: the same for equal paths, another for each other.

    A tar beside a folder of its name keeps its suffix.
    """
    named = [*paths]
    wholes = [(each.parts, each.suffix) for each in named]
    while short := [at for at in _clashes([each.parts for each in named], wholes) if named[at].suffix]:
        for at in short:
            parts = named[at].parts
            named[at] = replace(named[at], parts=(*parts[:-1], f"{parts[-1]}{named[at].suffix}"), suffix="")
    while True:
        clashes = _clashes([each.name for each in named], [each.parts for each in named])
        longer = [at for at in clashes if named[at].depth < len(named[at].parts)]
        if not longer:
            return [each.name for each in named]
        for at in longer:
            named[at] = replace(named[at], depth=named[at].depth + 1)


def _clashes(labels: Sequence[object], wholes: Sequence[object]) -> list[int]:
    """Find the places of equal labels that stand for different wholes."""
    meant = defaultdict(set)
    for label, whole in zip(labels, wholes, strict=True):
        meant[label].add(whole)
    return [at for at, label in enumerate(labels) if len(meant[label]) > 1]
