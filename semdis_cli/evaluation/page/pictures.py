"""The pictures of a page: their names, how they lie within it, and the folder beside it."""

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from semdis_cli.defaults import PAGE_MARKER
from semdis_cli.errors import StoreError, UnreadableImageError
from semdis_cli.evaluation.page.contents import PageImage
from semdis_cli.files import disk
from semdis_cli.files.atomic import explaining, make_folder, publish
from semdis_cli.files.late import LateFiles
from semdis_cli.files.links import why_unreadable
from semdis_cli.images.thumbnails import thumbnail
from semdis_cli.threads import WatchedThreads

_THUMBNAIL_PX = 192
_MARK = b"Pictures of the page of this name. The next run that writes the page replaces them.\n"
_THUMBNAIL, _ORIGINAL, _PCA = "thumb", "original", "pca"


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """A JPEG of each image, in a file that has no name. `lengths`: their bytes."""

    file: BinaryIO
    lengths: tuple[int, ...]

    @classmethod
    def make(cls, images: Sequence[PageImage], file: BinaryIO) -> Self:
        """Make those of the originals, by threads. `file` is new. Raises `StoreError` for one that cannot be read."""
        with WatchedThreads(disk.count_cores(), "semdis-thumbnail") as threads:
            made = threads.each(_thumbnail, (image.original for image in images))
            return cls(file, tuple(map(file.write, made)))

    def read(self) -> Iterator[bytes]:
        """Read one after the other, in the order of the images."""
        self.file.seek(0)
        return (self.file.read(length) for length in self.lengths)


def _thumbnail(path: Path) -> bytes:
    try:
        return thumbnail(_read(path), _THUMBNAIL_PX)
    except UnreadableImageError as error:
        raise StoreError(error.reason, place=path) from error


def pictures_of(number: int, image: PageImage) -> dict[str, Path]:
    """The files of the image of this number, but for its thumbnail, by their names on the page, without suffix."""
    versions = {str(place): version.picture for place, version in enumerate(image.versions)}
    latents = {} if image.pca is None else {_PCA: image.pca}
    return {_name(number, word): path for word, path in ({_ORIGINAL: image.original} | versions | latents).items()}


def thumbnail_name(number: int) -> str:
    """Name of the thumbnail of the image of this number, without suffix."""
    return _name(number, _THUMBNAIL)


def _name(number: int, word: str) -> str:
    return f"{number:06d}-{word}"


def embedded_thumbnails(thumbnails: Thumbnails) -> Iterator[bytes]:
    """Thumbnails as blocks of the page."""
    for number, data in enumerate(thumbnails.read()):
        yield _block(thumbnail_name(number), data)


def embedded_pictures(images: Sequence[PageImage]) -> Iterator[bytes]:
    """Pictures as blocks of the page, read one at a time. Raises `StoreError`."""
    for number, image in enumerate(images):
        for name, path in pictures_of(number, image).items():
            yield _block(name, _read(path))


def embedded_thumbnail_bytes(thumbnails: Thumbnails) -> int:
    """Bytes of `embedded_thumbnails`."""
    return sum(_block_bytes(thumbnail_name(number), length) for number, length in enumerate(thumbnails.lengths))


def embedded_picture_bytes(images: Sequence[PageImage]) -> int:
    """Bytes of `embedded_pictures`. Raises `StoreError`."""
    return sum(
        _block_bytes(name, _file_bytes(path))
        for number, image in enumerate(images)
        for name, path in pictures_of(number, image).items()
    )


def _block(name: str, data: bytes) -> bytes:
    return b'<script type="text/plain" class="picture" id="%s">%s</script>\n' % (name.encode(), base64.b64encode(data))


def _block_bytes(name: str, num_bytes: int) -> int:
    return len(_block(name, b"")) + 4 * -(-num_bytes // 3)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot be read ({why_unreadable(path, error)})", place=path) from error


def is_folder_of_page(folder: Path) -> bool:
    """Tell whether an earlier page has put its pictures into `folder`."""
    return (folder / PAGE_MARKER).is_file() and not folder.is_symlink()


def write_folder(folder: Path, images: Sequence[PageImage], thumbnails: Thumbnails | None) -> None:
    """Put the pictures into `folder`, in the place of what an earlier page has put there: all of them, or none.

    Those that lie on its disk are not copied but get another name. Raises `StoreError`, `NoSpaceError`, `UsageError`.
    """
    pending, aside = (_named_temporary(folder, use) for use in ("new", "old"))
    disk.remove_folder(pending)  # of a run that was killed
    make_folder(pending)
    try:
        publish(pending / PAGE_MARKER, [_MARK])
        _fill(pending, images, thumbnails)
        _give_place(pending, folder, aside)
    finally:
        disk.remove_folder(pending)


def _fill(folder: Path, images: Sequence[PageImage], thumbnails: Thumbnails | None) -> None:
    files = LateFiles(folder)
    for number, image in enumerate(images):
        for name, path in pictures_of(number, image).items():
            target = folder / f"{name}.png"
            if not files.link(path, target):
                files.write(target, _read(path))
    for number, data in enumerate(() if thumbnails is None else thumbnails.read()):
        files.write(folder / f"{thumbnail_name(number)}.jpg", data)
    files.settle()


def _named_temporary(folder: Path, use: str) -> Path:
    """Return the same name for the same folder, so that the next run finds what a killed one has left."""
    digest = hashlib.sha256(f"{use} ".encode() + os.fsencode(folder.name)).hexdigest()
    return folder.with_name(f".{digest[:16]}{disk.TEMP_SUFFIX}")


def _give_place(pending: Path, folder: Path, aside: Path) -> None:
    disk.remove_folder(aside)
    with explaining(folder):
        is_there = folder.exists()
        if is_there:
            folder.rename(aside)
        try:
            pending.rename(folder)
        except OSError:
            if is_there:
                aside.rename(folder)
            raise
        disk.sync_folder(folder.parent)
    disk.remove_folder(aside)
