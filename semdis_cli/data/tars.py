"""Uncompressed tars: which images are in them, and where their bytes lie. Nothing is unpacked, no header is trusted."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from semdis_cli.data.formats import IMAGE_SUFFIXES, SIGNATURE_BYTES, image_format
from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.records import SourceImage

_TAR_SUFFIX = ".tar"
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_UNPACKERS = {b"\x1f\x8b": "zcat", b"BZh": "bzcat", b"\xfd7zXZ\0": "xzcat", b"\x28\xb5\x2f\xfd": "zstdcat"}
_MAX_HEADER_BYTES = 1 << 20  # of one member: names, and the attributes that some systems pack with a file
_CHUNK_BYTES = 1 << 20
# What reading a damaged tar makes tarfile raise.
_DAMAGED = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)


@dataclass(frozen=True, slots=True)
class TarContents:
    """Images in the order of the tar, members that cannot be used, and the number of members passed over."""

    images: list[SourceImage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    num_ignored: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A file that came in a tar on a pipe: its bytes, or None if they were more than are read."""

    name: str
    num_bytes: int
    data: bytes | None


def is_tar_name(path: Path) -> bool:
    """Whether a file's name says that it is a tar, a compressed one included (which `list_tar` refuses)."""
    return path.name.lower().endswith((_TAR_SUFFIX, *_PACKED_SUFFIXES))


def is_tar_start(start: bytes) -> bool:
    """Whether a file that begins with the block `start` of 512 bytes is a tar; zeros alone are an empty one."""
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # public in all but its types
        return True
    except (tarfile.TarError, ValueError):
        return False
    return True


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


def list_tar(path: Path, prefix: str, mtime_ns: int | None, name: Path) -> TarContents:
    """The images of the tar at `path`, which is called `name`; their keys are `prefix` and the member's name.

    `mtime_ns`: when the tar itself was modified, which is what its images get. Their own times prove nothing: many
    programs that write tars give all members the same one.

    A member is an image by its suffix or, failing that, by its first bytes; names that begin with a dot are passed
    over, as in a folder. A hard link stands for the file it leads to; a symbolic one is passed over. A leading slash is
    left out, as tar does when it unpacks; a name with `..` in it is a failure. Raises `UsageError` for what is no whole
    uncompressed tar.
    """
    try:
        with path.open("rb") as file:
            _refuse_compressed(name, file)
            listing = _Listing(path, prefix, mtime_ns)
            for member in walk_tar(file):
                listing.add(member, file)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read as an uncompressed tar ({error})") from error
    return listing.result()


def stream_members(start: bytes, stream: BinaryIO, suffix: str, max_bytes: int) -> Iterator[Member]:
    """The files of a tar on a pipe whose names end in `suffix`, as they come. Of others nothing is kept.

    `start`: what was read of the pipe already. A file of more than `max_bytes` comes without its bytes. Raises
    `ValueError` where the tar is damaged or ends too early; what was yielded before is whole.
    """
    file = cast("BinaryIO", _Forward(start, stream))
    for member in walk_tar(file):
        if not (member.isreg() and member.name.endswith(suffix)):
            continue
        if member.size > max_bytes or member.issparse():
            yield Member(member.name, member.size, None)
            continue
        data = read_up_to(member.size, file)
        if len(data) < member.size:
            raise ValueError(f"cut off in {member.name!r:.80}")
        yield Member(member.name, member.size, data)


def read_up_to(num_bytes: int, file: BinaryIO) -> bytes:
    """The next `num_bytes` of a file or pipe, fewer at its end; memory is taken for what comes, not for what may."""
    chunks: list[bytes] = []
    while num_bytes and (chunk := file.read(min(num_bytes, _CHUNK_BYTES))):
        chunks.append(chunk)
        num_bytes -= len(chunk)
    return b"".join(chunks)


def walk_tar(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of the tar in `file`, in order; `file` is only ever read forwards.

    While it is a member's turn, the caller may read it off `file`. Raises `ValueError` where the tar is damaged, cut
    off, or goes on behind its end: tarfile itself takes all of that for the end.
    """
    headers = _Headers(file)
    try:
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            yield from _members(archive, headers)
    except _DAMAGED as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    while chunk := file.read(_CHUNK_BYTES):
        if chunk.strip(b"\0"):
            raise ValueError("goes on behind its end; tars that were joined must be given one by one")


def _members(archive: tarfile.TarFile, headers: "_Headers") -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        if member.size < 0:  # the next member would be looked for further back, for ever
            raise ValueError(f"{member.name!r:.80} has a negative size")
        yield member
        archive.members.clear()  # type: ignore[attr-defined] # a million of them would not be small
        headers.allow_next()
    if headers.last != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"damaged or cut off at byte {archive.offset}")


class _Headers(io.RawIOBase):
    """The file as tarfile sees it: so many bytes for the headers of a member, whatever size they claim to be."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._left = _MAX_HEADER_BYTES
        self.last = b""

    def allow_next(self) -> None:
        """Let another member's headers be read."""
        self._left = _MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        """What comes next; `ValueError` where that is more than headers take."""
        if not 0 <= size <= self._left:
            raise ValueError(f"a header of more than {_MAX_HEADER_BYTES} bytes")
        self._left -= size
        self.last = self._file.read(size)
        return self.last

    def tell(self) -> int:
        """Where the file stands."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a member's last byte."""
        return self._file.seek(offset, whence)


class _Forward(io.BufferedIOBase):
    """A pipe as a file that knows where it stands, and goes forwards only. `start`: its bytes that were read before."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        super().__init__()
        self._start = start
        self._stream = stream
        self._position = 0

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer at the end. `size` is one that can be believed."""
        size = -1 if size is None else size
        data, self._start = (self._start, b"") if size < 0 else (self._start[:size], self._start[size:])
        data += self._stream.read(size if size < 0 else size - len(data))
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Skip what lies before `offset`, or all that is left."""
        if whence != io.SEEK_SET or offset < self._position:
            raise ValueError("a header leads back")
        while self._position < offset and self.read(min(offset - self._position, _CHUNK_BYTES)):
            pass
        return self._position


@dataclass(slots=True)
class _Listing:
    """What was found in a tar so far."""

    path: Path
    prefix: str
    mtime_ns: int | None
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
            self.found.append(SourceImage(key, self.path, member.size, self.mtime_ns, member.offset_data))

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
                images[key] = SourceImage(key, image.path, image.num_bytes, image.mtime_ns, image.offset)
                self.found.append(images[key])
            elif _has_image_suffix(key):
                self.failures.append(Failure(key, f"is a link to {target!r:.80}, which is no image of this tar"))
            else:
                self.num_ignored += 1

    @staticmethod
    def _is_image(member: tarfile.TarInfo, file: BinaryIO) -> bool:
        if _has_image_suffix(member.name):
            return True
        file.seek(member.offset_data)
        return image_format(file.read(min(SIGNATURE_BYTES, member.size))) is not None


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
