"""Tars as sources: which members are images, under which keys, and what is said of a tar that is damaged."""

import bz2
import contextlib
import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.errors import PassingReadError, UnreadableImageError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files.disk import count_cores
from semdis_cli.files.tar import is_tar_start, stream_members, walk_tar
from semdis_cli.records import Stamp
from semdis_cli.sources.containers import container_at, find_containers
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.find import find_images
from semdis_cli.sources.source import Finds
from semdis_cli.sources.tar_members import list_tar
from semdis_cli.sources.tars import Tar

MTIME_NS = 1_700_000_000_123_456_789


def png(side: int = 3, *, colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (colour % 256, 1, 2)).save(file, "PNG")
    return file.getvalue()


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in members:
            add_member(archive, name, data)
    return path


def listed(path: Path, prefix: str = "") -> Finds:
    tar = container_at(path)
    assert isinstance(tar, Tar)
    return list_tar(path, path, tar, Stamp(0, MTIME_NS), prefix)


def keys_in(path: Path, prefix: str = "") -> list[str]:
    return [image.key for image in listed(path, prefix).images]


def refusal(path: Path) -> str:
    """The one line with which a tar is refused in which nothing is whole, or that says what is wrong behind that."""
    damage = listed(path).damage
    assert damage is not None
    assert len(damage.splitlines()) == 1
    if not listed(path).images:
        with pytest.raises(UsageError) as caught:
            find_images([path])
        assert str(caught.value) == f"{path}: {damage}"
    return damage


# ---- Finding tars for training ----


def test_tars_are_found_in_folders_at_any_depth_and_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("b.tar", "2024/may/a.tar", "2024/c.tar"):
        write_tar(folder / name, [])
    (folder / "photo.png").write_bytes(png())
    single = write_tar(tmp_path / "elsewhere" / "single.tar", [])
    photo = tmp_path / "photo.jpg"
    tars, others = find_containers([folder, single, photo])
    assert tars == [
        ("2024/c", folder / "2024/c.tar"),
        ("2024/may/a", folder / "2024/may/a.tar"),
        ("b", folder / "b.tar"),
        ("single", single),
    ]
    assert others == [folder, photo]


def test_a_folder_is_no_tar_whatever_its_name(tmp_path: Path) -> None:
    inner = tmp_path / "photos" / "unpacked.tar"
    inner.mkdir(parents=True)
    (inner / "photo.png").write_bytes(png())
    assert find_containers([tmp_path / "photos"]) == ([], [tmp_path / "photos"])
    assert find_containers([inner]) == ([], [inner])
    assert [image.key for image in find_images([inner]).images] == ["photo.png"]


# ---- What is in a tar ----


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_found_where_their_bytes_are(tmp_path: Path, tar_format: int) -> None:
    long = "/".join(["a-rather-long-folder-name"] * 5) + "/photo.png"  # longer than a plain header holds
    members = {name: png(colour=i) + bytes(i) for i, name in enumerate(("z.png", long, "grüße.png", "a.png"))}
    path = write_tar(tmp_path / "crops.tar", members.items(), tar_format)
    found = listed(path, "crops/").images
    assert [image.key for image in found] == [f"crops/{name}" for name in members]  # in the order of the tar
    for image, data in zip(found, members.values(), strict=True):
        where, _ = image.reader.locate(image)
        assert (Path(where), image.num_bytes, image.mtime_ns) == (path, len(data), MTIME_NS)
        assert path.read_bytes()[image.place :].startswith(data)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(
    members=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/.", exclude_categories=["Cs"]), min_size=1),
        st.binary(max_size=1500),
        max_size=5,
    )
)
@settings(max_examples=40, deadline=None)
def test_any_bytes_under_any_name_come_back(
    tmp_path_factory: pytest.TempPathFactory, tar_format: int, members: dict[str, bytes]
) -> None:
    files = {f"{name[:60]}.png": data for name, data in members.items()}
    assume(all(len(name.encode()) <= 100 for name in files))  # what the oldest of the formats holds
    path = write_tar(tmp_path_factory.getbasetemp() / "any.tar", files.items(), tar_format)
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    found = listed(path)
    assert found.failures == []
    read = {}
    for image in found.images:
        read[image.key] = read_bytes(image)
    assert read == files


