"""Zips: their central directory read forwards and without trust, and the bytes of one member. Nothing goes to disk."""

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from semdis_cli.files.handles import Handle, pread

_END = struct.Struct("<4s4H2LH")  # end of the central directory
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_IN_64, _SHORT_IN_64 = 0xFFFFFFFF, 0xFFFF  # the value is in the wider field instead
_ENCRYPTED, _UTF_8 = 0x1, 0x800
_STORED, _DEFLATED = 0, 8
_UNIX, _MACOS = 3, 19
_MOST_PER_BYTE = 1032  # deflate cannot make more of a byte
_INFLATED_AT_ONCE = 1 << 16
MAX_PACKED_BYTES = (
    512 << 20
)  # of a compressed member: it is unpacked in memory, and a few kilobytes may claim gigabytes


class Directory(NamedTuple):
    """Central directory of a zip: where it lies, and what is to be added to the places that it names."""

    start: int
    num_bytes: int
    shift: int


class ZipMember(NamedTuple):
    """Entry of the central directory at the byte `place`; `header` is where the member's own header lies."""

    place: int
    name: str
    is_file: bool
    is_encrypted: bool
    method: int
    crc: int
    packed_bytes: int
    num_bytes: int
    header: int

    @property
    def is_stored(self) -> bool:
        """Tell whether its bytes lie in the zip as they are."""
        return self.method == _STORED

    @property
    def why_not(self) -> str | None:
        """Say why it cannot be read, and what to do; None if it can. Its sizes are claims."""
        if self.is_encrypted:
            return "is encrypted; unpack the zip, and give the folder"
        if self.method not in {_STORED, _DEFLATED}:
            return f"is compressed by method {self.method}, which is not read; pack it anew (zip -0)"
        if self.num_bytes > _MOST_PER_BYTE * (self.packed_bytes + 1) or (
            self.is_stored and self.num_bytes != self.packed_bytes
        ):
            return "has a size in the zip's directory that its bytes cannot have; the zip is damaged, get it again"
        if not self.is_stored and self.num_bytes > MAX_PACKED_BYTES:
            return f"is compressed and larger than {MAX_PACKED_BYTES >> 20} MiB; pack it without compression (zip -0)"
        return None


def read_directory(file: BinaryIO) -> Directory:
    """Find the central directory of the zip in `file`. Raises `ValueError` if there is none."""
    size = file.seek(0, io.SEEK_END)
    tail_start = max(0, size - _LONGEST_COMMENT - _END.size)
    file.seek(tail_start)
    tail = file.read(_LONGEST_COMMENT + _END.size)
    at = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    if at < 0:
        raise ValueError("no directory at its end: it is cut off, or no zip")
    _, disk, first_disk, _, num_members, num_bytes, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if _IN_64 in {num_bytes, start} or num_members == _SHORT_IN_64:
        wide = _read_end_64(file, end)
        if wide is not None:
            end, disk, first_disk, num_bytes, start = wide
    if disk or first_disk:
        raise ValueError("one of several parts; join them first (zip -s 0)")
    shift = end - num_bytes - start
    if shift < 0:
        raise ValueError("its directory lies outside of it")
    return Directory(start + shift, num_bytes, shift)


def _read_end_64(file: BinaryIO, end: int) -> tuple[int, int, int, int, int] | None:
    """Read the wide end of the directory that lies before the one at `end`; None without one.

    Returns where it lies, two numbers of parts, and the bytes and the beginning of the directory.
    """
    if end < _LOCATOR_64.size:
        return None
    file.seek(end - _LOCATOR_64.size)
    signature, _, claimed, _ = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
    if signature != b"PK\6\7":
        return None
    for place in (claimed, end - _LOCATOR_64.size - _END_64.size):
        if not 0 <= place <= end - _END_64.size:
            continue
        file.seek(place)
        signature, _, _, _, disk, first_disk, _, _, num_bytes, start = _END_64.unpack(file.read(_END_64.size))
        if signature == b"PK\6\6":
            return place, disk, first_disk, num_bytes, start
    raise ValueError("the end of its directory is damaged")


def walk_zip(file: BinaryIO, directory: Directory) -> Iterator[ZipMember]:
    """Yield the members in the order of the directory; folders too. Raises `ValueError` where it is damaged."""
    file.seek(directory.start)
    place, end = directory.start, directory.start + directory.num_bytes
    while place < end:
        entry = file.read(_ENTRY.size)
        rest = file.read(_rest_bytes(entry, place))
        yield _member(entry, rest, place, directory.shift)
        place += len(entry) + len(rest)
    if place != end:
        raise ValueError("its directory is damaged")


def member_at(descriptor: Handle, place: int, shift: int) -> ZipMember:
    """Read one entry of the directory again. Raises `ValueError` if it is no longer there."""
    entry = pread(descriptor, _ENTRY.size + 512, place)
    needed = _rest_bytes(entry[: _ENTRY.size], place)
    rest = entry[_ENTRY.size : _ENTRY.size + needed]
    if len(rest) < needed:
        rest = pread(descriptor, needed, place + _ENTRY.size)
    return _member(entry[: _ENTRY.size], rest, place, shift)


