"""Uncompressed tars: which images are in them, and where their bytes lie. Nothing is unpacked."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from semdis_cli.events import Failure
from semdis_cli.files.tar import walk_tar
from semdis_cli.kinds.formats import SIGNATURE_BYTES, image_format
from semdis_cli.kinds.tiff_directories import is_picture
from semdis_cli.records import SourceImage
from semdis_cli.sources.folders import has_image_suffix
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules, PassedOver, Tally, is_plain_name
from semdis_cli.sources.names import NamedPath, shortest_names
from semdis_cli.sources.source_bytes import open_source

_TAR_SUFFIX = ".tar"
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_UNPACKERS = {b"\x1f\x8b": "zcat", b"BZh": "bzcat", b"\xfd7zXZ\0": "xzcat", b"\x28\xb5\x2f\xfd": "zstdcat"}
_Times = tuple[int | None, int | None]  # st_mtime_ns and st_ctime_ns
_CONTINUED = b"M"  # the rest of a file that begins in another volume (GNU)
_NO_FILES = frozenset({b"D", b"V"})  # the list of a folder, and the name of a volume (GNU)


class _Link(NamedTuple):
    """A hard link: its own key, and the name in the tar that it leads to."""

    key: str
    target: str


@dataclass(frozen=True, slots=True)
class TarContents:
    """Images in the order of the tar, members that cannot be used, and the numbers of members passed over.

    `damage`: why the tar could not be read, or not to its end; the images are those that lie in it whole before that.
    """

    images: list[SourceImage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    passed_over: Tally = field(default_factory=Tally)
    damage: str | None = None


def is_tar_name(path: Path) -> bool:
    """Whether a file's name says that it is a tar, a compressed one included (which `list_tar` refuses)."""
    return path.name.lower().endswith((_TAR_SUFFIX, *_PACKED_SUFFIXES))


def unpacker_of(start: bytes) -> str | None:
    """The program that unpacks a compressed file that begins with `start`; None if it is none."""
    return next((program for magic, program in _UNPACKERS.items() if start.startswith(magic)), None)


