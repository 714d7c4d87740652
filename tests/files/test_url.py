"""URLs as places: their names, what is read through them, and what is said of an error."""

import io
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.files.stores import far_file
from semdis_cli.files.url import Url, parse_location, was_url
from tests.extras import needs

DATA = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Url:
    """Folder in a store in memory."""
    needs("fsspec")
    folder = Url(f"memory:/{tmp_path}/[1] a#b")
    (folder / "data.bin").put_bytes(DATA)
    (folder / "inner" / "x.jsonl").put_bytes(b"x")
    return folder


# ---- Names ----


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "://" not in text and "\0" not in text))
def test_what_has_no_scheme_is_a_path(text: str) -> None:
    assert parse_location(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "told", "parts"),
    [
        ("s3://bucket/a/b.tar", "s3://bucket/a/b.tar", ("bucket", "a", "b.tar")),
        ("s3://bucket/a//b/", "s3://bucket/a//b", ("bucket", "a", "b")),
        ("s3://bucket/h?i.png", "s3://bucket/h?i.png", ("bucket", "h?i.png")),
        ("https://me:pw@host/a.png?sig=1#x", "https://host/a.png", ("host", "a.png")),
        ("sftp://me@host/a@b.png", "sftp://host/a@b.png", ("host", "a@b.png")),
    ],
)
def test_a_url_has_names_and_no_secrets(text: str, told: str, parts: tuple[str, ...]) -> None:
    url = parse_location(text)
    assert isinstance(url, Url)
    assert (str(url), url.parts, url.name) == (told, parts, parts[-1])
    assert (str(url / "c"), (url / "c").parent) == (f"{told}/c", url)


def test_a_path_that_was_a_url_is_known() -> None:
    assert [was_url(Path(text)) for text in ("s3://a/b", "hf://x", "s3:/a", "a/s3:/b", "C:/x", "photos", "")] == [
        *(True, True, True),
        *(False, False, False, False),
    ]


def test_the_url_of_a_local_file_is_refused() -> None:
    with pytest.raises(UsageError, match="as it is, without file://"):
        parse_location("FILE:///photos")


# ---- Content ----


def test_a_file_is_read_from_any_place(folder: Url) -> None:
    file = folder / "data.bin"
    assert file.read_bytes() == DATA
    with file.open(buffering=100) as opened:
        assert opened.read(10) == DATA[:10]
        assert (opened.seek(5000), opened.read(7)) == (5000, DATA[5000:5007])
        assert (opened.seek(-3, io.SEEK_END), opened.read(), opened.read()) == (len(DATA) - 3, DATA[-3:], b"")
        assert (opened.seek(len(DATA) + 9), opened.read(1)) == (len(DATA) + 9, b"")
    with file.open(buffering=100) as opened:
        assert b"".join(iter(lambda: opened.read(333), b"")) == DATA


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 64))
def test_a_stretch_is_what_lies_there(start: int, num_bytes: int, buffer_bytes: int) -> None:
    needs("fsspec")
    url = Url("memory://stretches/data")
    url.put_bytes(DATA[:600])
    with url.open_range(url.path, start, num_bytes, is_all=False, buffer_bytes=buffer_bytes) as file:
        assert b"".join(iter(lambda: file.read(17), b"")) == DATA[start : start + num_bytes]
        assert file.seek(0) == 0
        assert file.read() == DATA[start : start + num_bytes]


def test_a_file_that_is_shorter_or_longer_than_was_said_is_an_error(folder: Url) -> None:
    path = (folder / "data.bin").path
    for num_bytes in (len(DATA) - 1, len(DATA) + 1):
        with pytest.raises(OSError, match="other bytes than were asked for"):
            folder.read(path, 0, num_bytes)


def test_a_folder_is_listed_and_asked_about(folder: Url) -> None:
    status = (folder / "data.bin").stat()
    assert stat.S_ISREG(status.st_mode)
    assert status.st_size == len(DATA)
    assert abs(status.st_mtime_ns - datetime.now(UTC).timestamp() * 1e9) < 3600e9
    assert stat.S_ISDIR(folder.stat().st_mode)
    assert sorted(each.name for each in folder.iterdir()) == ["data.bin", "inner"]
    assert [each.name for each in (folder / "inner").glob("*.jsonl")] == ["x.jsonl"]
    assert list((folder / "none").glob("*.jsonl")) == []
    assert [file.path.removeprefix(folder.path) for file in folder.files()] == ["/data.bin", "/inner/x.jsonl"]
    assert list((folder / "none").files()) == []
    none = folder / "none"
    assert (none.exists(), none.is_file(), none.is_dir(), folder.is_dir(), folder.is_file()) == (
        *(False, False, False, True),
        False,
    )


def test_what_is_put_is_there_and_what_is_removed_is_not(folder: Url, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"12345")
    (folder / "new").put(tmp_path / "local")
    assert (folder / "new").read_bytes() == b"12345"
    (folder / "new").unlink()
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        (folder / "new").read_bytes()


# ---- What stores tell ----


@pytest.mark.parametrize(
    "time",
    [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5),  # as some packages give it
        1_767_323_045,
        "2026-01-02T03:04:05Z",
        "Fri, 02 Jan 2026 03:04:05 GMT",
    ],
)
def test_times_are_the_same_however_they_are_given(time: object) -> None:
    assert far_file({"size": 1, "mtime": time}, "x").mtime_ns == 1_767_323_045 * 10**9


@given(st.text(min_size=1), st.text(min_size=1))
def test_tags_are_numbers_that_differ_where_they_do(one: str, other: str) -> None:
    def number(tag: Any) -> int | None:
        return far_file({"size": 1, "ETag": tag}, "x").tag_ns

    assert number(one) == number(one)
    assert (number(one) == number(other)) == (one == other) or {number(one), number(other)} == {None}
    assert number(f'W/"{one}"') is None  # of a web page that may differ in bytes
    assert number(None) is None
    assert all(value is None or (0 < value < 1 << 60 and value % 2) for value in (number(one), number(other)))


def test_a_file_of_no_known_size_is_refused() -> None:
    with pytest.raises(OSError, match="the server does not say how large it is"):
        far_file({"size": None}, "x")
