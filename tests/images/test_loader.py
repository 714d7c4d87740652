"""Loading: hashes, and when a file was modified, of files and of what lies in tars."""

import errno
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.events import ColumnTrouble, Failure
from semdis_cli.images.formats.pillow import decoder_errors
from semdis_cli.images.loader import Loader
from semdis_cli.records import LoadedImage, MadeColumns, SourceImage
from semdis_cli.settings import LoadSettings
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.find import find_images

OLD_NS = 1_600_000_000_123_456_789


@pytest.fixture
def loader() -> Iterator[Loader]:
    with Loader(LoadSettings(), 16, 2) as loader:
        yield loader


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


def load(loader: Loader, sources: Sequence[SourceImage]) -> dict[str, LoadedImage | Failure]:
    planned, _ = loader.plan(sources)
    return {image.source.key: loaded for image, loaded in zip(planned, loader.load_all(planned), strict=True)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of their own, and two in a tar."""
    for side, name in enumerate(("a.png", "b.png", "c.png"), start=1):
        (tmp_path / name).write_bytes(png(side))
    with tarfile.open(tmp_path / "packed.tar", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.add(tmp_path / name, name)
    for path in tmp_path.iterdir():
        os.utime(path, ns=(OLD_NS, OLD_NS))
    return tmp_path


def test_every_image_gets_the_hash_of_its_bytes_in_order(folder: Path, loader: Loader) -> None:
    found = find_images([folder, folder / "packed.tar"]).images
    gone = SourceImage("gone.png", ON_DISK, folder / "gone.png", 1)
    fifo = SourceImage("pipe.png", ON_DISK, folder / "pipe.png", 1)
    os.mkfifo(fifo.place)
    digests = list(loader.hashes((*found, gone, fifo, found[0])))
    prefix = folder.name
    expected = {key: hashlib.sha256((folder / key).read_bytes()).hexdigest() for key in ("a.png", "b.png", "c.png")}
    names = {f"{prefix}/{key}": digest for key, digest in expected.items()}
    names |= {"packed/a.png": expected["a.png"], "packed/b.png": expected["b.png"]}
    assert digests == [*(names[image.key] for image in found), None, None, names[found[0].key]]
    assert list(loader.hashes([])) == []
    assert list(loader.hashes([found[0]] * 5000)) == [names[found[0].key]] * 5000


def test_an_image_is_what_its_bytes_in_the_tar_are(folder: Path, loader: Loader) -> None:
    inside = load(loader, find_images([folder / "packed.tar"]).images)
    outside = load(loader, find_images([folder]).images)
    assert set(inside) == {"packed/a.png", "packed/b.png"}
    for key, image in inside.items():
        other = outside[key.removeprefix("packed/")]
        assert isinstance(image, LoadedImage)
        assert isinstance(other, LoadedImage)
        assert replace(image.record, key=other.record.key) == other.record
        assert image.pixels.equal(other.pixels)


def test_a_time_of_modification_is_told_only_if_a_later_change_would_show(folder: Path, loader: Loader) -> None:
    now = time.time_ns()
    os.utime(folder / "b.png", ns=(now, now))
    os.utime(folder / "c.png", ns=(now, now + 10**12))
    found = find_images([folder]).images
    assert [image.mtime_ns for image in found] == [OLD_NS, now, now + 10**12]
    times = {key: image.mtime_ns for key, image in load(loader, found).items() if isinstance(image, LoadedImage)}
    assert times == dict.fromkeys(("a.png", "b.png", "c.png")), "changed just now, whatever the other time says"
    time.sleep(2.1)
    times = {key: image.mtime_ns for key, image in load(loader, found).items() if isinstance(image, LoadedImage)}
    assert times == {image.key: image.mtime_ns for image in found}, "the time of change vouches for all of them"


def test_images_in_a_tar_have_its_time(folder: Path, loader: Loader) -> None:
    found = find_images([folder / "packed.tar"]).images
    assert {image.mtime_ns for image in found} == {OLD_NS}
    ctime_ns = (folder / "packed.tar").stat().st_ctime_ns
    loaded = [image for image in load(loader, found).values() if isinstance(image, LoadedImage)]
    times = {(image.mtime_ns, image.ctime_ns) for image in loaded}
    assert times <= {(OLD_NS, ctime_ns), (None, ctime_ns)}
    now = time.time_ns()
    os.utime(folder / "packed.tar", ns=(now, now))
    found = find_images([folder / "packed.tar"]).images
    assert {image.mtime_ns for image in load(loader, found).values() if isinstance(image, LoadedImage)} == {None}


def test_a_tar_that_changes_meanwhile_costs_its_images(folder: Path, loader: Loader) -> None:
    found = find_images([folder / "packed.tar"]).images
    planned, _ = loader.plan(found)
    os.utime(folder / "packed.tar", ns=(OLD_NS + 1, OLD_NS + 1))
    failures = [failure for failure in loader.load_all(planned) if isinstance(failure, Failure)]
    assert [failure.key for failure in failures] == ["packed/a.png", "packed/b.png"]
    assert all("tar was changed" in failure.reason for failure in failures)
    assert list(loader.hashes(found)) == [None, None]


# --- why an image failed, and whether it may go away ----------------------------------------------------------------


def test_a_failure_is_put_down_to_the_file_only_if_its_content_is_the_reason(folder: Path, loader: Loader) -> None:
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:40])
    (folder / "b.png").write_bytes(b"no image")
    for name in ("a.png", "b.png"):
        os.utime(folder / name, ns=(OLD_NS, OLD_NS))
    sources = find_images([folder]).images
    (folder / "c.png").unlink()
    _, failures = loader.plan(sources)
    about = {failure.key: (failure.num_bytes, failure.ctime_ns) for failure in failures}
    assert about["b.png"] == (8, sources[1].ctime_ns)
    assert about["c.png"] == (None, None)
    failure = load(loader, sources[:1])["a.png"] if "a.png" not in about else failures[0]
    assert isinstance(failure, Failure)
    assert (failure.num_bytes, failure.ctime_ns) == (40, sources[0].ctime_ns)


def test_a_tar_that_changes_while_the_run_goes_on_may_be_well_the_next_time(folder: Path, loader: Loader) -> None:
    sources = find_images([folder / "packed.tar"]).images
    os.utime(folder / "packed.tar")
    _, failures = loader.plan(sources)
    assert [failure.num_bytes for failure in failures] == [None, None]


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (MemoryError(), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError("image file is truncated"), False),
        (ValueError("bad"), False),
    ],
)
def test_no_memory_and_a_failing_disk_may_pass(error: Exception, may_pass: bool) -> None:
    with pytest.raises(UnreadableImageError) as caught, decoder_errors("PNG"):
        raise error
    assert isinstance(caught.value, PassingReadError) == may_pass


class _ByKey:
    """Makes a caption of an image's key; of `b.png` it cannot."""

    def columns_of(self, image: SourceImage) -> MadeColumns:
        if image.key == "b.png":
            return MadeColumns(troubles=(ColumnTrouble(image.key, "no caption"),))
        return MadeColumns({"caption": f"a picture called {image.key}"})


def test_an_image_gets_the_columns_that_are_made_for_it_and_trouble_with_them_costs_it_nothing(folder: Path) -> None:
    with Loader(LoadSettings(), 16, 2, columns=_ByKey()) as loader:
        loaded = load(loader, find_images([folder]).images)
    assert all(isinstance(image, LoadedImage) for image in loaded.values())
    assert {key: dict(image.record.columns) for key, image in loaded.items() if isinstance(image, LoadedImage)} == {
        "a.png": {"caption": "a picture called a.png"},
        "b.png": {},
        "c.png": {"caption": "a picture called c.png"},
    }
    troubles = [image.troubles for image in loaded.values() if isinstance(image, LoadedImage)]
    assert troubles == [(), (ColumnTrouble("b.png", "no caption"),), ()]