def find_tars(sources: Sequence[Path], rules: InputRules = DEFAULT_RULES) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The tars among `sources` and in their folders, each with the name its keys begin with; and the other sources.

    Folders stay among the others: they may hold images beside the tars. Of two tars of one name, each has as many of
    the folders above it in its name as tell it from the other.
    """
    named: list[NamedPath] = []
    others: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob(f"*{_TAR_SUFFIX}") if path.is_file())
            wanted = (path for path in inside if _is_wanted(path.relative_to(source), rules))
            named += [NamedPath.of_tar_in(source, path) for path in wanted]
            others.append(source)
        elif is_tar_name(source):
            named.append(NamedPath.of_tar(source))
        else:
            others.append(source)
    names = shortest_names(named)
    return [(name, each.path) for name, each in zip(names, named, strict=True)], others


def _is_wanted(path: Path, rules: InputRules) -> bool:
    """Tell whether a tar at that path of a folder is searched; what --include says is about what is in it."""
    return replace(rules, include=()).judge(path.parts).kind is None


def list_tar(path: Path, prefix: str, times_ns: _Times, name: Path, rules: InputRules = DEFAULT_RULES) -> TarContents:
    """The images of the tar at `path`, which is called `name`; their keys are `prefix` and the member's name.

    `times_ns`: when the tar itself was modified and changed, which is what its images get. Their own times prove
    nothing: many programs that write tars give all members the same one.

    A member is an image by its suffix or, failing that, by its first bytes; what `rules` pass over in a folder is
    passed over here. A hard link stands for the file it leads to; a symbolic one is passed over. Of two members of one
    name the last one counts, as when the tar is unpacked. A leading slash is left out, as tar does then; a name with
    `..` in it is a failure. What is no whole uncompressed tar has a `damage`.
    """
    listing = _Listing(path, prefix, times_ns, rules, not rules.has_patterns)
    try:
        with path.open("rb") as file:
            listing.damage = _compression(name, file)
            if listing.damage is None:
                listing.read(file)
    except OSError as error:
        listing.damage = f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        listing.damage = f"cannot be read as an uncompressed tar ({error})"
    return listing.result()


@dataclass(slots=True)
class _Listing:
    """The finds in a tar so far, by the name in it: of two members of one name the last one counts."""

    path: Path
    prefix: str
    times_ns: _Times
    rules: InputRules
    has_no_patterns: bool
    found: dict[str, SourceImage | Failure | _Link] = field(default_factory=dict)
    passed_over: Tally = field(default_factory=Tally)
    damage: str | None = None

    def read(self, file: BinaryIO) -> None:
        """Take the members as they come. Raises `ValueError` where the tar is damaged or cut off."""
        num_bytes = os.fstat(file.fileno()).st_size
        for member in walk_tar(file):
            if member.isreg() and member.offset_data + _packed_size(member) > num_bytes:
                raise ValueError(f"cut off in {member.name!r:.80}")
            if not member.isdir() and member.type not in _NO_FILES:
                self._add(member, file)

    def result(self) -> TarContents:
        """Everything, the hard links led to their files."""
        images = [each for each in self._followed() if isinstance(each, SourceImage)]
        failures = [each for each in self.found.values() if isinstance(each, Failure)]
        return TarContents(images, failures, self.passed_over, self.damage)

    def _add(self, member: tarfile.TarInfo, file: BinaryIO) -> None:
        """Sort one member in; its first bytes may be read off `file`."""
        parts = _parts(member.name)
        name = "/".join(parts)
        if self.found.pop(name, None) is not None:
            self.passed_over.add(PassedOver.REPLACED)
        kind = self._kind(member, parts, file)
        if kind is not None:
            self.passed_over.add(kind)
        else:
            self.found[name] = self._taken(member, parts)

    def _kind(self, member: tarfile.TarInfo, parts: Sequence[str], file: BinaryIO) -> str | None:
        """The kind by which a member is passed over, if it is."""
        has_suffix = has_image_suffix(member.name)
        if has_suffix and len(parts) == 1 and member.isreg() and self.has_no_patterns and is_plain_name(parts[0]):
            return None  # what most members are, in short
        if not parts or not (member.isreg() or member.islnk() or (member.type == _CONTINUED and has_suffix)):
            return PassedOver.NO_IMAGE
        judgement = self.rules.judge(parts)
        if judgement.kind is not None or member.islnk() or (has_suffix and not judgement.by_content):
            return judgement.kind
        return None if self._has_image_bytes(member, file) else PassedOver.NO_IMAGE

    def _taken(self, member: tarfile.TarInfo, parts: Sequence[str]) -> "SourceImage | Failure | _Link":
        """Return what a member that is not passed over comes to."""
        key = self.prefix + "/".join(parts)
        if reason := _unusable(member, parts):
            return Failure(key, reason)
        if not member.islnk():
            mtime_ns, ctime_ns = self.times_ns
            return SourceImage(key, self.path, member.size, mtime_ns, member.offset_data, ctime_ns)
        link = _Link(key, "/".join(_parts(member.linkname)))
        target = self.found.get(link.target)  # as it is now: a later one of its name is another file
        return replace(target, key=key) if isinstance(target, SourceImage) else link

    def _has_image_bytes(self, member: tarfile.TarInfo, file: BinaryIO) -> bool:
        """Tell whether a member is an image by its content; a camera raw is none."""
        file.seek(member.offset_data)
        name = image_format(file.read(min(SIGNATURE_BYTES, member.size)))
        if name != "TIFF":
            return name is not None
        with open_source(SourceImage("", self.path, member.size, None, member.offset_data)) as inside:
            return is_picture(inside)

    def _followed(self) -> Iterator[SourceImage | Failure]:
        """Return what was found, in order; hard links as what they lead to."""
        for name, each in list(self.found.items()):
            if not isinstance(each, _Link):
                yield each
                continue
            target = self.found.get(each.target)
            if isinstance(target, SourceImage):
                self.found[name] = image = replace(target, key=each.key)
                yield image
            elif has_image_suffix(name):
                reason = f"is a link to {each.target!r:.80}, which is no image of this tar"
                self.found[name] = Failure(each.key, reason)
            else:
                self.passed_over.add(PassedOver.NO_IMAGE)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in {"", "."}]


def _unusable(member: tarfile.TarInfo, parts: Sequence[str]) -> str | None:
    """Why an image's member cannot be used, if so."""
    if ".." in parts or "\0" in member.name:
        return "its name leads out of the tar; pack it under another"
    if member.issparse():
        return "is packed as a sparse file; pack it without tar's option -S"
    if member.type == _CONTINUED:
        return "begins in another volume of this tar; unpack the volumes, and encode the folder"
    return None


def _packed_size(member: tarfile.TarInfo) -> int:
    """Bytes of a member in the tar; a sparse one has fewer there than its size, and cannot be used anyway."""
    return 0 if member.issparse() else member.size


def _compression(name: Path, file: BinaryIO) -> str | None:
    """Say why a tar cannot be read in place, if it is compressed."""
    program = unpacker_of(file.read(SIGNATURE_BYTES))
    file.seek(0)
    if program is None:
        return None
    return f"a compressed tar; only uncompressed ones: {program} {name} | semdis encode -"
