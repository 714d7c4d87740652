"""Advice where there is no image to work on: what is there instead, and what its owner can do about it."""

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.events import Failure
from semdis_cli.files.handles import open_far
from semdis_cli.files.links import read_start
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.files.tar import walk_tar
from semdis_cli.files.url import Location, Url
from semdis_cli.files.zip import read_directory, walk_zip
from semdis_cli.files.zip import read_start as read_start_of
from semdis_cli.images.images import read_image_size
from semdis_cli.kinds.formats import image_format
from semdis_cli.kinds.recognise import START_BYTES, Recognised, describe
from semdis_cli.records import SourceImage
from semdis_cli.settings import ReadSettings
from semdis_cli.sources.containers import is_container_name
from semdis_cli.sources.find import FoundImages
from semdis_cli.sources.folders import OWN_OUTPUT
from semdis_cli.sources.input_rules import PassedOver
from semdis_cli.sources.spool import STDIN, STDIN_NAME, Spool

_MOST_LOOKED_AT = 10_000  # files of a folder or tar: enough to tell what it is
_KINDS_NAMED = 4
_ANY_SIZE = ReadSettings(max_image_pixels=sys.maxsize)
_TAR = "a tar archive"
_LOOKED_INTO = {
    _TAR: "there is nothing in it",
    "a zip archive": "there is nothing in it",
    "a Parquet file": "it has no column of images: bytes, or a struct of bytes and path",
}
_HIDDEN = Recognised("a hidden file", "names that begin with a dot are passed over: --all-files takes them")
_OURS = Recognised("what semdis decode, roundtrip, eval or train wrote", "give the images that it was made from")
_UNKNOWN = Recognised("not an image in a known format", "give images, or folders and uncompressed tars of them")
_IMAGE = Recognised("an image", "it lies where images are passed over; name its folder itself")


def why_nothing(sources: Sequence[Location], found: FoundImages) -> str | None:
    """Say why nothing of what was `found` can ever be encoded, and what to do, in a line; None if something may be.

    `sources`: what the user named. As soon as one input begins like an image, no more is read. A single image on stdin
    leaves no set behind: whether it can be read is for the run to say.
    """
    if found.is_single:
        return None
    if found.images:
        return _why_no_image(found.images)
    if found.failures:
        first = found.failures[0]
        inputs = "the only input" if len(found.failures) == 1 else f"none of the {len(found.failures):,} inputs"
        cannot = "cannot be used" if len(found.failures) == 1 else "can be used"
        return f"{inputs} {cannot}: {first.key}: {first.reason}{_about_name(first)}"
    if found.passed_over.get(PassedOver.EXCLUDED):
        advice = "--exclude and --include leave nothing: one with a slash begins at the source, and capitals count"
        return f"no images found in {_where(sources)}; passed over: {found.ignored_kinds}; {advice}"
    return _why_empty(sources, found.stdin)


def _why_no_image(images: Sequence[SourceImage]) -> str | None:
    kinds = _Kinds()
    for image in images:
        if not kinds.add_source(image):
            return None
    if len(images) == 1:
        [kind] = kinds.count
        advice = kinds.advice_on(kind)
        return f"{images[0].key}: {kind.name}{advice and ', no image that is read: '}{advice}"
    return f"none of the {len(images):,} inputs is an image that can be read: {kinds.told()}"


def _about_name(failure: Failure) -> str:
    """Return advice on a name that leads nowhere, by what it looks like: the list was not written for here."""
    if not failure.reason.startswith("cannot be read"):
        return ""
    return next((f"; {advice}" for pattern, advice in _ODD_NAMES if pattern.search(failure.key)), "")


