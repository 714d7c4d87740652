"""Zips as sources: which members are images, what is refused of them, and what lies beside each image."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import PassingReadError, UnreadableImageError, UsageError
from semdis_cli.files.zip import MAX_PACKED_BYTES
from semdis_cli.records import MAX_BESIDE_BYTES
from semdis_cli.sources.files import SMALL_BYTES, read_bytes
from semdis_cli.sources.find import find_images
from tests.sources.found import check_what_is_left, columns_of, damage, reasons_of
from tests.sources.test_tars import png

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def write_zip(path: Path, members: Mapping[str, bytes], method: int = STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def patched(path: Path, name: str, offset: int, value: bytes) -> Path:
    """The same zip with other bytes in the directory's entry of a member."""
    data = bytearray(path.read_bytes())
    at = data.rindex(name.encode()) - 46 + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_images_are_read_in_place_and_all_else_is_counted(tmp_path: Path, method: int) -> None:
    large = png() + bytes(SMALL_BYTES)
    members = {
        "b/a.png": png(1),
        "a.png": png(2),
        "no-suffix": png(3),
        "large.png": large,
        "notes.md": b"x",
        "empty": b"",
        "__MACOSX/b/._a.png": b"\0\5\x16\7",
        ".hidden.png": png(),
        "folder/": b"",
    }
    path = write_zip(tmp_path / "photos.zip", members, method)
    found = find_images([path])
    expected = {f"photos/{name}": members[name] for name in ("a.png", "b/a.png", "large.png", "no-suffix")}
    assert {image.key: read_bytes(image) for image in found.images} == expected
    assert [image.key for image in found.images] == sorted(expected)
    assert sum(found.passed_over.values()) == 4
    assert found.failures == ()
    with found.images[2].reader.open(found.images[2]) as file:
        assert (file.read(4), file.seek(-3, io.SEEK_END), file.read()) == (b"\x89PNG", len(large) - 3, bytes(3))
    stamps = {(image.mtime_ns, image.ctime_ns) for image in found.images}
    assert stamps == {(path.stat().st_mtime_ns, path.stat().st_ctime_ns)}


@given(
    members=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/.", exclude_categories=["Cs"]), min_size=1),
        st.binary(max_size=3000),
        max_size=6,
    ),
    method=st.sampled_from([STORED, DEFLATED]),
    before=st.binary(max_size=100),
    comment=st.binary(max_size=100),
)
@settings(max_examples=60, deadline=None)
def test_any_bytes_under_any_name_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    members: dict[str, bytes],
    method: int,
    before: bytes,
    comment: bytes,
) -> None:
    files = {f"{name[:60]}.png": data for name, data in members.items()}
    path = tmp_path_factory.getbasetemp() / "any.zip"
    path.write_bytes(before)  # as of a program that unpacks itself
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.comment = comment.replace(b"PK\5\6", b"")
        for name, data in files.items():
            archive.writestr(name, data)
    found = find_images([path, path])
    assert {image.key.removeprefix("any/"): read_bytes(image) for image in found.images} == files


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_zip_costs_what_is_damaged_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    method = data.draw(st.sampled_from([STORED, DEFLATED]))
    write_zip(path, {"a.png": png(1), "b.txt": b"text", "b.png": png(2), "dataset.json": b'{"labels":null}'}, method)
    damage(path, data, 4)
    os.truncate(path, path.stat().st_size - data.draw(st.integers(0, 40)))
    check_what_is_left(path)


def test_names_that_lead_out_fail_absolute_ones_lose_their_slash_and_of_two_the_last_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "crops.zip"
    names = ["../out.png", "a/../../b.png", "/abs/x.png", "c.png", "./c.png", "//c.png"]
    write_zip(path, {name: png(number) for number, name in enumerate(names, start=1)})
    found = find_images([path])
    assert [image.key for image in found.images] == ["crops/abs/x.png", "crops/c.png"]
    assert read_bytes(found.images[1]) == png(6)
    assert list(reasons_of(found)) == ["crops/../out.png", "crops/a/../../b.png"]
    assert "leads out of the zip" in reasons_of(found)["crops/../out.png"]
    assert found.passed_over == {"members replaced by a later one of their name": 2}