def test_an_image_is_known_by_its_suffix_or_first_bytes_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "crops.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "b.txt", "e.JPEG", "g.tar", "._a.png", ".cache/x.png", "./h.png"):
            add_member(archive, name, png() if name != "g.tar" else b"no image")
        add_member(archive, "caption.txt", b"a text")
        add_member(archive, "empty", b"")
        for kind in (tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"special-{kind.decode()}.png")
            info.type, info.linkname = kind, "a.png"
            archive.addfile(info)
        add_member(archive, "last.png", png())
    contents = listed(path)
    assert [image.key for image in contents.images] == ["a.png", "b.txt", "e.JPEG", "h.png", "last.png"]
    assert contents.failures == []
    assert sum(contents.passed_over.numbers.values()) == 5 + 4  # folders do not count


def test_a_hard_link_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(png())
    (photos / "b.png").hardlink_to(photos / "a.png")
    subprocess.run(["tar", "cf", "photos.tar", "photos"], cwd=tmp_path, check=True)
    found = find_images([tmp_path / "photos.tar"]).images
    assert [image.key for image in found] == ["photos/photos/a.png", "photos/photos/b.png"]
    assert found[0].place == found[1].place
    with tarfile.open(tmp_path / "odd.tar", "w") as archive:
        info = tarfile.TarInfo("c.png")
        info.type, info.linkname = tarfile.LNKTYPE, "gone.png"
        archive.addfile(info)
    assert "is a link to 'gone.png'" in listed(tmp_path / "odd.tar").failures[0][0].reason


def test_a_name_that_leads_out_is_a_failure_and_an_absolute_one_loses_its_slash(tmp_path: Path) -> None:
    names = ["../../outside.png", "/abs/x.png", "a/../../b.png", "./a//c.png", "a/./d.png"]
    path = write_tar(tmp_path / "crops.tar", [(name, png()) for name in names])
    contents = listed(path, "crops/")
    assert [image.key for image in contents.images] == ["crops/abs/x.png", "crops/a/c.png", "crops/a/d.png"]
    assert [failure.key for failure, _ in contents.failures] == ["crops/../../outside.png", "crops/a/../../b.png"]


def test_a_sparse_member_is_a_failure(tmp_path: Path) -> None:
    with (tmp_path / "a.bmp").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
    (tmp_path / "b.png").write_bytes(png())
    for format_name in ("gnu", "posix"):
        path = tmp_path / f"{format_name}.tar"
        subprocess.run(["tar", f"--format={format_name}", "-cSf", path, "a.bmp", "b.png"], cwd=tmp_path, check=True)
        contents = listed(path)
        assert [image.key for image in contents.images] == ["b.png"]
        assert [failure.key for failure, _ in contents.failures] == ["a.bmp"]
        assert "sparse" in contents.failures[0][0].reason


def test_an_empty_tar_holds_nothing(tmp_path: Path) -> None:
    assert keys_in(write_tar(tmp_path / "empty.tar", [])) == []


# ---- Keys among other sources ----


def test_a_tar_beside_other_sources_puts_its_name_first(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "one.tar", [("a.png", png()), ("inner/b.png", png())])
    two = write_tar(tmp_path / "two.tar", [("a.png", png())])
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "a.png").write_bytes(png())
    write_tar(tmp_path / "three" / "not-searched.tar", [("a.png", png())])
    found = find_images([two, tmp_path / "three", one])
    assert [image.key for image in found.images] == ["one/a.png", "one/inner/b.png", "three/a.png", "two/a.png"]
    assert found.num_ignored == 1
    assert [image.key for image in find_images([one]).images] == ["one/a.png", "one/inner/b.png"]  # alone too
    assert [image.key for image in find_images([one, one]).images] == ["one/a.png", "one/inner/b.png"]
    packed = find_images([], packed=[("2024/one", one)])
    assert [image.key for image in packed.images] == ["2024/one/a.png", "2024/one/inner/b.png"]


