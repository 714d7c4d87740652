"""Tars: their images, read in place. Nothing is unpacked to disk."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.files.disk import count_cores
from semdis_cli.files.gzip import MAGIC, GzipReader, Unpacked
from semdis_cli.files.handles import close
from semdis_cli.files.links import read_start
from semdis_cli.files.recent import Recent
from semdis_cli.files.url import Location, Url
from semdis_cli.records import MAX_BESIDE_BYTES, SourceImage, Stamp
from semdis_cli.sources.files import (
    SMALL_BYTES,
    check_unchanged,
    open_unchanged,
    read_whole,
    regular_stamp,
    section_of,
)
from semdis_cli.sources.members import Samples, read_beside
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds, Search
from semdis_cli.sources.tar_members import TarMembers, list_tar
from semdis_cli.sources.tar_table import with_table

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_MOST_OPEN = count_cores() + 2  # as threads go through them side by side, some already in the next one


@dataclass(frozen=True)
class Tar:
    """Source of the images in an uncompressed tar, and their reader. The place of an image is where its bytes begin.

    The images have the times of the tar. Their own prove nothing: many programs that write tars give all members one.
    """

    path: Location
    naming: NamedPath
    samples: Samples = field(default_factory=Samples, compare=False, repr=False)
    has_one_file = True

    @property
    def is_far(self) -> bool:
        """Tell whether it lies in a store."""
        return isinstance(self.path, Url)

    def images(self, prefix: str, search: Search) -> Finds:
        """List the images in it, in its order; their keys are `prefix` and the names of the members."""
        try:
            stamp = regular_stamp(self.path)
        except OSError as error:
            return Finds(damage=f"cannot be read ({error.strerror})")
        except UnreadableImageError as error:
            return Finds(damage=f"{error}; give a tar on a pipe as '-'")
        if read_start(self.path, len(MAGIC)) == MAGIC:
            return PackedTar(self.path, self.samples).images(stamp, prefix, search)
        return list_tar(self.path, self.path, self, stamp, prefix, search.rules)

    def for_process(self) -> "Tar":
        """Return what another process reads the images with."""
        return Tar(self.path, self.naming)

    def open(self, image: SourceImage) -> io.BufferedReader | io.BytesIO:
        """Open an image, from its first byte to its last. Raises `OSError`, and `UnreadableImageError`."""
        if image.num_bytes > SMALL_BYTES:
            return section_of(open_unchanged(self.path, image.mtime_ns, "tar"), image.place, image.num_bytes)
        return io.BytesIO(_KEPT.get((self.path, image.mtime_ns, image.ctime_ns)).read(image.place, image.num_bytes))

    def stamp(self, image: SourceImage) -> Stamp:
        """Return the size of an image, and the times of the tar: in a store, of the listing.

        Raises `OSError`, and `PassingReadError` if it was changed or replaced since.
        """
        if not self.is_far:
            check_unchanged(os.stat(self.path), image.mtime_ns, "tar")  # noqa: PTH116 # as for files
        return image.stamp

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the path of the tar, and where in it the image begins."""
        return str(self.path), image.place

    def columns(self, image: SourceImage) -> Mapping[str, object]:
        """Return what lies beside an image, as `ColumnSource` says, and its row in the table of the tar."""
        members = read_beside(self.samples.beside(image.place), open_unchanged(self.path, image.mtime_ns, "tar"))
        return with_table(members, self.path, image.key)


@dataclass(frozen=True)
class PackedTar:
    """Reader of the images in a tar that is compressed by gzip. Places are those in the tar that it unpacks to."""

    path: Location
    samples: Samples = field(default_factory=Samples, compare=False, repr=False)
    has_one_file = True

    @property
    def is_far(self) -> bool:
        """Tell whether it lies in a store."""
        return isinstance(self.path, Url)

    def images(self, stamp: Stamp, prefix: str, search: Search) -> Finds:
        """List the images in it, as `Tar` does."""
        self.samples.begin()
        members = TarMembers(self.path, self, stamp, prefix, search.rules, is_packed=True)
        try:
            file = Unpacked(_PACKED.get((self.path, stamp.mtime_ns)))
            damage = members.read_all(cast("BinaryIO", file), "a tar compressed by gzip")
        except (OSError, PassingReadError) as error:
            damage = f"cannot be read ({error})"
        return members.finish(self.path, damage)

    def for_process(self) -> "PackedTar":
        """Return what another process reads the images with."""
        return PackedTar(self.path)

    def open(self, image: SourceImage) -> io.BytesIO:
        """Open an image, from its first byte to its last. Raises `OSError`, and `UnreadableImageError`."""
        return io.BytesIO(self._read(image, image.place, image.num_bytes))

    def stamp(self, image: SourceImage) -> Stamp:
        """Return the size of an image, and the times of the tar. Raises `OSError`, and `UnreadableImageError`."""
        if not self.is_far:
            check_unchanged(os.stat(self.path), image.mtime_ns, "tar")  # noqa: PTH116 # as for files
        return image.stamp

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the path of the tar, and where in what it unpacks to the image begins."""
        return str(self.path), image.place

    def columns(self, image: SourceImage) -> Mapping[str, object]:
        """Return what lies beside an image, as `ColumnSource` says, and its row in the table of the tar."""
        beside = self.samples.beside(image.place)
        sizes = [min(each.num_bytes, MAX_BESIDE_BYTES + 1) for each in beside]
        members = {each.name: self._read(image, each.place, size) for each, size in zip(beside, sizes, strict=True)}
        return with_table(members, self.path, image.key)

    def _read(self, image: SourceImage, place: int, num_bytes: int) -> bytes:
        try:
            data = _PACKED.get((self.path, image.mtime_ns)).read(place, num_bytes)
        except ValueError as error:
            raise UnreadableImageError(f"cannot be unpacked ({error})") from error
        if len(data) < num_bytes:
            raise UnreadableImageError("is cut off in its tar")
        return data


class _KeptTar:
    """Tar that stays open for the next image; it is closed when nobody reads it any more."""

    def __init__(self, key: tuple[Location, int | None, int | None]) -> None:
        path, self._mtime_ns, _ = key
        self._handle = open_unchanged(path, self._mtime_ns, "tar")

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            close(self._handle)

    def read(self, place: int, num_bytes: int) -> bytes:
        """Read an image. Raises `OSError`, and `PassingReadError` if the tar was changed or ends before."""
        if isinstance(self._handle, int):
            check_unchanged(os.fstat(self._handle), self._mtime_ns, "tar")
        return read_whole(self._handle, place, num_bytes)


_KEPT: Recent[tuple[Location, int | None, int | None], _KeptTar] = Recent(_KeptTar, _MOST_OPEN)


def _open_packed(key: tuple[Location, int | None]) -> GzipReader:
    return GzipReader(open_unchanged(*key, "tar"))


_PACKED: Recent[tuple[Location, int | None], GzipReader] = Recent(_open_packed, _MOST_OPEN)
