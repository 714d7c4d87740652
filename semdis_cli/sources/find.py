"""Folders, files, tars, stdin and lists of files -> the images of a run, each under its key, sorted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import Images
from semdis_cli.files.url import Location, Url
from semdis_cli.records import SourceImage
from semdis_cli.sources.file_list import FileList
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules, Tally
from semdis_cli.sources.names import NamedPath, shortest_names
from semdis_cli.sources.prefixes import HeldSet, Listing, is_same_file, is_same_path, settle_prefixes
from semdis_cli.sources.registry import source_at
from semdis_cli.sources.source import Search, Source
from semdis_cli.sources.spool import STDIN, STDIN_NAME, Spool


class Origin(NamedTuple):
    """One source of a run: the beginning of its keys, where it is, and the tables that lie in it, by their paths."""

    prefix: str
    path: Path | None
    tables: tuple[str, ...]


_MISSING_NAMED = 20


@dataclass(frozen=True, slots=True)
class FoundImages:
    """Images and failures of a run, each sorted by key, no key twice, and the numbers of files passed over, by kind.

    `origins`: the sources that they are from.
    `stdin` is kept so that images from there can be read for as long as this lives.
    """

    images: Sequence[SourceImage]
    failures: tuple[Failure, ...]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    stdin: Spool | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.images)

    def all_keys(self) -> Iterator[str]:
        """Yield the keys of the images."""
        images = self.images
        return (key for key, *_ in images.facts()) if isinstance(images, Images) else (each.key for each in images)

    @property
    def is_single(self) -> bool:
        """Tell whether one image on stdin is all that there is."""
        return self.stdin is not None and self.stdin.is_single

    @property
    def num_ignored(self) -> int:
        """Number of files passed over."""
        return sum(self.passed_over.values())

    @property
    def ignored_kinds(self) -> str:
        """Describe in a line the kinds of files that were passed over with their numbers, the largest first."""
        by_number = sorted(self.passed_over.items(), key=lambda kind: (-kind[1], kind[0]))
        return ", ".join(f"{kind}: {number:,}" for kind, number in by_number)


def find_images(  # noqa: PLR0913 (each of them is a part of what is listed)
    sources: Sequence[Location],
    *,
    listed: Sequence[Path] = (),
    packed: Sequence[tuple[str, Location]] = (),
    exclude: Path | None = None,
    stdin: Spool | None = None,
    rules: InputRules = DEFAULT_RULES,
    held: HeldSet | None = None,
    tell: Tell = untold,
) -> FoundImages:
    """List the images of `sources` (folders, tars, files, `-`) and of `listed` (files), without reading them.

    Folders are searched all the way down, through symbolic links too, but not in circles. A regular file in them, or in
    a tar, is an image by its suffix or, failing that, by its first bytes, unless `rules` pass it over; all else is
    counted. `exclude` is a folder not to enter; folders that `decode`, `roundtrip` or `train` wrote are passed over as
    well. Tars and zips in folders are searched where there is no other image in the folder. A file named outright is
    one of them by its suffix, else it is taken for an image whatever it looks like. `-` is what `stdin` holds.
    `packed`: more of them, each with the name its keys begin with; those in folders are passed over then.

    Keys are POSIX paths: relative to the folder or, in tars and with several sources, after the name of the source and
    as many folders above it as tell it from the others. Images that the set `held` has keep their keys. A file among
    the sources: its name. A listed file: its path if that is relative and has no `..`, else its absolute path without
    the leading slash. An image on stdin: `stdin` and the suffix of its format. One file under one key counts once.

    A source that does not exist, a damaged tar on stdin, and two files with one key, are a `UsageError`, and so are
    damaged tars where nothing else was found. Otherwise such a tar is a `Failure` beside the images that lie in it
    whole. A listed file that does not exist, and whatever is not a regular file or may not be looked at, is one too.
    `tell` hears of the listing as it goes.
    """
    refuse_missing([*(source for source in sources if source != STDIN or stdin is None), *(path for _, path in packed)])
    given = [stdin if stdin is not None and source == STDIN else source_at(source) for source in sources]
    scan = _Scan(rules, exclude, tell, has_containers=not packed)
    for source, prefix, others in _named(given):
        scan.add(source, prefix, others)
    for name, path in packed:
        scan.add(source_at(path), f"{name}/")
    settle_prefixes(scan.listings, held)
    for source in (*(source for source in given if source.naming is None), FileList.of(listed)):
        scan.add(source, "")
    return scan.result(stdin)


def _named(sources: Sequence[Source]) -> Iterator[tuple[Source, str, tuple[str, ...]]]:
    """Yield each source whose keys begin with its name once, with that beginning and others that they may have.

    The keys of a folder or of stdin that is the only source begin with nothing.
    """
    named: dict[tuple[object, ...], tuple[Source, NamedPath]] = {}  # one that is named twice is searched once
    for source in sources:
        if source.naming is not None:
            named.setdefault((source.naming.parts, source.naming.suffix), (source, source.naming))
    names = shortest_names([naming for _, naming in named.values()])
    for (source, naming), name in zip(named.values(), names, strict=True):
        others = ("", *(f"{longer}/" for longer in (*naming.names, *naming.linked_names)))
        has_none = naming.suffix is None and (len(sources) == 1 or not name)
        yield source, "" if has_none else f"{name}/", others


@dataclass(slots=True)
class _Scan:
    """Listings of sources so far."""

    rules: InputRules
    exclude: Path | None
    tell: Tell = untold
    has_containers: bool = True
    listings: list[Listing] = field(default_factory=list)

    def add(self, source: Source, prefix: str, others: tuple[str, ...] = ()) -> None:
        """Add the images of a source."""
        before = sum(listing.found.num_seen for listing in self.listings)

        def tell(number: int) -> None:
            self.tell(Planning("listing photos", before + number))

        found = source.images(prefix, Search(self.rules, self.exclude, tell, self.has_containers))
        self.listings.append(Listing(source.naming, prefix, others, found))

    def result(self, stdin: Spool | None) -> FoundImages:
        """Return everything, sorted by key.

        Raises `UsageError` if one key stands for two files, or if sources that cannot be read are all that there is.
        """
        images, *others = [listing.found.images for listing in self.listings] or [ImageList()]
        for more in others:
            images.join(more)
        failures: list[tuple[Failure, Location | str]] = [
            failure for listing in self.listings for failure in listing.found.failures
        ]
        broken = [broken for listing in self.listings if (broken := _broken(listing)) is not None]
        if broken and not images:
            raise UsageError("; ".join(f"{path}: {failure.reason}" for failure, path in broken))
        tally = Tally()
        for listing in self.listings:
            tally.add_all(listing.found.passed_over)
        images = _without_repeats(images.sorted())
        unusable = tuple(_sorted_failures([*failures, *broken], images))
        return FoundImages(images, unusable, tally.numbers, stdin, tuple(map(_origin, self.listings)))


def _origin(listing: Listing) -> Origin:
    path = None if listing.naming is None or isinstance(listing.naming.path, Url) else listing.naming.path
    return Origin(listing.prefix, path, tuple(listing.found.tables))


def _broken(listing: Listing) -> tuple[Failure, Location] | None:
    """Return a source that could not be read to its end as an input of the run, with its path; None for all others.

    Its key is its own name, with what its keys begin with.
    """
    if listing.found.damage is None or listing.naming is None:
        return None
    path = listing.naming.path
    name = listing.prefix.removesuffix("/")
    is_whole_name = name.rpartition("/")[2] == path.name
    key = name if is_whole_name else f"{name}{listing.naming.suffix or ''}" if name else path.name
    return Failure(key, listing.found.damage), path


def refuse_missing(sources: Sequence[Location]) -> None:
    """Raise `UsageError` for sources that do not exist, all of them at once, if they are not too many for a line."""
    missing = []
    for source in sources:
        if isinstance(source, Url):
            continue  # whoever opens it says so
        try:
            source.stat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(str(source))
        except OSError:
            pass  # whoever lists it says what is wrong
    if missing:
        more = f" and {len(missing) - _MISSING_NAMED:,} more" if len(missing) > _MISSING_NAMED else ""
        raise UsageError("no such file or folder", place=", ".join(missing[:_MISSING_NAMED]) + more)


def _without_repeats(images: ImageList) -> ImageList:
    """Drop all images of a key but the first; `images` are sorted by key. Raises `UsageError` for another file."""
    if images.is_rising:
        return images
    unique, last = ImageList(), None
    for image in images:
        if last is None or image.key != last.key:
            unique.append(image)
            last = image
        elif not is_same_file(image, last):
            raise _two_files(image.key, _path_of(last), _path_of(image))
    return unique


def _sorted_failures(failures: Sequence[tuple[Failure, Location | str]], images: ImageList) -> list[Failure]:
    """Sort the failures by key, each key once. Raises `UsageError` if one stands for two files."""
    if not failures:
        return []
    keys = {failure.key for failure, _ in failures}
    taken = {key: images[number] for number, (key, *_) in enumerate(images.facts()) if key in keys}
    unique: dict[str, tuple[Failure, Location | str]] = {}
    for failure, path in failures:
        if failure.key in taken:
            raise _two_files(failure.key, _path_of(taken[failure.key]), path)
        first = unique.setdefault(failure.key, (failure, path))[1]
        if not is_same_path(first, path):
            raise _two_files(failure.key, first, path)
    return [unique[key][0] for key in sorted(unique)]


def _path_of(image: SourceImage) -> str:
    return image.reader.locate(image)[0]


def _two_files(key: str, one: Location | str, other: Location | str) -> UsageError:
    are_files = not (_holds_many(one) or _holds_many(other))
    above = "name a folder above both in their place, " if are_files else ""
    return UsageError(f"{one} and {other} have the same key {key}: rename one, {above}or give one of them another -o")


def _holds_many(path: Location | str) -> bool:
    """Tell whether a path of `ImageReader.locate` is that of a file with many images, so no folder can be named."""
    naming = source_at(Path(path)).naming
    return str(path) == STDIN_NAME or (naming is not None and naming.suffix is not None)