def test_of_a_name_that_is_twice_in_a_tar_the_last_one_counts_as_when_it_is_unpacked(tmp_path: Path) -> None:
    members = [("a.png", png()), ("b.png", png()), ("./a.png", png(4, colour=2)), ("b.png", b"no image any more")]
    same = write_tar(tmp_path / "same.tar", [*members, ("c.png", png()), ("c.txt", b"x")])
    subprocess.run(["tar", "xf", same], cwd=tmp_path, check=True)
    found = find_images([same])
    assert [image.key for image in found.images] == ["same/a.png", "same/b.png", "same/c.png"]
    assert found.passed_over == {
        "members replaced by a later one of their name": 2,
        "no images by suffix or content": 1,
    }
    for image in found.images:
        assert read_bytes(image) == (tmp_path / image.key.removeprefix("same/")).read_bytes()


def test_a_hard_link_leads_to_the_file_that_was_there_when_it_was_packed(tmp_path: Path) -> None:
    path = tmp_path / "grown.tar"
    with tarfile.open(path, "w") as archive:
        add_member(archive, "a.png", png())
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(link)
        add_member(archive, "a.png", png(4, colour=2))
    old, new = (image.num_bytes for image in sorted(listed(path).images, key=lambda image: image.key, reverse=True))
    assert (old, new) == (len(png()), len(png(4, colour=2)))


def test_a_key_that_a_tar_and_a_listed_file_share_is_refused_with_advice_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "a.png").write_bytes(png(5))
    path = write_tar(tmp_path / "crops.tar", [("a.png", png())])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UsageError, match=r"crops\.tar and .*the same key crops/a\.png: rename one, or give one of them"
    ):
        find_images([path], listed=[Path("crops/a.png")])


# ---- Damage ----


@pytest.mark.parametrize(("mode", "program"), [("w:bz2", "bzcat"), ("w:xz", "xzcat")])
def test_a_compressed_tar_is_refused_with_the_way_to_do_it(tmp_path: Path, mode: str, program: str) -> None:
    path = tmp_path / "crops.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        add_member(archive, "a.png", png())
    assert f"{program} {path} | semdis encode -" in refusal(path)
    other = path.rename(tmp_path / f"crops.tar.{mode[2:]}")
    with pytest.raises(UsageError, match="a compressed tar"):
        find_images([other])


@pytest.mark.parametrize("data", [b"", b"no tar", bytes(100), b"x" * 2000])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "crops.tar"
    path.write_bytes(data)
    assert "as an uncompressed tar" in refusal(path)
    assert not is_tar_start(data[:512])


def test_a_tar_that_is_gone_or_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    for name, reason in (("gone.tar", "no such file"), ("pipe.tar", "not a regular file")):
        with pytest.raises(UsageError, match=reason):
            find_images([tmp_path / name])


@pytest.fixture
def three_members(tmp_path: Path) -> Path:
    """A tar of three PNGs; each header is followed by one block of 512 bytes of data."""
    path = write_tar(tmp_path / "crops.tar", [(f"{i}.png", png(colour=i)) for i in range(3)])
    assert all(image.num_bytes <= 512 for image in listed(path).images)
    return path


@pytest.mark.parametrize("num_bytes", range(1, 6 * 512 + 1, 171))
def test_of_a_tar_cut_off_anywhere_that_counts_which_lies_in_it_whole(three_members: Path, num_bytes: int) -> None:
    whole = listed(three_members).images
    three_members.write_bytes(three_members.read_bytes()[:num_bytes])
    refusal(three_members)
    left = [image for image in whole if image.place + image.num_bytes <= num_bytes]
    assert listed(three_members).images == left


def test_broken_tars_cost_what_is_broken_of_them_and_are_listed_all(tmp_path: Path, three_members: Path) -> None:
    data = three_members.read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: 3 * 512 + 20])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_bytes(b"<html>404</html>" * 100)
    (tmp_path / "packed.tar.bz2").write_bytes(bz2.compress(data))
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "job" / "cut.tar").mkdir(parents=True)  # a folder is no tar
    names = ["cut.tar", "empty.tar", "text.tar", "packed.tar.bz2", "pipe.tar"]
    found = find_images([*(tmp_path / name for name in names), three_members])
    assert [image.key for image in found.images] == ["crops/0.png", "crops/1.png", "crops/2.png", "cut/0.png"]
    reasons = {failure.key: failure.reason for failure in found.failures}
    assert list(reasons) == sorted(names)
    assert "cut off in '1.png'" in reasons["cut.tar"]
    assert "as an uncompressed tar" in reasons["empty.tar"]
    assert "as an uncompressed tar" in reasons["text.tar"]
    assert "bzcat" in reasons["packed.tar.bz2"]
    assert "not a regular file" in reasons["pipe.tar"]
    with pytest.raises(UsageError) as caught:
        find_images([tmp_path / name for name in names[1:]])
    assert all(f"{tmp_path / name}: " in str(caught.value) for name in names[1:])
    assert "\n" not in str(caught.value)