def _rest_bytes(entry: bytes, place: int) -> int:
    if len(entry) < _ENTRY.size or not entry.startswith(b"PK\1\2"):
        raise ValueError(f"its directory is damaged at byte {place}")
    return sum(struct.unpack_from("<3H", entry, 28))


def _member(entry: bytes, rest: bytes, place: int, shift: int) -> ZipMember:
    fields = _ENTRY.unpack(entry)
    made_by, flags, method, crc, packed_bytes, num_bytes = (fields[at] for at in (1, 3, 4, 7, 8, 9))
    name_bytes, extra_bytes, comment_bytes = fields[10:13]
    attributes, header = fields[15:17]
    if len(rest) < name_bytes + extra_bytes + comment_bytes:
        raise ValueError(f"its directory is cut off at byte {place}")
    raw, extra = rest[:name_bytes], rest[name_bytes : name_bytes + extra_bytes]
    if _IN_64 in {packed_bytes, num_bytes, header}:
        num_bytes, packed_bytes, header = _wide(extra, num_bytes, packed_bytes, header)
    name = _decode(raw, extra, flags)
    mode = attributes >> 16 if made_by >> 8 in {_UNIX, _MACOS} else 0
    is_file = not name.endswith("/") and stat.S_IFMT(mode) in {0, stat.S_IFREG}
    is_encrypted = bool(flags & _ENCRYPTED)
    return ZipMember(place, name, is_file, is_encrypted, method, crc, packed_bytes, num_bytes, header + shift)


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of an entry's extra part, as far as they are whole."""
    at = 0
    while at + 4 <= len(extra):
        kind, num_bytes = struct.unpack_from("<2H", extra, at)
        yield kind, extra[at + 4 : at + 4 + num_bytes]
        at += 4 + num_bytes


def _wide(extra: bytes, *narrow: int) -> tuple[int, int, int]:
    """Return size, packed size and place of the header, each from the field of zip64 where it does not fit."""
    field = next((data for kind, data in _extra_fields(extra) if kind == 1), b"")
    wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
    try:
        size, packed, header = (next(wide) if value == _IN_64 else value for value in narrow)
    except (StopIteration, RuntimeError) as error:
        raise ValueError("a size of a member is missing in its directory") from error
    return size, packed, header


def _decode(raw: bytes, extra: bytes, flags: int) -> str:
    """Decode a name: UTF-8 where the zip says so, or where it is (macOS does not say it), else as DOS wrote it."""
    if flags & _UTF_8:
        return raw.decode("utf-8", "surrogateescape")
    for kind, data in _extra_fields(extra):
        if kind == 0x7075 and data[:1] == b"\1" and data[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            return data[5:].decode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeError:
        return raw.decode("cp437")


def data_start(descriptor: Handle, member: ZipMember) -> int:
    """Find where the bytes of a member begin. Raises `ValueError` if its own header is not there."""
    header = pread(descriptor, _HEADER.size, member.header)
    if len(header) < _HEADER.size or not header.startswith(b"PK\3\4"):
        raise ValueError("its header is damaged or missing in the zip")
    name_bytes, extra_bytes = struct.unpack_from("<2H", header, 26)
    return member.header + _HEADER.size + int(name_bytes + extra_bytes)


def read_member(descriptor: Handle, member: ZipMember, start: int) -> bytes:
    """Read all bytes of a member that begin at `start`. Raises `ValueError` unless they are what the zip says."""
    if member.is_stored:
        data = pread(descriptor, member.num_bytes, start)
    else:
        data = inflated(descriptor, start, member.num_bytes)
    if len(data) != member.num_bytes or zlib.crc32(data) != member.crc:
        raise ValueError("its bytes do not fit the checksum in the zip")
    return data


def read_start(descriptor: Handle, member: ZipMember, num_bytes: int) -> bytes:
    """Read the first bytes of a member, unchecked. Raises `ValueError`."""
    start, wanted = data_start(descriptor, member), min(num_bytes, member.num_bytes)
    return pread(descriptor, wanted, start) if member.is_stored else inflated(descriptor, start, wanted)


def inflated(descriptor: Handle, start: int, num_bytes: int) -> bytes:
    """Unpack at most `num_bytes` of a deflated member, fewer if it has no more. Raises `ValueError` if it is none."""
    unpacker, chunks = zlib.decompressobj(-zlib.MAX_WBITS), []
    left = num_bytes
    try:
        while left and not unpacker.eof:
            packed = unpacker.unconsumed_tail or pread(descriptor, _INFLATED_AT_ONCE, start)
            start += 0 if unpacker.unconsumed_tail else len(packed)
            chunk = unpacker.decompress(packed, left)
            if not (packed or chunk):
                break
            chunks.append(chunk)
            left -= len(chunk)
    except zlib.error as error:
        raise ValueError("its bytes are no deflated ones") from error
    return b"".join(chunks)
