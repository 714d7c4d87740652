"""Open files that are read at places: the same bytes of a disk and of a store, and by many threads."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.files.handles import FarHandle, close, open_far, pread
from semdis_cli.files.url import Url
from tests.extras import needs

DATA = os.urandom(300_000)  # more than four blocks


@given(st.integers(0, 310_000), st.integers(0, 150_000))
def test_a_place_in_a_store_holds_what_it_holds_on_a_disk(start: int, num_bytes: int) -> None:
    needs("fsspec")
    url = Url("memory://handles/data")
    url.put_bytes(DATA)
    handle = FarHandle(url)
    assert pread(handle, num_bytes, start) == DATA[start : start + num_bytes]
    assert pread(handle, num_bytes, start) == DATA[start : start + num_bytes]  # from what was kept


def test_a_descriptor_is_read_and_closed(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(DATA)
    descriptor = os.open(tmp_path / "data", os.O_RDONLY)
    assert pread(descriptor, 10, 299_995) == DATA[-5:]
    close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_many_threads_read_one_file() -> None:
    needs("fsspec")
    url = Url("memory://handles/shared")
    url.put_bytes(DATA)
    handle = FarHandle(url)
    places = [(start * 1_009 % 300_000, 3_000) for start in range(2_000)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda place: pread(handle, place[1], place[0]), places))
    assert found == [DATA[start : start + num_bytes] for start, num_bytes in places]


def test_a_file_that_was_replaced_is_read_anew_when_it_is_listed_again() -> None:
    needs("fsspec")
    url = Url("memory://handles/replaced")
    url.put_bytes(b"before")
    assert pread(open_far(url, anew=True), 9, 0) == b"before"
    url.put_bytes(b"after")
    assert pread(open_far(url), 9, 0) == b"before"
    assert pread(open_far(url, anew=True), 9, 0) == b"after"
    assert pread(open_far(url), 9, 0) == b"after"


def test_what_cannot_be_read_is_tried_again() -> None:
    needs("fsspec")
    url = Url("memory://handles/gone")
    url.put_bytes(DATA)
    handle = FarHandle(url)
    url.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            pread(handle, 10, 0)
    url.put_bytes(DATA)
    assert pread(handle, 10, 0) == DATA[:10]