def test_a_member_that_begins_in_another_volume_is_a_failure_and_lists_of_folders_are_none(tmp_path: Path) -> None:
    path = tmp_path / "volume.tar"
    with tarfile.open(path, "w") as archive:
        for kind, name in ((b"V", "backup"), (b"D", "photos"), (b"M", "rest.png"), (b"0", "a.png")):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(png())
            archive.addfile(info, io.BytesIO(png()))
    contents = listed(path)
    assert ([image.key for image in contents.images], sum(contents.passed_over.numbers.values())) == (["a.png"], 0)
    assert [failure.key for failure, _ in contents.failures] == ["rest.png"]


def test_a_tar_cut_off_between_two_members_says_so(three_members: Path) -> None:
    three_members.write_bytes(three_members.read_bytes()[: 4 * 512])
    assert "cut off at byte 2048" in refusal(three_members)


def test_two_tars_in_one_file_give_the_first_and_say_so(three_members: Path) -> None:
    three_members.write_bytes(three_members.read_bytes() * 2)
    assert "goes on behind its end" in refusal(three_members)
    assert len(listed(three_members).images) == 3


@pytest.mark.parametrize("member", [0, 1, 2])
def test_a_tar_with_a_damaged_header_is_refused(three_members: Path, member: int) -> None:
    data = bytearray(three_members.read_bytes())
    data[2 * 512 * member + 3] ^= 0x20  # in the name: the checksum no longer fits
    three_members.write_bytes(data)
    refusal(three_members)


class StillSearchingError(Exception):
    """Two seconds of computing did not do."""


@pytest.fixture
def two_seconds() -> Iterator[None]:
    """Of this process's own time: a tar that leads in circles would fill the memory next."""

    def ring(*_: object) -> None:
        raise StillSearchingError

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def with_header(path: Path, offset: int, num_bytes: int, kind: bytes = b"0") -> bytes:
    """The bytes of a tar whose header at `offset` claims another size, with a checksum that fits."""
    data = bytearray(path.read_bytes())
    header = data[offset : offset + 512]
    header[124:136] = (num_bytes % 256**12 if num_bytes < 0 else num_bytes | 1 << 95).to_bytes(12, "big")  # GNU's form
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[offset : offset + 512] = header
    return bytes(data)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="nothing to stop an endless search with")
@pytest.mark.usefixtures("two_seconds")
@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("num_bytes", [10**6, 10**12, 2**62, 2**70, -512, -1024, -(2**70)])
def test_a_member_or_name_of_impossible_size_is_refused(three_members: Path, num_bytes: int, kind: bytes) -> None:
    three_members.write_bytes(with_header(three_members, 1024, num_bytes, kind))
    refusal(three_members)
    with pytest.raises(ValueError, match=r"."):
        list(stream_members(b"", io.BytesIO(three_members.read_bytes()), ".png", 10**9))


def test_long_names_without_end_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "crops.tar", [("a.png", bytes(512))])
    block = with_header(path, 0, 512, b"L")[:1024]
    path.write_bytes(block * 5000)
    refusal(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": "-1024"},
        {"size": "9" * 30},
        {"GNU.sparse.map": "1,x"},
        {"GNU.sparse.size": "all"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    ],
    ids=str,
)
def test_extended_headers_that_say_nonsense_are_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    path = tmp_path / "crops.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.png")
        info.size, info.pax_headers = 100, fields
        archive.addfile(info, io.BytesIO(bytes(100)))
    refusal(path)