def test_what_cannot_be_read_is_a_failure_of_its_own_and_says_what_to_do(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "mixed.zip", {f"{name}.png": png() * 9 for name in "abcdefg"}, DEFLATED)
    patched(path, "a.png", 8, b"\1\0")  # encrypted
    patched(path, "b.png", 10, b"\x5d\0")  # zstd
    patched(path, "c.png", 24, struct.pack("<L", 1 << 31))  # a size that deflate cannot reach
    patched(path, "d.png", 16, b"\0\0\0\0")  # checksum
    patched(path, "e.png", 42, struct.pack("<L", 1 << 20))  # leads nowhere
    patched(path, "f.png", 20, struct.pack("<2L", MAX_PACKED_BYTES, MAX_PACKED_BYTES + 1))
    found = find_images([path])
    reasons = {key.removeprefix("mixed/"): reason for key, reason in reasons_of(found).items()}
    assert "is encrypted; unpack" in reasons["a.png"]
    assert "method 93" in reasons["b.png"]
    assert "cannot have" in reasons["c.png"]
    assert "512 MiB; pack it without compression" in reasons["f.png"]
    d, e, g = found.images
    for image, reason in ((d, "checksum"), (e, "header")):
        with pytest.raises(UnreadableImageError, match=reason):
            read_bytes(image)
    assert read_bytes(g) == png() * 9


def test_a_bomb_is_never_unpacked_beyond_the_size_that_it_claims(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "bomb.zip", {"a.png": bytes(64 << 20)}, DEFLATED)
    patched(path, "a.png", 24, struct.pack("<L", 1000))
    with pytest.raises(UnreadableImageError, match="do not fit"):
        read_bytes(find_images([path]).images[0])


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\3\4" + bytes(100), b"PK\5\6" + bytes(10), bytes(70_000)])
def test_what_is_no_zip_is_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.zip: cannot be read as a zip \(no directory at its end"):
        find_images([path])
    other = write_zip(tmp_path / "b.zip", {"a.png": png()})
    assert list(reasons_of(find_images([path, other]))) == ["a.zip"]


def test_zip64_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.png", "b.png"):
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(png())
    # The directory's own fields as of a zip beyond 4 GiB: all in the wide end, and the places in the extra field.
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    number, _, start = struct.unpack_from("<H2L", data, end + 10)
    directory = b""
    at = start
    for _ in range(number):
        entry, name_bytes = data[at : at + 46], struct.unpack_from("<H", data, at + 28)[0]
        size, packed = struct.unpack_from("<L", entry, 24)[0], struct.unpack_from("<L", entry, 20)[0]
        header = struct.unpack_from("<L", entry, 42)[0]
        extra = struct.pack("<2H3Q", 1, 24, size, packed, header)
        narrow = struct.pack("<2L", 0xFFFFFFFF, 0xFFFFFFFF)
        entry = entry[:20] + narrow + entry[28:30] + struct.pack("<H", len(extra)) + entry[32:42] + narrow[:4]
        directory += entry + data[at + 46 : at + 46 + name_bytes] + extra
        at += 46 + name_bytes + sum(struct.unpack_from("<2H", data, at + 30))
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:start] + directory + wide + locator + last)
    assert [read_bytes(image) for image in find_images([path]).images] == [png(), png()]


def test_names_are_decoded_as_whoever_packed_them_meant_them(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "names.zip", {"XXX.png": png(), "YY.png": png(2), "ä.png": png(3)})
    data = path.read_bytes().replace(b"XXX", "ßa".encode()).replace(b"YY", b"\x84\x94")
    path.write_bytes(data)  # UTF-8 without the mark, as macOS packs; code page 437, as DOS did
    assert {image.key for image in find_images([path]).images} == {"names/ßa.png", "names/äö.png", "names/ä.png"}


