"""Uncompressed tars: written the same every time, read forwards and without trust in any header."""

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from semdis_cli.errors import StoreError

TAR_END = bytes(2 * tarfile.BLOCKSIZE)
_MAX_HEADER_BYTES = 1 << 20  # of one member: names, and the attributes that some systems pack with a file
_CHUNK_BYTES = 1 << 20
_NAME_HEAD = 345  # the byte of a header at which the first half of a long name begins, in dialects that have it
# What reading a damaged tar makes tarfile raise.
_DAMAGED = (tarfile.TarError, ValueError, ArithmeticError, LookupError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file that came in a tar on a pipe: its bytes, or None if they were more than are read."""

    name: str
    num_bytes: int
    data: bytes | None


def tar_member(name: str, data: bytes) -> bytes:
    """`data` as the member `name` of a tar, header and padding included. No times, no owners: equal bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


class _Header(tarfile.TarInfo):
    """A member whose name is what its own dialect of tar says.

    tarfile takes bytes 345 to 500 of every header for the first half of a long name. That they are in POSIX's ustar
    alone: GNU keeps the times of access and change there, star puts these behind a shorter half, and the oldest tars
    say nothing of them.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """One block of 512 bytes as a header. Raises what tarfile raises for what is none."""
        if _is_plain(buf):
            header = cls(bytes(buf[:100]).partition(b"\0")[0].decode(encoding, errors))
            header.size = int(buf[124:135], 8)
            return header
        header = super().frombuf(buf, encoding, errors)
        if buf[_NAME_HEAD] == 0 or header.type in tarfile.GNU_TYPES:
            return header
        head = bytes(buf[_NAME_HEAD : _name_head_end(bytes(buf))]).partition(b"\0")[0]
        name = bytes(buf[:100]).partition(b"\0")[0]
        header.name = b"/".join(filter(None, (head, name))).decode(encoding, errors)
        if header.isdir():
            header.name = header.name.rstrip("/")
        return header


def _is_plain(block: bytes | bytearray) -> bool:
    """Tell whether a header is that of a regular file with a short name and size, as nearly all are, and undamaged.

    Of those nothing but name and size matters here; tarfile takes twice as long, for owners and two kinds of sums.
    """
    if len(block) != tarfile.BLOCKSIZE or block[156] != ord("0") or block[_NAME_HEAD]:
        return False
    if not (block[124:135].isdigit() and block[148:154].isdigit()) or b"8" in block[124:154] or b"9" in block[124:154]:
        return False
    return int(block[148:154], 8) == 8 * ord(" ") + sum(block) - sum(block[148:156])


def _name_head_end(block: bytes) -> int:
    """Return where the first half of a long name ends in a header, for one without at its beginning."""
    if block[257:265] == b"ustar  \0":
        # GNU's own. Some writers put half a name there all the same: it does not look like two times.
        return _NAME_HEAD if _may_be_time(block[345:357]) and _may_be_time(block[357:369]) else 500
    if block[257:262] != b"ustar":
        return _NAME_HEAD
    return 476 if block[508:512] == b"tar\0" else 500  # star's mark


def _may_be_time(field: bytes) -> bool:
    """Tell whether a field of 12 bytes is empty, an octal number, or one in binary, as GNU writes large ones."""
    return field[0] in {0x80, 0xFF} or not field.strip(b" \0").strip(b"01234567")


def is_tar_start(start: bytes) -> bool:
    """Tell whether a file that begins with the block `start` of 512 bytes is a tar; zeros alone are an empty one."""
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined] # public in all but its types
        return True
    except (tarfile.TarError, ValueError):
        return False
    return True


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
        with tarfile.open(
            fileobj=headers, mode="r:", tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            yield from _members(archive, headers)
    except RecursionError as error:  # Python words it by where it happens
        raise ValueError("headers that announce headers without end") from error
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
        """Return the bytes that come next; `ValueError` where that is more than headers take."""
        if not 0 <= size <= self._left:
            raise ValueError(f"a header of more than {_MAX_HEADER_BYTES} bytes")
        self._left -= size
        self.last = self._file.read(size)
        return self.last

    def tell(self) -> int:
        """Return the position in the file."""
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


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar: its name as it stands there, and the place of its bytes."""

    name: str
    offset: int
    num_bytes: int


def read_members(path: Path) -> Iterator[TarMember]:
    """Yield the files in the tar at `path`, in their order; links, folders, devices and sparse files are passed over.

    Raises `StoreError` naming the file where it is damaged, cut short, compressed or no tar, or goes on behind its end.
    """
    try:
        if not path.is_file():  # a pipe or device would keep us waiting, or never end
            raise StoreError("cannot be read (not a regular file)", place=path)
        with path.open("rb") as file:
            yield from _stored_members(file)
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror or error})", place=path) from error
    except ValueError as error:
        raise StoreError(f"cannot be read as an uncompressed tar ({error})", place=path) from error


def _stored_members(file: BinaryIO) -> Iterator[TarMember]:
    num_bytes = os.fstat(file.fileno()).st_size
    for member in walk_tar(file):
        if not member.isreg() or member.issparse():
            continue
        if member.offset_data + member.size > num_bytes:  # nobody is to make room for what a header claims
            raise ValueError(f"{member.name!r:.80} is cut off")
        yield TarMember(member.name, member.offset_data, member.size)
