"""Folders, files, tars, stdin and lists of files -> the images of a run, each under its key, sorted."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure, Planning, Tell, untold
from semdis_cli.records import SourceImage
from semdis_cli.sources.folders import FoundFiles, search_folder, source_image
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules, Tally
from semdis_cli.sources.names import NamedPath, shortest_names
from semdis_cli.sources.prefixes import HeldSet, Listing, is_same_file, is_same_path, settle_prefixes
from semdis_cli.sources.spool import STDIN, STDIN_NAME, Spool
from semdis_cli.sources.tars import is_tar_name, list_tar


@dataclass(frozen=True, slots=True)
class FoundImages:
    """Images and failures of a run, each sorted by key, no key twice, and the numbers of files passed over, by kind.

    `stdin` is kept so that images from there can be read for as long as this lives.
    """

    images: tuple[SourceImage, ...]
    failures: tuple[Failure, ...]
    passed_over: Mapping[str, int] = field(default_factory=dict)
    stdin: Spool | None = None

    @property
    def is_single(self) -> bool:
        """Whether one image on stdin is all that there is."""
        return self.stdin is not None and self.stdin.is_single

    @property
    def num_ignored(self) -> int:
        """The number of files passed over."""
        return sum(self.passed_over.values())

    @property
    def ignored_kinds(self) -> str:
        """The kinds of files that were passed over with their numbers, the largest first; for one line of text."""
        by_number = sorted(self.passed_over.items(), key=lambda kind: (-kind[1], kind[0]))
        return ", ".join(f"{kind}: {number:,}" for kind, number in by_number)


def find_images(  # noqa: PLR0913 (each of them is a part of what is listed)
    sources: Sequence[Path],
    *,
    listed: Sequence[Path] = (),
    packed: Sequence[tuple[str, Path]] = (),
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
    well, and so are tars in folders. A file named outright is a tar by its suffix, else it is taken for an image
    whatever it looks like. `-` is what `stdin` holds. `packed`: more tars, each with the name its keys begin with.

    Keys are POSIX paths: relative to the folder or, in tars and with several sources, after the name of the source and
    as many folders above it as tell it from the others. Images that the set `held` has keep their keys. A file among
    the sources: its name. A listed file: its path if that is relative and has no `..`, else its absolute path without
    the leading slash. An image on stdin: `stdin` and the suffix of its format. One file under one key counts once.

    A source that does not exist, a damaged tar on stdin, and two files with one key, are a `UsageError`, and so are
    damaged tars where nothing else was found. Otherwise such a tar is a `Failure` beside the images that lie in it
    whole. A listed file that does not exist, and whatever is not a regular file or may not be looked at, is one too.
    `tell` hears of the listing as it goes.
    """
    named = [source for source in sources if source != STDIN or stdin is None]
    _refuse_missing([*named, *(path for _, path in packed)])
    scan = _Scan(rules, exclude, tell)
    scan.add_sources(sources, stdin)
    for name, path in packed:
        scan.add_tar(path, f"{name}/", ())
    settle_prefixes(scan.listings, held)
    for path in listed:
        scan.add_file(path, _listed_key(path))
    return scan.result(stdin)


_DESCRIPTORS = frozenset({Path("/proc/self/fd"), Path("/dev/fd")})  # where the copy of stdin has its path


@dataclass(frozen=True, slots=True)
class _BrokenTar:
    """A tar that could not be read to its end, what it is called, and why."""

    listing: Listing
    path: Path
    reason: str

    @property
    def failure(self) -> Failure:
        """As an input of the run: under the tar's own name, with what its keys begin with."""
        name = self.listing.prefix.removesuffix("/")
        is_whole_name = name.rpartition("/")[2] == self.path.name
        key = name if is_whole_name else f"{name}{self.path.suffix}" if name else self.path.name
        return Failure(key, self.reason)