@given(position=st.integers(0, 3 * 1024 - 1), byte=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_any_damaged_byte_gives_the_members_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    path = write_tar(tmp_path_factory.getbasetemp() / "damaged.tar", [(f"{i}.png", png(colour=i)) for i in range(3)])
    whole = listed(path).images
    data = bytearray(path.read_bytes())
    data[position] = byte
    path.write_bytes(data)
    found = listed(path)
    places = [(image.place, image.num_bytes) for image in found.images]
    assert set(places) <= {(image.place, image.num_bytes) for image in whole}
    assert found.damage is not None or len(places) == len(whole)


@given(data=st.binary(max_size=3000), keep=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_tar_or_refused(data: bytes, keep: int) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for i in range(3):
            add_member(archive, f"{i}.png", bytes(100))
    file = io.BytesIO(whole.getvalue()[: 1024 * keep] + data)
    with contextlib.suppress(ValueError):
        for _ in walk_tar(cast("BinaryIO", file)):
            pass


# ---- Reading ----


def test_an_image_is_not_read_from_a_tar_that_was_changed_meanwhile(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "crops.tar", [("a.png", png()), ("b.png", png())])
    found = find_images([path]).images
    write_tar(path, [("b.png", png()), ("a.png", png(colour=9))])
    os.utime(path, ns=(0, MTIME_NS))
    with pytest.raises(UnreadableImageError, match="changed while the run"):
        found[0].reader.open(found[0])


def test_a_tar_that_was_read_from_is_not_read_on_after_a_change(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "crops.tar", [("a.png", png()), ("b.png", png())])
    one, other = find_images([path]).images
    read_bytes(one)
    write_tar(path, [("b.png", png()), ("a.png", png(colour=9))])
    os.utime(path, ns=(0, MTIME_NS))
    with pytest.raises(PassingReadError, match="changed while the run"):
        read_bytes(other)
    assert read_bytes(find_images([path]).images[0]) == png(colour=9)  # listed anew


def test_a_tar_that_another_took_the_place_of_has_no_stamps(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "crops.tar", [("a.png", png())])
    image = find_images([path]).images[0]
    read_bytes(image)
    new = write_tar(tmp_path / "new.tar", [("a.png", png(colour=9))])
    os.utime(new, ns=(0, MTIME_NS))
    new.replace(path)
    with pytest.raises(PassingReadError, match="changed while the run"):
        image.reader.stamp(image)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_few_of_many_tars_stay_open(tmp_path: Path) -> None:
    for number in range(40):
        write_tar(tmp_path / f"{number:02d}.tar", [("a.png", png())])
    assert len({read_bytes(image) for image in find_images([tmp_path]).images}) == 1
    opened = [Path(os.path.realpath(each)) for each in Path("/proc/self/fd").iterdir()]
    assert 0 < len([path for path in opened if path.parent == tmp_path]) <= count_cores() + 2


# ---- Pipes ----


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__()
        self._file, self._step = io.BytesIO(data), step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._file.read(min(len(buffer), self._step))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("step", [1, 100, 512, 5000])
@pytest.mark.parametrize("num_read", [0, 512])
def test_members_come_off_a_pipe_as_they_are(tmp_path: Path, step: int, num_read: int) -> None:
    files = {"a.bin": b"a" * 700, "other.txt": b"t" * 3000, "deep/b.bin": b"", "large.bin": bytes(2000)}
    data = write_tar(tmp_path / "x.tar", files.items()).read_bytes()
    stream = io.BufferedReader(Trickle(data[num_read:], step))
    members = list(stream_members(data[:num_read], stream, ".bin", 1000))
    assert [(member.name, member.num_bytes, member.data) for member in members] == [
        ("a.bin", 700, b"a" * 700),
        ("deep/b.bin", 0, b""),
        ("large.bin", 2000, None),
    ]


@pytest.mark.parametrize("num_bytes", range(0, 2 * 1024 + 512, 128))
def test_a_pipe_that_ends_early_gives_what_came_whole(tmp_path: Path, num_bytes: int) -> None:
    data = write_tar(tmp_path / "x.tar", [("a.bin", b"a" * 400), ("b.bin", b"b" * 400)]).read_bytes()
    members = stream_members(b"", io.BytesIO(data[:num_bytes]), ".bin", 1000)
    names: list[str] = []
    with pytest.raises(ValueError, match=r"."):
        names.extend(member.name for member in members)  # those before the error stay
    assert names == ["a.bin", "b.bin"][: (num_bytes >= 912) + (num_bytes >= 1024 + 912)]


def test_failures_and_images_of_a_tar_are_sorted_in(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [("b.png", png()), ("../z.png", png()), ("a.png", png())])
    found = find_images([path])
    assert [image.key for image in found.images] == ["x/a.png", "x/b.png"]
    assert found.failures == (Failure("x/../z.png", "its name leads out of the tar; pack it under another"),)


# ---- Dialects ----

LONG_FOLDER = "/".join(["a-rather-long-folder-name"] * 5)  # with a name behind it longer than a plain header holds
GNU_DIALECTS = ["v7", "oldgnu", "gnu", "ustar", "posix"]


@pytest.mark.parametrize("options", [[], ["--listed-incremental=list"], ["--incremental"], ["--atime-preserve"]])
@pytest.mark.parametrize("dialect", GNU_DIALECTS)
def test_a_key_is_the_members_name_in_every_dialect_that_gnu_tar_writes(
    tmp_path: Path, dialect: str, options: list[str]
) -> None:
    names = ["photos/a.png", "photos/grüße.png"]
    names += [f"photos/{LONG_FOLDER}/a.png"] if dialect != "v7" else []
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
        os.utime(tmp_path / name, (981_158_400, 981_158_400))
    command = ["tar", f"--format={dialect}", *options, "-cf", "photos.tar", "photos"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    if done.returncode != 0:
        assert options, done.stderr  # the oldest dialects take none of them
        return
    assert sorted(keys_in(tmp_path / "photos.tar")) == sorted(names)
    assert listed(tmp_path / "photos.tar").failures == []


def test_a_sparse_file_of_an_incremental_tar_keeps_its_name(tmp_path: Path) -> None:
    with (tmp_path / "a.bmp").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x")
    for format_name in ("oldgnu", "gnu"):
        command = ["tar", f"--format={format_name}", "--incremental", "-cSf", "a.tar", "a.bmp"]
        subprocess.run(command, cwd=tmp_path, check=True)
        assert [failure.key for failure, _ in listed(tmp_path / "a.tar").failures] == ["a.bmp"]


def by_hand(name: bytes, magic: bytes, behind: dict[int, bytes]) -> bytes:
    """A tar of one empty file, its header written byte by byte. `behind`: what stands at which byte."""
    header = bytearray(512)
    fields = {0: name, 100: b"0000644\0", 124: b"00000000000\0", 136: b"00000000000\0", 156: b"0", 257: magic, **behind}
    for place, value in fields.items():
        header[place : place + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize(
    ("magic", "behind", "key"),
    [
        (b"ustar\x0000", {345: b"folder"}, "folder/a.png"),
        (b"ustar\x0000", {345: b"f" * 155}, "f" * 155 + "/a.png"),
        (b"ustar\x0000", {345: b"folder", 476: b"07243102525 07243102525 ", 508: b"tar\0"}, "folder/a.png"),
        (b"ustar\x0000", {345: b"f" * 131 + b"07243102525 07243102525 ", 508: b"tar\0"}, "f" * 131 + "/a.png"),
        (b"ustar  \0", {345: b"07243102525\x0007243102525\0"}, "a.png"),
        (b"ustar  \0", {345: b"07243102525 "}, "a.png"),
        (b"ustar  \0", {345: b"\xff" + bytes(10) + b"\x01\x80" + bytes(10) + b"\x01"}, "a.png"),
        (b"ustar  \0", {357: b"07243102525\0"}, "a.png"),
        (b"ustar  \0", {345: b"2024/may"}, "2024/may/a.png"),  # as Go wrote it before 1.8
        (b"ustar  \0", {345: "über".encode()}, "über/a.png"),
        (bytes(8), {345: b"left over"}, "a.png"),
    ],
)
def test_the_bytes_behind_a_header_are_read_as_their_dialect_means_them(
    tmp_path: Path, magic: bytes, behind: dict[int, bytes], key: str
) -> None:
    (tmp_path / "a.tar").write_bytes(by_hand(b"a.png", magic, behind))
    assert keys_in(tmp_path / "a.tar") == [key]
