"""Advice where there is nothing to encode, or no latents: what is there, and what to do about it."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.errors import UsageError
from semdis_cli.kinds.recognise import describe
from semdis_cli.pipeline.advice import why_no_latents, why_nothing
from semdis_cli.sources.file_list import read_file_list
from semdis_cli.sources.find import find_images
from semdis_cli.sources.input_rules import InputRules, Pattern

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><body>Too many requests"
HEIC = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
VIDEO = b"\0\0\0\x18ftypisom\0\0\0\0isommp42"


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


FOLDERS: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "tars and zips without images": (
        {"in/0.tar": tar(a=b"1"), "in/1.zip": zipped(b=b"1"), "in/1_stats.json": b"{}"},
        ["no images found in in; passed over: ", "plain text (2 files)", "JSON text"],
    ),
    "empty zips": (
        {"in/a.zip": zipped(), "in/b.zip": zipped(), "in/b.txt": b"a text"},
        ["a zip archive (2 files), plain text; of a zip archive: there is nothing in it"],
    ),
    "compressed tars": (
        {"in/a.tar.bz2": b"BZh91AY"},
        ["the only input cannot be used: a.tar.bz2", "bzcat in/a.tar.bz2 | semdis encode -"],
    ),
    "a few archives among much else": (
        {"in/a.h5": b"\x89HDF\r\n\x1a\n", **{f"in/{n}.txt": b"a caption" for n in range(9)}},
        ["plain text (9 files)", "of an HDF5 file: write its images to files"],
    ),
    "pointers for images": (
        {f"in/{n}.jpg": POINTER for n in range(3)},
        ["none of the 3 inputs", "pointer (3 files)", "git lfs pull"],
    ),
    "pages for images": ({"in/1.jpg": PAGE, "in/2.jpg": PAGE}, ["an HTML page (2 files)", "download it again"]),
    "HEIC": ({"in/IMG_1.HEIC": HEIC}, ["a HEIC picture; convert it"]),
    "HEIC that is called JPEG": ({"in/IMG_1.jpg": HEIC}, ["a HEIC picture", "convert it"]),
    "JPEG XL": ({"in/1.jxl": b"\xff\x0a\0\0"}, ["a JPEG XL picture; convert it"]),
    "videos": ({"in/1.mp4": VIDEO}, ["a video; extract its frames"]),
    "hidden files": ({"in/.a.png": png()}, ["a hidden file"]),
    "what decode wrote": (
        {"in/decode.json": b"{}", "in/a.png": png()},
        ["what semdis decode, roundtrip, eval or train wrote"],
    ),
    "latents": (
        {"in/manifest.json": b"{}", "in/shards/0.safetensors": b""},
        ["in: holds latents, not images; semdis decode in"],
    ),
    "nothing": ({"in/sub/x": b""}, ["an empty file"]),
    "broken headers": ({"in/1.png": png()[:20], "in/2.png": png()[:20]}, ["none of the 2 inputs", "PNG", "(2 files)"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_images_says_what_is_in_it_and_what_to_do(name: str) -> None:
    files, expected = FOLDERS[name]
    write(files)
    reason = why_nothing([Path("in")], find_images([Path("in")]))
    assert reason is not None
    assert [part for part in expected if part not in reason] == []
    assert "\n" not in reason


@pytest.mark.parametrize(("exclude", "include"), [(["*"], []), ([], ["*.PNG"]), (["sub"], ["/sub"])])
def test_patterns_that_leave_nothing_are_named_as_the_reason(exclude: list[str], include: list[str]) -> None:
    write({"in/sub/a.png": png(), "in/sub/b.png": png(), "in/notes.txt": b"none"})
    rules = InputRules(tuple(map(Pattern, exclude)), tuple(map(Pattern, include)))
    reason = why_nothing([Path("in")], find_images([Path("in")], rules=rules))
    assert reason is not None
    assert reason.startswith("no images found in in; passed over: excluded: ")
    assert "--exclude and --include leave nothing" in reason


FILES: dict[str, tuple[bytes, str]] = {
    "images.zip": (zipped(a=b"1"), "no images found in images.zip; passed over: plain text"),
    "a.npz": (zipped(**{"a.npy": b"1"}), "a.npz: a NumPy array"),
    "a.pt": (zipped(**{"archive/data.pkl": b"1"}), "a.pt: a Python pickle"),
    "a.pq": (b"PAR1", "a.pq: a Parquet file, no image that is read: name it as a SOURCE, NAME.parquet"),
    "a.arrow": (b"ARROW1\0\0", "a.arrow: an Arrow file"),
    "a.jpg": (POINTER, "a.jpg: a Git LFS pointer"),
    "a.mp4": (VIDEO, "a.mp4: a video"),
    "shards.tar": (tar(**{"0.tar": tar(a=b"1"), "1.tar": tar(a=b"1")}), "a tar archive (2 files); unpack shards.tar"),
    "texts.tar": (tar(**{"0.txt": b"a caption"}), "no images found in texts.tar; passed over: plain text"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_image_says_what_it_is_and_one_image_beside_it_is_enough(name: str) -> None:
    data, expected = FILES[name]
    write({name: data, "z.png": png()})
    reason = why_nothing([Path(name)], find_images([Path(name)]))
    assert reason is not None
    assert expected in reason
    both = [Path(name), Path("z.png")]
    assert why_nothing(both, find_images(both)) is None


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ('"a.jpg"', "in quotes"),
        ("'a.jpg'", "in quotes"),
        (r"C:\photos\a.jpg", "Windows paths"),
        (r"photos\a.jpg", "Windows paths"),
        ("https://example.org/a.jpg", "URLs: download"),
        ("file:///photos/a.jpg", "file: URLs"),
        ("~/a.jpg", "whole path"),
        ("a.jpg\ta caption", "more than names"),
        ('{"path": "a.jpg"}', "more than names"),
        ("a.jpg", "looked up from where"),
        ("a.jpg  ", "blanks around"),
    ],
)
def test_a_list_that_was_not_written_for_here_says_how_it_differs(line: str, advice: str) -> None:
    found = find_images([], listed=read_file_list(io.BytesIO(line.encode()), nul=False))
    reason = why_nothing([], found)
    assert reason is not None
    assert advice in reason


def test_a_list_of_lines_that_is_given_with_0_says_so() -> None:
    listed = read_file_list(io.BytesIO(b"a.jpg\nb.jpg\n"), nul=True)
    assert "names on lines: leave out -0" in str(why_nothing([], find_images([], listed=listed)))


def test_a_tar_or_zip_in_a_list_of_images_is_to_be_named_as_a_source() -> None:
    assert "name it as a SOURCE, NAME.tar" in str(describe(tar(a=png())))
    assert "name it as a SOURCE, NAME.zip" in str(describe(zipped(a=png())))


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: ("\ufeff" + text).encode("utf-16-be"),
        lambda text: text.encode("utf-8-sig"),
    ],
)
def test_lists_of_windows_shells_are_read(encode: Callable[[str], bytes]) -> None:
    listed = read_file_list(io.BytesIO(encode("photos/a.jpg\r\nb/größe.png\r\n")), nul=False)
    assert listed == [Path("photos/a.jpg"), Path("b/größe.png")]


def test_half_a_character_at_the_end_of_a_list_is_refused_and_zeros_elsewhere_are() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        read_file_list(io.BytesIO("a.jpg\n".encode("utf-16") + b"b"), nul=False)
    with pytest.raises(UsageError, match="give -0"):
        read_file_list(io.BytesIO(b"a.jpg\0b.jpg\0"), nul=False)


def test_what_is_given_for_latents_and_holds_none_is_named() -> None:
    write(
        {
            "photos/a.png": png(),
            "a.npz": zipped(**{"a.npy": b"1"}),
            "set/manifest.json": b"{}",
            "shard": b'\x10\0\0\0\0\0\0\0{"a":1}',
        }
    )
    reasons = {
        name: why_no_latents(Path(name)) for name in ("photos", "photos/a.png", "a.npz", "set", "shard", "nowhere")
    }
    assert {name for name, reason in reasons.items() if reason is None} == {"set", "shard", "nowhere"}
    assert "make latents of them with semdis encode" in (reasons["photos"] or "")
    assert "semdis encode" in (reasons["photos/a.png"] or "")
    assert "a NumPy array, not latents" in (reasons["a.npz"] or "")
