"""Every kind of source keeps the protocol: what it lists can be opened, read, stamped and told from everything else."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from semdis_cli.errors import PassingReadError
from semdis_cli.sources.file_list import FileList
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.prefixes import is_same_file
from semdis_cli.sources.registry import source_at
from semdis_cli.sources.source import Search, Source
from semdis_cli.sources.spool import Spool, peek_stdin

FILES = {"a.png": b"\x89PNG\r\n\x1a\n" + b"a" * 600, "b.png": b"\x89PNG\r\n\x1a\n" + b"b" * 40}
KINDS = ("folder", "tar", "file", "list", "image on stdin", "tar on stdin")


def make_source(kind: str, folder: Path) -> Source:
    """A source of that kind, with as many of the files as it can hold."""
    photos = folder / "photos"
    photos.mkdir()
    for name, data in FILES.items():
        (photos / name).write_bytes(data)
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for name in FILES:
            archive.add(photos / name, name)
    on_stdin = {"image on stdin": photos / "a.png", "tar on stdin": folder / "photos.tar"}
    if kind in on_stdin:
        return Spool(peek_stdin(io.BytesIO(on_stdin[kind].read_bytes()), is_only=True), folder)
    if kind == "list":
        return FileList.of([photos / name for name in FILES])
    return source_at({"folder": photos, "tar": folder / "photos.tar", "file": photos / "a.png"}[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_source_lists_can_be_read_and_stays_the_same(kind: str, tmp_path: Path) -> None:
    finds = make_source(kind, tmp_path).images("prefix/", Search())
    assert (finds.failures, finds.damage) == ([], None)
    assert all(image.key.startswith("prefix/") for image in finds.images)
    contents = [read_bytes(image) for image in sorted(finds.images, key=lambda image: image.key)]
    assert contents == list(FILES.values())[: len(contents)]
    for image in finds.images:
        with image.reader.open(image) as file:
            assert file.read() == read_bytes(image)
            assert file.seek(3) == 3
            assert file.read(2) == b"G\r"
        assert image.num_bytes == len(read_bytes(image))
        assert image.reader.stamp(image) == image.stamp
        assert [is_same_file(image, other) for other in finds.images] == [image == other for other in finds.images]


@pytest.mark.parametrize("kind", ["folder", "file", "list"])
def test_an_image_has_another_stamp_as_soon_as_its_file_has_other_times(kind: str, tmp_path: Path) -> None:
    for image in make_source(kind, tmp_path).images("", Search()).images:
        path, _ = image.reader.locate(image)
        os.utime(path, ns=(0, 5))
        assert image.reader.stamp(image).mtime_ns == 5
        assert image.reader.stamp(image) != image.stamp


def test_a_tar_of_other_times_gives_no_stamp_of_its_images(tmp_path: Path) -> None:
    for image in make_source("tar", tmp_path).images("", Search()).images:
        path, _ = image.reader.locate(image)
        os.utime(path, ns=(0, 5))
        with pytest.raises(PassingReadError, match="the tar was changed while the run was going on"):
            image.reader.stamp(image)
