"""Kinds of files that hold many images, and those of them that lie in a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from semdis_cli.files.url import Location, Url
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules
from semdis_cli.sources.names import NamedPath, shortest_names
from semdis_cli.sources.parquet import PARQUET_SUFFIX, Parquet
from semdis_cli.sources.source import Finds, Search, Source
from semdis_cli.sources.tar_table import table_path
from semdis_cli.sources.tars import TAR_SUFFIXES, Tar
from semdis_cli.sources.zips import ZIP_SUFFIX, Zip

_KINDS: Mapping[str, Callable[[Location, NamedPath], Source]] = {
    **dict.fromkeys(TAR_SUFFIXES, Tar),
    ZIP_SUFFIX: Zip,
    PARQUET_SUFFIX: Parquet,
}


def is_container_name(name: str) -> bool:
    """Tell whether a file holds many images by its name."""
    return name.lower().endswith(tuple(_KINDS))


def container_at(path: Location) -> Source | None:
    """Return the source in a file that holds many images; None if it is none by its name."""
    kinds = (kind for suffix, kind in _KINDS.items() if path.name.lower().endswith(suffix))
    return next((kind(path, NamedPath.of_container(path)) for kind in kinds), None)


def search_containers(folder: Location, paths: Sequence[Location], found: Finds, prefix: str, search: Search) -> None:
    """Add to what was `found` in a folder the images in its files that hold many.

    One that is damaged is a failure beside them.
    """
    for name, path, source in named_containers(folder, paths):
        search.tell(found.num_seen)
        inner = source.images(f"{prefix}{name}/", replace(search, tell=partial(_tell_more, search.tell, found)))
        found.images.join(inner.images)
        found.failures += inner.failures
        found.passed_over.add_all(inner.passed_over)
        if inner.damage is not None:
            found.fail(prefix + "/".join(path.parts[len(folder.parts) :]), path, inner.damage)


def _tell_more(tell: Callable[[int], None], found: Finds, number: int) -> None:
    tell(found.num_seen + number)


def named_containers(folder: Location, paths: Sequence[Location]) -> Iterator[tuple[str, Location, Source]]:
    """Yield the sources in files of `folder`, each after its path and the name of its keys: its path in the folder.

    A Parquet beside a tar of its name is the table of that, as img2dataset leaves it, and no source.
    """
    tables = {table_path(path) for path in paths if path.name.lower().endswith(TAR_SUFFIXES)}
    paths = [path for path in paths if path not in tables]
    names = shortest_names([NamedPath.of_container(path, folder) for path in paths])
    for name, path in zip(names, paths, strict=True):
        source = container_at(path)
        assert source is not None
        yield name, path, source


def _stem(path: Location) -> str:
    return str(path).removesuffix(path.suffix)


def find_containers(
    sources: Sequence[Location], rules: InputRules = DEFAULT_RULES
) -> tuple[list[tuple[str, Location]], list[Location]]:
    """Tell the files with many images among `sources` and in their folders, each with its name, from other sources.

    Folders stay among the others: they may hold images beside them. Of two of one name, each has as many of the folders
    above it in its name as tell it from the other.
    """
    named: list[NamedPath] = []
    others: list[Location] = []
    for source in sources:
        if not isinstance(source, Url) and source.is_dir():
            inside = sorted(path for path in source.rglob("*.*") if is_container_name(path.name) and path.is_file())
            wanted = (path for path in inside if _is_wanted(path.relative_to(source), rules))
            named += [NamedPath.of_file_in(source, path) for path in wanted]
            others.append(source)
        elif is_container_name(source.name):
            named.append(NamedPath.of_container(source))
        else:
            others.append(source)
    names = shortest_names(named)
    return [(name, each.path) for name, each in zip(names, named, strict=True)], others


def _is_wanted(path: Path, rules: InputRules) -> bool:
    """Tell whether a file at that path of a folder is searched; what --include says is about what is in it."""
    return replace(rules, include=()).judge(path.parts).kind is None
