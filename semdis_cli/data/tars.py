"""Uncompressed tars: which images are in them, and where their bytes lie. Nothing is unpacked."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from semdis_cli.data.formats import IMAGE_SUFFIXES, SIGNATURE_BYTES, image_format
from semdis_cli.data.source_bytes import open_source
from semdis_cli.data.tiff_directories import is_picture
from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.records import SourceImage
from semdis_cli.tar import walk_tar

_TAR_SUFFIX = ".tar"
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_UNPACKERS = {b"\x1f\x8b": "zcat", b"BZh": "bzcat", b"\xfd7zXZ\0": "xzcat", b"\x28\xb5\x2f\xfd": "zstdcat"}


@dataclass(frozen=True, slots=True)
class TarContents:
    """Images in the order of the tar, members that cannot be used, and the number of members passed over."""

    images: list[SourceImage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    num_ignored: int = 0


def is_tar_name(path: Path) -> bool:
    """Whether a file's name says that it is a tar, a compressed one included (which `list_tar` refuses)."""
    return path.name.lower().endswith((_TAR_SUFFIX, *_PACKED_SUFFIXES))


def unpacker_of(start: bytes) -> str | None:
    """The program that unpacks a compressed file that begins with `start`; None if it is none."""
    return next((program for magic, program in _UNPACKERS.items() if start.startswith(magic)), None)


def find_tars(sources: Sequence[Path]) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The tars among `sources` and in their folders, each with the name its keys begin with; and the other sources.

    Folders stay among the others: they may hold images beside the tars.
    """
    tars: list[tuple[str, Path]] = []
    others: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob(f"*{_TAR_SUFFIX}") if path.is_file())
            tars += [(path.relative_to(source).with_suffix("").as_posix(), path) for path in inside]
            others.append(source)
        elif is_tar_name(source):
            tars.append((source.stem, source))
        else:
            others.append(source)
    return tars, others


def list_tar(path: Path, prefix: str, mtime_ns: int | None, name: Path, ctime_ns: int | None = None) -> TarContents:
    """The images of the tar at `path`, which is called `name`; their keys are `prefix` and the member's name.

    `mtime_ns`, `ctime_ns`: of the tar itself, which its images get. Their own times prove nothing: many programs that
    write tars give all members the same one.

    A member is an image by its suffix or, failing that, by its first bytes; names that begin with a dot are passed
    over, as in a folder. A hard link stands for the file it leads to; a symbolic one is passed over. A leading slash is
    left out, as tar does when it unpacks; a name with `..` in it is a failure. Raises `UsageError` for what is no whole
    uncompressed tar.
    """
    try:
        with path.open("rb") as file:
            _refuse_compressed(name, file)
            listing = _Listing(path, prefix, mtime_ns, ctime_ns)
            for member in walk_tar(file):
                listing.add(member, file)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read as an uncompressed tar ({error})") from error
    return listing.result()


@dataclass(slots=True)
class _Listing:
    """What was found in a tar so far."""

    path: Path
    prefix: str
    mtime_ns: int | None
    ctime_ns: int | None
    found: list[SourceImage] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)  # key, and the key that it leads to
    failures: list[Failure] = field(default_factory=list)
    num_ignored: int = 0

    def add(self, member: tarfile.TarInfo, file: BinaryIO) -> None:
        """Sort one member in; its first bytes may be read off `file`."""
        parts = _parts(member.name)
        if not (member.isreg() or member.islnk()) or any(part[0] == "." and part != ".." for part in parts):
            self.num_ignored += not member.isdir()
            return
        key = self.prefix + "/".join(parts)
        if member.islnk():
            self.links.append((key, self.prefix + "/".join(_parts(member.linkname))))
        elif not self._is_image(member, file):
            self.num_ignored += 1
        elif reason := _unusable(member, parts):
            self.failures.append(Failure(key, reason))
        else:
            times_and_place = self.mtime_ns, member.offset_data, self.ctime_ns
            self.found.append(SourceImage(key, self.path, member.size, *times_and_place))

    def result(self) -> TarContents:
        """Everything, the hard links led to their files."""
        if self.links:
            self._follow_links()
        return TarContents(self.found, self.failures, self.num_ignored)

    def _follow_links(self) -> None:
        images = {image.key: image for image in self.found}
        for key, target in self.links:
            if target in images and ".." not in key.split("/"):
                image = images[target]
                images[key] = replace(image, key=key)
                self.found.append(images[key])
            elif _has_image_suffix(key):
                self.failures.append(Failure(key, f"is a link to {target!r:.80}, which is no image of this tar"))
            else:
                self.num_ignored += 1

    def _is_image(self, member: tarfile.TarInfo, file: BinaryIO) -> bool:
        if _has_image_suffix(member.name):
            return True
        file.seek(member.offset_data)
        name = image_format(file.read(min(SIGNATURE_BYTES, member.size)))
        if name != "TIFF":
            return name is not None
        with open_source(SourceImage("", self.path, member.size, None, member.offset_data)) as inside:
            return is_picture(inside)


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in {"", "."}]


def _unusable(member: tarfile.TarInfo, parts: Sequence[str]) -> str | None:
    """Why an image's member cannot be used, if so."""
    if ".." in parts or "\0" in member.name:
        return "its name leads out of the tar; pack it under another"
    if member.issparse():
        return "is packed as a sparse file; pack it without tar's option -S"
    return None


def _has_image_suffix(name: str) -> bool:
    _, dot, suffix = name.rpartition(".")
    return bool(dot) and suffix.lower() in IMAGE_SUFFIXES


def _refuse_compressed(name: Path, file: BinaryIO) -> None:
    program = unpacker_of(file.read(SIGNATURE_BYTES))
    if program is not None:
        raise UsageError(f"{name}: a compressed tar; only uncompressed ones: {program} {name} | semdis encode -")
    file.seek(0)
