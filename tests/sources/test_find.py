"""Finding images: which files, under which keys, and what is said about the rest."""

import io
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.sources.file_list import read_file_list
from semdis_cli.sources.find import FoundImages, find_images
from tests.image_bytes import gif
from tests.odd_images import build_odd_images, quadrants

GIF = gif((64, 96), [(1, 2, 3)], [(0, 0, quadrants(0, 0, 0, 0)[:, :, 0])])


def _write(path: Path, data: bytes = GIF) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _keys(found: FoundImages) -> list[str]:
    return [image.key for image in found.images]


def test_a_folder_gives_every_image_in_key_order_with_its_size(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.jpg", "b.gif", "c/d/e.webp"):
        _write(tmp_path / name)
    found = find_images([tmp_path])
    assert _keys(found) == ["a.jpg", "b.gif", "b/10.png", "b/2.png", "c/d/e.webp"]
    assert found.failures == ()
    for image in found.images:
        assert Path(image.place) == tmp_path / image.key
        assert image.num_bytes == len(GIF)


def test_the_odd_files_are_found_but_for_folders(tmp_path: Path) -> None:
    odd = build_odd_images(tmp_path)
    assert _keys(find_images([tmp_path])) == [image.key for image in odd if image.is_found]


def test_a_known_suffix_or_known_first_bytes_make_an_image_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("plain", "odd.txt", "UPPER.JPEG"):
        _write(tmp_path / name)
    _write(tmp_path / "text.jpg", b"a text that claims to be an image")
    for name in ("caption.txt", "BMW.txt", "png", "empty"):
        _write(tmp_path / name, b"" if name == "empty" else b"BMW is a maker of cars, and this is a text.")
    found = find_images([tmp_path])
    assert _keys(found) == ["UPPER.JPEG", "odd.txt", "plain", "text.jpg"]
    assert found.num_ignored == 4


def test_names_with_a_leading_dot_are_passed_over(tmp_path: Path) -> None:
    for name in (".hidden.png", ".cache/a.png", ".cache/b.png", "._a.png", "a.png"):
        _write(tmp_path / name)
    found = find_images([tmp_path])
    assert _keys(found) == ["a.png"]
    assert found.num_ignored == 3  # the folder counts once


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _write(tmp_path / "photos/inner/a.png")
    (tmp_path / "photos/inner/up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/inner/here").symlink_to(".")
    (tmp_path / "photos/again").symlink_to("inner")
    (tmp_path / "photos/link.png").symlink_to("inner/a.png")
    assert _keys(find_images([tmp_path / "photos"])) == ["again/a.png", "inner/a.png", "link.png"]


def test_what_leads_in_a_circle_is_counted(tmp_path: Path) -> None:
    _write(tmp_path / "photos/inner/a.png")
    _write(tmp_path / "beside/b.png")
    for name, target in (("up", ".."), ("here", "."), ("out", "../../beside"), ("far", "../..")):
        (tmp_path / "photos/inner" / name).symlink_to(target)
    (tmp_path / "beside" / "back").symlink_to("../photos/inner")
    found = find_images([tmp_path / "photos"])
    assert _keys(found) == ["inner/a.png", "inner/far/beside/b.png", "inner/out/b.png"]
    circles = ["inner/up", "inner/here", "inner/out/back", "inner/far/photos", "inner/far/beside/back"]
    assert found.passed_over == {"folders that lead back to themselves": len(circles)}


@pytest.fixture
def one_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk where every file and folder has the inode number 1, as mergerfs and some shares of virtual machines do."""
    stat = os.stat

    def renumbered(*arguments: Any, **options: Any) -> os.stat_result:
        status = stat(*arguments, **options)
        fields = list(status)
        fields[1] = 1
        return os.stat_result(fields, {"st_mtime_ns": status.st_mtime_ns, "st_ctime_ns": status.st_ctime_ns})

    monkeypatch.setattr(os, "stat", renumbered)


@pytest.mark.usefixtures("one_inode")
def test_folders_that_share_an_inode_are_no_circle_nor_the_output(tmp_path: Path) -> None:
    names = ["a.png", "b/c.png", "b/d/e.png", "b/d/b/d/f.png", "g/h.png"]
    for name in (*names, "out/i.png"):
        _write(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b" / "up").symlink_to("..")
    found = find_images([tmp_path / "photos"], exclude=tmp_path / "photos" / "out")
    assert _keys(found) == sorted(names)
    assert found.passed_over == {"folders that lead back to themselves": 1}


@pytest.mark.usefixtures("one_inode")
def test_what_goes_on_and_on_in_itself_is_left_in_the_end(tmp_path: Path) -> None:
    _write(tmp_path / "/".join(["same"] * 40) / "a.png")
    found = find_images([tmp_path])
    assert (_keys(found), found.passed_over) == ([], {"folders that lead back to themselves": 1})


@pytest.mark.usefixtures("one_inode")
def test_files_that_share_an_inode_are_not_one_file(tmp_path: Path) -> None:
    one, two = _write(tmp_path / "one/a.png"), _write(tmp_path / "two/a.png", GIF[:-1] + b"!")
    with pytest.raises(UsageError, match=r"one/a\.png.*two/a\.png"):
        find_images([one, two])
    assert _keys(find_images([one, tmp_path / "two/../one/a.png"])) == ["a.png"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("inner", ["b", "a b\\c"])
def test_a_folder_that_is_mounted_within_itself_is_a_circle(tmp_path: Path, inner: str) -> None:
    _write(tmp_path / "photos" / "a.png")
    place = tmp_path / "photos" / "x" / inner
    place.mkdir(parents=True)
    if subprocess.run(["mount", "--bind", tmp_path / "photos", place], check=False, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        found = find_images([tmp_path / "photos"])
    finally:
        subprocess.run(["umount", place], check=True)
    assert _keys(found) == ["a.png"]
    assert found.passed_over == {"folders that lead back to themselves": 1}


def test_one_file_by_two_hard_links_counts_once(tmp_path: Path) -> None:
    one = _write(tmp_path / "one/a.png")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.png").hardlink_to(one)
    assert _keys(find_images([one, tmp_path / "two/a.png"])) == ["a.png"]


def test_sources_of_one_name_are_told_apart_and_all_that_are_missing_are_named(tmp_path: Path) -> None:
    for name in ("a/photos/1.png", "b/photos/1.png", "c/1.png"):
        _write(tmp_path / name)
    found = find_images([tmp_path / "b/photos", tmp_path / "c", tmp_path / "a/photos"])
    assert _keys(found) == ["a/photos/1.png", "b/photos/1.png", "c/1.png"]
    with pytest.raises(UsageError, match=r"gone, .*lost: no such file or folder"):
        find_images([tmp_path / "gone", tmp_path / "c", tmp_path / "lost"])


def test_a_dangling_link_in_an_images_place_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "gone").symlink_to("nowhere")
    found = find_images([tmp_path])
    assert not found.images
    assert found.failures == (Failure("gone.png", "cannot be read (No such file or directory)"),)
    assert found.num_ignored == 1


def test_the_output_folder_is_not_searched_under_any_name(tmp_path: Path) -> None:
    _write(tmp_path / "a.png")
    _write(tmp_path / "out/b.png")
    (tmp_path / "alias").symlink_to("out")
    assert _keys(find_images([tmp_path], exclude=tmp_path / "out")) == ["a.png"]
    assert _keys(find_images([tmp_path], exclude=tmp_path / "not_there")) == ["a.png", "alias/b.png", "out/b.png"]


def test_a_very_deep_tree_is_no_recursion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        Path("d").mkdir()
        os.chdir("d")
    _write(Path("a.png"))
    monkeypatch.chdir(tmp_path)
    assert _keys(find_images([tmp_path / "d"])) == ["d/" * 1199 + "a.png"]
    subprocess.run(["rm", "-r", "d"], check=True)  # Python's own way to remove a tree is a recursion


def test_several_sources_put_the_folders_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "one/a.png")
    _write(tmp_path / "two/a.png")
    file = _write(tmp_path / "three/b.png")
    assert _keys(find_images([tmp_path / "one", tmp_path / "two", file])) == ["b.png", "one/a.png", "two/a.png"]
    monkeypatch.chdir(tmp_path / "one")
    assert _keys(find_images([Path(), Path("../two")])) == ["one/a.png", "two/a.png"]
    assert _keys(find_images([Path()])) == ["a.png"]


def test_a_single_file_keeps_its_name_whatever_it_is(tmp_path: Path) -> None:
    found = find_images([_write(tmp_path / ".notes.txt", b"a text")])
    assert _keys(found) == [".notes.txt"]


def test_one_key_for_two_files_is_refused_and_names_both(tmp_path: Path) -> None:
    one, two = _write(tmp_path / "one/a.png"), _write(tmp_path / "two/a.png")
    with pytest.raises(UsageError, match=r"one/a\.png.*two/a\.png"):
        find_images([one, two])


def test_one_file_named_twice_counts_once(tmp_path: Path) -> None:
    file = _write(tmp_path / "photos/a.png")
    alias = tmp_path / "alias.d/a.png"
    alias.parent.mkdir()
    alias.symlink_to(file)
    assert _keys(find_images([file, file, alias])) == ["a.png"]
    assert _keys(find_images([tmp_path / "photos", tmp_path / "photos"])) == ["photos/a.png"]


def test_listed_files_have_their_path_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here/a.png", "b.png", "there/c.png"):
        _write(tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    listed = [Path("./a.png"), Path("../b.png"), tmp_path / "there" / "c.png"]
    root = tmp_path.as_posix().lstrip("/")
    assert _keys(find_images([], listed=listed)) == sorted(["a.png", f"{root}/b.png", f"{root}/there/c.png"])


def test_a_bad_listed_file_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)
    names = ["a.png", "gone.png", "gone.png", "folder.png", "pipe.png", "a.png/b.png", "x" * 300]
    found = find_images([], listed=[Path(name) for name in names])
    assert _keys(found) == ["a.png"]
    assert {failure.key: failure.reason for failure in found.failures} == {
        "a.png/b.png": "cannot be read (Not a directory)",
        "folder.png": "is a folder",
        "gone.png": "cannot be read (No such file or directory)",
        "pipe.png": "is not a regular file",
        "x" * 300: "cannot be read (File name too long)",
    }


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    found = find_images([tmp_path])  # opening one would wait for a writer
    assert (found.images, found.failures, found.num_ignored) == ((), (), 2)
    assert find_images([tmp_path / "pipe"]).failures == (Failure("pipe", "is not a regular file"),)
    assert find_images([Path("/dev/zero")]).failures == (Failure("zero", "is not a regular file"),)


def test_a_source_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.png")
    for source in (tmp_path / "gone", file / "below"):
        with pytest.raises(UsageError, match="no such file or folder"):
            find_images([tmp_path, source])


def test_a_folder_that_may_not_be_searched_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "a.png")
    _write(tmp_path / "closed/b.png")
    scandir = os.scandir

    def refuse(path: str) -> object:  # the tests may run as root, who is never refused
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_images([tmp_path])
    assert _keys(found) == ["a.png"]
    assert found.failures == (Failure("closed", "cannot be searched (Permission denied)"),)


def test_names_that_are_not_utf_8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \n.png")
    _write(tmp_path / name)
    found = find_images([tmp_path])
    assert _keys(found) == [name]
    assert Path(found.images[0].place).read_bytes() == GIF
    assert read_file_list(io.BytesIO(os.fsencode(tmp_path / name) + b"\0"), nul=True) == [tmp_path / name]


def test_a_list_has_one_path_a_line() -> None:
    stream = io.BytesIO(b"\xef\xbb\xbfa.png\r\n\n  \nb b.png\ncaf\xe9.png\r\n\r\nlast.png")
    assert read_file_list(stream, nul=False) == [
        Path("a.png"),
        Path("b b.png"),
        Path(os.fsdecode(b"caf\xe9.png")),
        Path("last.png"),
    ]
    assert read_file_list(io.BytesIO(b""), nul=False) == []


def test_a_list_with_nul_bytes_keeps_line_breaks_in_names() -> None:
    stream = io.BytesIO(b"a\nb.png\0\0c.png\r\0")
    assert read_file_list(stream, nul=True) == [Path("a\nb.png"), Path("c.png\r")]
    with pytest.raises(UsageError, match="-0"):
        read_file_list(io.BytesIO(b"a.png\0b.png\0"), nul=False)