@dataclass(slots=True)
class _Scan:
    """The finds so far: `listings` of folders and tars, and single files."""

    rules: InputRules
    exclude: Path | None
    tell: Tell = untold
    listings: list[Listing] = field(default_factory=list)
    files: FoundFiles = field(default_factory=FoundFiles)
    broken: list[_BrokenTar] = field(default_factory=list)

    def add_sources(self, sources: Sequence[Path], stdin: Spool | None) -> None:
        """Add what the user named. Raises `UsageError` for a damaged tar on stdin."""
        is_only = len(sources) == 1
        named: dict[tuple[str, ...], NamedPath] = {}  # one that is named twice is searched once
        for source in sources:
            if source == STDIN and stdin is not None:
                self._add_stdin(stdin, is_only=is_only)
            elif _is_folder(source):
                folder = NamedPath.of_folder(source)
                named.setdefault(("folder", *folder.parts), folder)
            elif is_tar_name(source):
                tar = NamedPath.of_tar(source)
                named.setdefault(("tar", source.name, *tar.parts), tar)
            else:
                self.add_file(source, source.name)
        for each, name in zip(named.values(), shortest_names([*named.values()]), strict=True):
            others = ("", *(f"{longer}/" for longer in (*each.names, *each.linked_names)))
            if each.suffix is not None:
                self.add_tar(each.path, f"{name}/", others)
            else:
                prefix = "" if is_only or not name else f"{name}/"
                self._add_listing(prefix, others, self._search(each.path, prefix))

    def add_tar(self, path: Path, prefix: str, others: tuple[str, ...]) -> None:
        """Add the images of a tar, and what is wrong with it."""
        try:
            status = path.stat()
        except OSError as error:
            damage: str | None = f"cannot be read ({error.strerror})"
            listing = self._add_listing(prefix, others, FoundFiles())
        else:
            if stat.S_ISREG(status.st_mode):
                damage, listing = self._add_members(path, prefix, others, path, status)
            else:
                damage = "is not a regular file; give a tar on a pipe as '-'"
                listing = self._add_listing(prefix, others, FoundFiles())
        if damage is not None:
            self.broken.append(_BrokenTar(listing, path, damage))

    def add_file(self, path: Path, key: str) -> None:
        """Add one file, or why it cannot be an image. It is not opened: a pipe would keep us waiting."""
        try:
            status = path.stat()
        except OSError as error:
            self._fail(key, path, f"cannot be read ({error.strerror})")
            return
        if stat.S_ISREG(status.st_mode):
            self.files.images.append(source_image(key, path, status))
        else:
            self._fail(key, path, "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")

    def result(self, stdin: Spool | None) -> FoundImages:
        """Everything, sorted by key. Raises `UsageError` if one key stands for two files, or broken tars are all."""
        found = [*(listing.found for listing in self.listings), self.files]
        images = [image for each in found for image in each.images]
        failures = [failure for each in found for failure in each.failures]
        if self.broken and not images:
            raise UsageError("; ".join(f"{tar.path}: {tar.reason}" for tar in self.broken))
        failures += [(tar.failure, tar.path) for tar in self.broken]
        tally = Tally()
        for each in found:
            tally.add_all(each.passed_over)
        images.sort(key=attrgetter("key"))
        images = _without_repeats(images)
        return FoundImages(tuple(images), tuple(_sorted_failures(failures, images)), tally.numbers, stdin)

    def _add_stdin(self, stdin: Spool, *, is_only: bool) -> None:
        """Add what came on stdin: the image, or the images of the tar."""
        if stdin.suffix != "tar":
            key = f"{STDIN_NAME}.{stdin.suffix}"
            self.files.images.append(SourceImage(key, stdin.path, stdin.num_bytes, offset=0))
            return
        prefix = "" if is_only else f"{STDIN_NAME}/"
        damage, _ = self._add_members(stdin.path, prefix, ("", f"{STDIN_NAME}/"), Path(STDIN_NAME))
        if damage is not None:  # whoever fills the pipe has failed, and is to do it again
            raise UsageError(f"{STDIN_NAME}: {damage}")

    def _search(self, path: Path, prefix: str) -> FoundFiles:
        """List the images in a folder."""
        before = sum(listing.found.num_seen for listing in self.listings)

        def tell(number: int) -> None:
            self.tell(Planning("listing photos", before + number))

        return search_folder(path, prefix, self.rules, self.exclude, tell)

    def _add_members(
        self, tar: Path, prefix: str, others: tuple[str, ...], name: Path, status: os.stat_result | None = None
    ) -> tuple[str | None, Listing]:
        """Add what is in a tar that is called `name`; also returns what is wrong with it. `status`: of its file."""
        times = (None, None) if status is None else (status.st_mtime_ns, status.st_ctime_ns)
        contents = list_tar(tar, prefix, times, name, self.rules)
        failures: list[tuple[Failure, Path | str]] = [(failure, name) for failure in contents.failures]
        listing = self._add_listing(prefix, others, FoundFiles(contents.images, failures, contents.passed_over))
        return contents.damage, listing

    def _add_listing(self, prefix: str, others: tuple[str, ...], found: FoundFiles) -> Listing:
        self.listings.append(Listing(prefix, others, found))
        return self.listings[-1]

    def _fail(self, key: str, path: Path | str, reason: str) -> None:
        self.files.failures.append((Failure(key, reason), path))


def _refuse_missing(sources: Sequence[Path]) -> None:
    """Raise `UsageError` for sources that do not exist, all of them at once."""
    missing = []
    for source in sources:
        try:
            source.stat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(str(source))
        except OSError:
            pass  # add_file says what is wrong
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such file or folder")


def _is_folder(source: Path) -> bool:
    try:
        return stat.S_ISDIR(source.stat().st_mode)
    except OSError:
        return False


def _listed_key(path: Path) -> str:
    if not path.is_absolute() and ".." not in path.parts:
        return path.as_posix()
    absolute = Path(os.path.normpath(path.absolute()))
    return absolute.relative_to(absolute.anchor).as_posix()


def _without_repeats(images: list[SourceImage]) -> list[SourceImage]:
    """Of `images`, sorted by key, the first of each key. Raises `UsageError` if another one is another file."""
    if len({image.key for image in images}) == len(images):
        return images
    unique = images[:1]
    for image in images[1:]:
        if image.key != unique[-1].key:
            unique.append(image)
        elif not is_same_file(image, unique[-1]):
            raise _two_files(image.key, unique[-1].path, image.path)
    return unique


def _sorted_failures(failures: Sequence[tuple[Failure, Path | str]], images: Sequence[SourceImage]) -> list[Failure]:
    """The failures by key, each key once. Raises `UsageError` if one stands for two files."""
    if not failures:
        return []
    taken: dict[str, Path | str] = {image.key: image.path for image in images}
    unique: dict[str, tuple[Failure, Path | str]] = {}
    for failure, path in failures:
        first = taken.get(failure.key) or unique.setdefault(failure.key, (failure, path))[1]
        if failure.key in taken or not is_same_path(first, path):
            raise _two_files(failure.key, first, path)
    return [unique[key][0] for key in sorted(unique)]


def _two_files(key: str, one: Path | str, other: Path | str) -> UsageError:
    names = [STDIN_NAME if Path(path).parent in _DESCRIPTORS else str(path) for path in (one, other)]
    are_files = not any(name == STDIN_NAME or is_tar_name(Path(name)) for name in names)
    above = "name a folder above both in their place, " if are_files else ""
    return UsageError(
        f"{names[0]} and {names[1]} have the same key {key}: rename one, {above}or give one of them another -o"
    )
