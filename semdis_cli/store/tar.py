"""Tar files, uncompressed: written the same every time, read without trust in anything they say.

Python's own reader allocates what a header asks for, and follows sizes below zero back into what it has read; hence a
reader of our own for the few kinds of entries that matter: files, and the long names of POSIX (pax) and GNU.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from semdis_cli.errors import StoreError

TAR_END = bytes(1024)
_BLOCK = 512
_MAX_NAME_RECORD_BYTES = 1 << 20  # of an entry that holds the next one's name
_FILE_TYPES, _LONG_NAME, _PAX = (b"0", b"\0", b"7"), b"L", b"x"
_BETWEEN = (b"K", b"g")  # entries that may stand between a name and its file
_DIGITS = re.compile(rb" *([0-7]+)[ \0]*")
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,7}) ")


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar: its name as it stands there, and the place of its bytes."""

    name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Told:
    """What entries before a file's own say of it."""

    name: bytes | None = None
    num_bytes: int | None = None


def tar_member(name: str, data: bytes) -> bytes:
    """`data` as the member `name` of a tar, header and padding included. No times, no owners: equal bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % _BLOCK)


def read_members(path: Path) -> Iterator[TarMember]:
    """The files in the tar at `path`, in their order; links, folders and devices are passed over.

    Raises `StoreError` naming the file where it is damaged, cut short, compressed or no tar.
    """
    try:
        if not path.is_file():  # a pipe or device would keep us waiting, or never end
            raise StoreError(f"{path}: cannot be read (not a regular file)")
        with path.open("rb") as file:
            yield from _members(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error


def _members(file: BinaryIO, num_bytes: int, place: str) -> Iterator[TarMember]:
    offset, told = 0, _Told()
    while True:
        file.seek(offset)
        header = file.read(_BLOCK)
        if header == bytes(_BLOCK):
            return
        try:
            size = _check_header(header) if told.num_bytes is None else told.num_bytes
        except ValueError as error:
            raise StoreError(f"{place}: at byte {offset}: {error}") from error
        start, kind = offset + _BLOCK, header[156:157]
        if start + size > num_bytes:
            raise StoreError(f"{place}: at byte {offset}: a file of {size} bytes is cut short")
        if kind in {_LONG_NAME, _PAX}:
            told = _read_told(file.read(min(size, _MAX_NAME_RECORD_BYTES)), kind, told)
        elif kind not in _BETWEEN:
            if kind in _FILE_TYPES:
                yield TarMember(os.fsdecode(told.name or _short_name(header)), start, size)
            told = _Told()
        offset = start + size + -size % _BLOCK


def _check_header(header: bytes) -> int:
    """The size that a header states. Raises `ValueError` if it is none."""
    if len(header) < _BLOCK:
        raise ValueError("the end is missing: no tar, or cut short")
    if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ValueError("no header of a tar, or a damaged one (a compressed tar has to be unpacked first)")
    return _number(header[124:136])


def _number(field: bytes) -> int:
    """A number in octal digits or, with the first bit set, in binary (files from 8 GiB on). Raises `ValueError`."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = _DIGITS.fullmatch(field)
    if digits is None:
        raise ValueError(f"{field!r} is no number")
    return int(digits[1], 8)


def _short_name(header: bytes) -> bytes:
    """The name in a header: up to 100 bytes, and up to 155 more of the folders before it where the format is POSIX."""
    name, folders = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return folders + b"/" + name if folders and header[257:263] == b"ustar\0" else name


def _read_told(record: bytes, kind: bytes, before: _Told) -> _Told:
    """What an entry says of the next file."""
    if kind == _LONG_NAME:
        return replace(before, name=record.split(b"\0")[0])
    told = before
    for field, value in _pax_fields(record):
        if field == b"path":
            told = replace(told, name=value)
        elif field == b"size" and value.isdigit() and len(value) < 20:
            told = replace(told, num_bytes=int(value))
    return told


def _pax_fields(record: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The `length name=value` lines of a pax record; what follows one that is malformed is not read."""
    start = 0
    while found := _PAX_LENGTH.match(record, start):
        end = start + int(found[1])
        if not found.end() < end <= len(record):
            return
        field, _, value = record[found.end() : end - 1].partition(b"=")
        yield field, value
        start = end
