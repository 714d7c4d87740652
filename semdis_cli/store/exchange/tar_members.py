"""Tars of exported files: where in them which file lies."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from semdis_cli.errors import StoreError
from semdis_cli.files.tar import walk_tar


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
            yield from _members(file)
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror or error})", place=path) from error
    except ValueError as error:
        raise StoreError(f"cannot be read as an uncompressed tar ({error})", place=path) from error


def _members(file: BinaryIO) -> Iterator[TarMember]:
    num_bytes = os.fstat(file.fileno()).st_size
    for member in walk_tar(file):
        if not member.isreg() or member.issparse():
            continue
        if member.offset_data + member.size > num_bytes:  # nobody is to make room for what a header claims
            raise ValueError(f"{member.name!r:.80} is cut off")
        yield TarMember(member.name, member.offset_data, member.size)