def test_what_lies_beside_an_image_is_offered(tmp_path: Path) -> None:
    members = {
        "a.txt": b"a caption",
        "a.png": png(1),
        "a.JSON": b'{"x": 1}',
        "in.1/b.left.png": png(2),
        "in.1/b.right.png": png(3),
        "in.1/b.txt": b"both",
        "in.1/b.left.txt": b"left",
        "c.png": png(4),
        "c.caption": b"x" * (2 * MAX_BESIDE_BYTES),
        "d.md": b"nothing",
    }
    for method in (STORED, DEFLATED):
        found = find_images([write_zip(tmp_path / "set.zip", members, method)]).images
        offered = {image.key: columns_of(image) for image in found}
        assert offered == {
            "set/a.png": {"txt": b"a caption", "json": b'{"x": 1}'},
            "set/in.1/b.left.png": {"txt": b"left"},
            "set/in.1/b.right.png": {"txt": b"both", "left.txt": b"left"},
            "set/c.png": {"caption": b"x" * (MAX_BESIDE_BYTES + 1)},
        }


def test_the_labels_of_edm2_are_offered(tmp_path: Path) -> None:
    members = {f"00000/img{number:08d}.png": png(number + 1) for number in range(3)}
    labels = [["00000/img00000000.png", 5], ["00000/img00000001.png", None], ["00000/img00000002.png", [0, 1]]]
    listed = json.dumps({"labels": labels}).encode()
    path = write_zip(tmp_path / "edm.zip", {**members, "dataset.json": listed})
    assert [columns_of(image) for image in find_images([path]).images] == [{"label": 5}, {}, {"label": [0, 1]}]
    path = write_zip(tmp_path / "none.zip", {**members, "dataset.json": b'{"labels": null}'})
    assert [columns_of(image) for image in find_images([path]).images] == [{}, {}, {}]
    path = write_zip(tmp_path / "bad.zip", {**members, "dataset.json": b'{"labels": [3]}'})
    image = find_images([path]).images[0]
    with pytest.raises(UnreadableImageError, match=r"dataset\.json is no"):
        columns_of(image)
    assert read_bytes(image) == png(1)


def test_a_zip_that_was_changed_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": png()})
    image = find_images([path]).images[0]
    write_zip(path, {"b.png": png(2)})
    with pytest.raises(PassingReadError, match="zip was changed while"):
        read_bytes(image)


def test_a_zip_that_was_written_to_a_pipe_is_read(tmp_path: Path) -> None:
    script = "import sys, zipfile\nwith zipfile.ZipFile(sys.stdout.buffer, 'w', 8) as z: z.write('a.png')"
    (tmp_path / "a.png").write_bytes(png() + bytes(99))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "piped.zip").write_bytes(done.stdout)  # sizes behind the bytes
    assert read_bytes(find_images([tmp_path / "piped.zip"]).images[0]) == png() + bytes(99)


def test_a_folder_of_zips_is_searched_unless_images_lie_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    (folder / "a").mkdir(parents=True)
    write_zip(folder / "a" / "1.zip", {"x.png": png()})
    write_zip(folder / "2.ZIP", {"x.png": png(2)})
    (folder / "3.zip").write_bytes(b"cut off")
    found = find_images([folder])
    assert [image.key for image in found.images] == ["2/x.png", "a/1/x.png"]
    assert list(reasons_of(found)) == ["3.zip"]
    assert [image.key for image in find_images([folder, folder / "a"]).images] == [
        "a/1/x.png",
        "sets/2/x.png",
        "sets/a/1/x.png",
    ]
    (folder / "b.png").write_bytes(png())
    found = find_images([folder])
    assert [image.key for image in found.images] == ["b.png"]
    assert found.passed_over == {"archives beside images": 3}