def why_no_latents(path: Location) -> str | None:
    """Say why `path`, given for latents, holds none, if it is something else that is known; None: it may be latents."""
    if isinstance(path, Url):
        return None
    if path.is_dir():
        holds_images = not (path / MANIFEST_FILE).exists() and any(
            image_format(start) for start in islice(_starts_in(path), _MOST_LOOKED_AT // 100)
        )
        what = "not a set of latents, but it holds images: make latents of them with semdis encode"
        return f"{path}: {what}" if holds_images else None
    start = read_start(path, START_BYTES)
    if image_format(start) is not None:
        return f"{path}: an image, not latents: make latents of it with semdis encode"
    kind = describe(start) if start else None
    if kind is None or kind.name == "a safetensors file" or kind.name.endswith("pointer"):
        return None
    return f"{path}: {kind.name}, not latents; give the folder that semdis encode wrote, or one of its shards"


def _why_empty(sources: Sequence[Location], stdin: Spool | None) -> str:
    found = _Kinds()
    for source in sources:
        if (source / MANIFEST_FILE).is_file():
            return f"{source}: holds latents, not images; semdis decode {shlex.quote(str(source))} makes images of them"
        if not isinstance(source, Url) and source.is_dir():
            found.add_folder(source)
        elif source == STDIN and stdin is not None:
            found.add_tar(stdin.path, STDIN_NAME)
        elif is_container_name(source.name):
            found.add_container(source)
    where = _where(sources)
    if not found.count:
        return f"no images found in {where}: nothing is there" if where else "no images found: the list is empty"
    return f"no images found in {where}; passed over: {found.told()}"


def _where(sources: Sequence[Location]) -> str:
    return ", ".join(map(str, sources[:3])) + (", ..." if len(sources) > 3 else "")


@dataclass
class _Kinds:
    """Kinds of files, how many there are of each, and the first of each."""

    count: Counter[Recognised] = field(default_factory=Counter)
    first: dict[Recognised, Location] = field(default_factory=dict)

    def add_source(self, image: SourceImage) -> bool:
        """Look at an input; False if it may be an image."""
        try:
            with image.reader.open(image) as file:
                kind = _kind_of_input(file)
        except (OSError, PassingReadError):
            return False  # whoever reads it says what is wrong
        if kind is not None:
            self._add(kind, Path(image.reader.locate(image)[0]))
        return kind is not None

    def add_folder(self, folder: Path) -> None:
        """Look at the files in a folder, in those below it too."""
        for path, is_ours in islice(_files_in(folder), _MOST_LOOKED_AT):
            if is_container_name(path.name) and not is_ours:
                self.add_container(path)
                continue
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            self._add(_HIDDEN if hidden else _OURS if is_ours else _kind(read_start(path, START_BYTES)), path)

    def add_container(self, path: Location) -> None:
        """Look at the members of a file that may hold many images, or at itself if there is none to be seen."""
        before = self.count.total()
        self.add_tar(path, str(path))
        self._add_zip(path)
        if self.count.total() == before:
            kind = _kind(read_start(path, START_BYTES))
            self._add(replace(kind, advice=_LOOKED_INTO.get(kind.name, kind.advice)), path)

    def _add_zip(self, path: Location) -> None:
        with suppress(OSError, ValueError), path.open("rb") as file:
            handle = open_far(path) if isinstance(path, Url) else file.fileno()
            for member in islice(walk_zip(file, read_directory(file)), _MOST_LOOKED_AT):
                if member.is_file and member.why_not is None:
                    self._add(_kind(read_start_of(handle, member, START_BYTES)), path)

    def add_tar(self, tar: Location, name: str) -> None:
        """Look at the members of a tar that is called `name`."""
        with suppress(OSError, ValueError), tar.open("rb") as file:
            for member in islice(walk_tar(file), _MOST_LOOKED_AT):
                if member.isreg():
                    file.seek(member.offset_data)
                    kind = _kind(file.read(min(START_BYTES, member.size)))
                    is_tar = kind.name == _TAR
                    self._add(replace(kind, advice=f"unpack {name}, and name the tars in it") if is_tar else kind, tar)

    def told(self) -> str:
        """The commonest kinds, and what to do about the first of them."""
        common = self.count.most_common()
        named = [f"{kind.name}{f' ({number:,} files)' if number > 1 else ''}" for kind, number in common]
        more = f" and {len(named) - _KINDS_NAMED:,} more kinds" if len(named) > _KINDS_NAMED else ""
        advice = self.advice_on(max(common, key=_importance)[0])
        return f"{', '.join(named[:_KINDS_NAMED])}{more}{advice and '; '}{advice}"

    def advice_on(self, kind: Recognised) -> str:
        """Return what to do about the files of a kind; nothing where its name says it all."""
        path = self.first[kind]
        about = f"of {kind.name}: " if len(self.count) > 1 and kind.advice else ""
        return about + kind.advice.replace("FILE", shlex.quote(str(path)))

    def _add(self, kind: Recognised, path: Location) -> None:
        self.count[kind] += 1
        self.first.setdefault(kind, path)


# Names in a list of files that are not those of files here, and what to do about such a list.
_ODD_NAMES = (
    (re.compile(r"\n"), "the list has its names on lines: leave out -0"),
    (re.compile(r"^\s|\s$"), "the list has blanks around its names: write them without"),
    (re.compile(r"""^["'].*["']$"""), "the list has its names in quotes: write them without"),
    (re.compile(r"^file:/"), "the list holds file: URLs: write plain paths"),
    (re.compile(r"^\w+:/+"), "the list holds URLs: download the images first"),
    (re.compile(r"^[A-Za-z]:|\\"), "the list holds Windows paths: write them as they are called here, with /"),
    (re.compile(r"^~"), "~ means nothing in a list: write the whole path"),
    (re.compile(r"^[{\[]|\t|\.\w+[,;]"), "the list holds more than names: one a line, and nothing else"),
    (re.compile(""), "relative names are looked up from where the command runs"),
)
# What images come in: of several kinds, these are what the user means; of equally many, the first of these.
_ARCHIVES = (_TAR, "a zip archive", "a Parquet file", "an Arrow file", "an HDF5 file", "a gzip-compressed file")


def _importance(counted: tuple[Recognised, int]) -> tuple[bool, int, int]:
    kind, number = counted
    rank = _ARCHIVES.index(kind.name) if kind.name in _ARCHIVES else len(_ARCHIVES)
    return kind.name in _ARCHIVES, number, -rank


def _kind_of_input(file: BinaryIO) -> Recognised | None:
    """Return what keeps a file from being read as an image, by its header; None: nothing."""
    start = file.read(START_BYTES)
    if image_format(start) is None:
        return describe(start) or _UNKNOWN
    file.seek(0)
    try:
        read_image_size(file, _ANY_SIZE)
    except UnreadableImageError as error:
        return Recognised(str(error), "")
    return None


def _kind(start: bytes) -> Recognised:
    return _IMAGE if image_format(start) is not None else describe(start) or _UNKNOWN


def _files_in(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The files below `folder`, sorted within each folder, and whether they are output of ours."""
    for inner, folders, names in os.walk(folder):
        folders.sort()
        is_ours = not OWN_OUTPUT.isdisjoint(names)
        yield from ((Path(inner, name), is_ours) for name in sorted(names))


def _starts_in(folder: Path) -> Iterable[bytes]:
    return (read_start(path, START_BYTES) for path, _ in _files_in(folder))
