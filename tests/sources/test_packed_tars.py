"""Tars that gzip compressed: read in place, from any member to any other, in bounded memory."""

import gzip
import io
import os
import random
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import PassingReadError, UnreadableImageError
from semdis_cli.files.gzip import GzipReader
from semdis_cli.records import ColumnSource
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.find import find_images
from tests.sources.found import check_what_is_left, damage
from tests.sources.test_tars import add_member, png


def write_packed(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in members:
            add_member(archive, name, data)
    return path


def open_reader(path: Path) -> GzipReader:
    return GzipReader(os.open(path, os.O_RDONLY))


@pytest.mark.parametrize("name", ["00000.tar.gz", "00000.TGZ", "00000.tar"])
def test_images_and_what_lies_beside_them_are_those_of_the_tar(tmp_path: Path, name: str) -> None:
    members = [("b.jpg", png(1)), ("b.txt", b"a caption"), ("odd", png(2)), ("a.png", png(3)), ("../x.png", png())]
    path = write_packed(tmp_path / name, members)
    found = find_images([path])
    assert {image.key: read_bytes(image) for image in found.images} == {
        "00000/a.png": png(3),
        "00000/b.jpg": png(1),
        "00000/odd": png(2),
    }
    assert [failure.key for failure in found.failures] == ["00000/../x.png"]
    image = found.images[1]
    assert isinstance(image.reader, ColumnSource)
    assert image.reader.columns(image) == {"txt": b"a caption"}
    assert (image.mtime_ns, image.ctime_ns) == (path.stat().st_mtime_ns, path.stat().st_ctime_ns)


def test_a_folder_of_packed_tars_has_the_keys_that_unpacked_ones_have(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_packed(folder / "0.tar.gz", [("a.png", png())])
    write_packed(folder / "1.tgz", [("a.png", png())])
    (folder / "2.tar.gz").write_bytes(gzip.compress(b"no tar" * 200))
    found = find_images([folder])
    assert [image.key for image in found.images] == ["0/a.png", "1/a.png"]
    assert [failure.key for failure in found.failures] == ["2.tar.gz"]
    assert "as a tar compressed by gzip" in found.failures[0].reason


def test_of_a_packed_tar_that_is_cut_off_what_is_whole_counts(tmp_path: Path) -> None:
    noise = random.Random(0)
    members = [(f"{number}.png", png() + noise.randbytes(50_000)) for number in range(4)]
    path = write_packed(tmp_path / "cut.tar.gz", members)
    path.write_bytes(path.read_bytes()[:130_000])
    found = find_images([path])
    assert [failure.key for failure in found.failures] == ["cut.tar.gz"]
    assert "cut off" in found.failures[0].reason
    for image in found.images[:2]:
        assert read_bytes(image) == dict(members)[image.key.removeprefix("cut/")]
    for image in found.images[2:]:
        with pytest.raises(UnreadableImageError, match="cut off"):
            read_bytes(image)


def test_a_packed_tar_that_was_changed_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "a.tar.gz", [("a.png", png())])
    image = find_images([path]).images[0]
    path.unlink()
    write_packed(path, [("a.png", png(2))])
    with pytest.raises(PassingReadError, match="changed while"):
        image.reader.stamp(image)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_packed_tar_costs_what_is_damaged_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.tar.gz"
    write_packed(path, [("a.png", png(1)), ("a.txt", b"text"), ("b.png", png(2) + bytes(3000))])
    damage(path, data, 3)
    check_what_is_left(path)


@given(
    pieces=st.lists(st.binary(max_size=300), max_size=4),
    zeros=st.integers(0, 20),
    reads=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 400)), max_size=8),
)
@settings(deadline=None)
def test_any_stretch_is_what_gzip_unpacks(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], zeros: int, reads: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gz"
    path.write_bytes(b"".join(map(gzip.compress, pieces)) + bytes(zeros))
    whole, reader = b"".join(pieces), open_reader(path)
    for start, num_bytes in reads:
        assert (reader.read(start, num_bytes) if pieces else b"") == (whole[start : start + num_bytes])


def test_steps_back_unpack_no_more_than_a_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(0)
    data = noise.randbytes(1 << 16) * 32 + noise.randbytes(30 << 20) + bytes(100 << 20)
    path = tmp_path / "long.gz"
    path.write_bytes(gzip.compress(data, 1))
    reader = open_reader(path)
    assert reader.read(len(data), 10) == b""
    num_packed = 0
    pread = os.pread

    def counted(descriptor: int, num_bytes: int, place: int) -> bytes:
        nonlocal num_packed
        num_packed += 1
        return pread(descriptor, num_bytes, place)

    monkeypatch.setattr("os.pread", counted)
    starts = [noise.randrange(len(data)) for _ in range(40)]
    for start in starts:
        assert reader.read(start, 1000) == data[start : start + 1000]
    assert num_packed <= 40 * (5 << 20 >> 16)  # of the 135 MB that there are
    assert len(reader._points) <= 65


def test_threads_read_what_they_ask_for(tmp_path: Path) -> None:
    noise = random.Random(0)
    members = [(f"{number:03d}.bmp", number.to_bytes(2, "big") + noise.randbytes(40_000)) for number in range(300)]
    found = find_images([write_packed(tmp_path / "many.tar.gz", members)]).images
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_bytes, found)) == [data for _, data in members]
        shuffled = noise.sample(range(300), 300)
        assert list(pool.map(lambda at: read_bytes(found[at]), shuffled)) == [members[at][1] for at in shuffled]


def test_a_member_that_claims_to_be_huge_is_never_unpacked(tmp_path: Path) -> None:
    header = tarfile.TarInfo("huge.png")
    header.size = 1 << 40
    small = io.BytesIO()
    with tarfile.open(fileobj=small, mode="w") as archive:
        add_member(archive, "a.png", png())
    data = small.getvalue()[:1024] + header.tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    found = find_images([tmp_path / "a.tar.gz"])
    reasons = {failure.key: failure.reason for failure in found.failures}
    assert "larger than 512 MiB, in a compressed tar" in reasons["a/huge.png"]
    assert [read_bytes(image) for image in found.images] == [png()]
