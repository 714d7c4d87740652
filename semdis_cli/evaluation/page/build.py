"""A page as a file: all of it in one HTML file up to a size, with a folder of pictures beside it above that."""

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import quote

from semdis_cli.errors import UsageError
from semdis_cli.evaluation.page.contents import Page
from semdis_cli.evaluation.page.document import Placement, document
from semdis_cli.evaluation.page.pictures import (
    Thumbnails,
    embedded_picture_bytes,
    embedded_pictures,
    embedded_thumbnail_bytes,
    embedded_thumbnails,
    is_folder_of_page,
    write_folder,
)
from semdis_cli.files import disk
from semdis_cli.files.atomic import explaining, make_folder, publish
from semdis_cli.files.claim import check_outside_sets

_SUFFIXES = {".html", ".htm"}
_GENERATOR, _START_BYTES = b'<meta name="generator" content="semdis">', 1 << 12


@dataclass(frozen=True, slots=True)
class WrittenPage:
    """A page on disk. `folder`: where its pictures are, if they are not in it. `num_bytes`: of the HTML file."""

    path: Path
    folder: Path | None
    num_bytes: int


def check_report_path(path: Path) -> None:
    """Find out before a run whether a page can be written to `path`. Nothing is left there. Raises `UsageError`."""
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError("a page that browsers open has a name that ends in .html", place=path)
    check_outside_sets(path)
    if path.is_dir():
        raise UsageError("cannot be written (a folder of this name is there)", place=path)
    if os.path.lexists(path) and not _is_page(path):
        raise UsageError("is there already, and is no page; give the page another name", place=path)
    folder = _folder_beside(path)
    if os.path.lexists(folder) and not is_folder_of_page(folder):
        raise UsageError("is in the way of the page's pictures; give the page another name", place=folder)
    _try_writing(path)


def _is_page(path: Path) -> bool:
    """Tell whether an earlier run has written the file; one of no bytes (of mktemp) may be replaced too."""
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError:
        return False
    return not start or _GENERATOR in start


def _try_writing(path: Path) -> None:
    """Make a file and remove it, in the folder of `path` or the nearest one that is there."""
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise UsageError("cannot be written (not a folder)", place=parent)
    trial = disk.new_temporary(parent)
    try:
        with explaining(path):
            trial.open("xb").close()
    finally:
        with suppress(OSError):
            trial.unlink()


def write_page(page: Page, path: Path, *, embed_bytes: int) -> WrittenPage:
    """Write a page to `path`, in the place of what is there, whole or not at all.

    Its file has at most `embed_bytes` if that is possible: pictures that would make it longer lie in `NAME-files/`
    beside it, and then thumbnails too. The folder is written first. Pictures are read one at a time. Raises
    `StoreError` for pictures, `UsageError` and `NoSpaceError` for what is written.
    """
    check_report_path(path)
    make_folder(path.parent)
    with explaining(path), disk.unnamed_file(path.parent) as spool:
        thumbnails = Thumbnails.make(page.images, spool)
        placement = _place(page, thumbnails, _folder_beside(path), embed_bytes)
        return _write(page, path, placement, thumbnails)


def _folder_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}-files")


def _place(page: Page, thumbnails: Thumbnails, folder: Path, embed_bytes: int) -> Placement:
    """Choose where pictures are to be."""
    beside = Placement(quote(os.fsencode(folder.name)))
    left_bytes = embed_bytes - sum(map(len, document(page, beside, ()))) - embedded_thumbnail_bytes(thumbnails)
    if left_bytes < 0:
        return Placement(beside.folder, has_thumbnails=True)
    return beside if embedded_picture_bytes(page.images) > left_bytes else Placement()


def _write(page: Page, path: Path, placement: Placement, thumbnails: Thumbnails) -> WrittenPage:
    folder = _folder_beside(path)
    is_beside = placement.folder is not None
    if is_beside:
        write_folder(folder, page.images, thumbnails if placement.has_thumbnails else None)
    pictures = chain(
        () if placement.has_thumbnails else embedded_thumbnails(thumbnails),
        () if is_beside else embedded_pictures(page.images),
    )
    num_bytes = publish(path, document(page, placement, pictures)).num_bytes
    if not is_beside and is_folder_of_page(folder):
        disk.remove_folder(folder)
    return WrittenPage(path, folder if is_beside else None, num_bytes)
