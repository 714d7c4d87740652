"""Files that have their names at once, and are made safe later."""

import errno
import gc
import os
from pathlib import Path
from threading import Event, Thread

import pytest

from semdis_cli.errors import NoSpaceError, UsageError
from semdis_cli.files import disk_sync
from semdis_cli.files.late import LateFiles
from tests.disks import fill_disk, small_disk
from tests.files.test_disk import names, refusing

Patch = pytest.MonkeyPatch


def test_files_are_whole_at_once_and_safe_when_they_are_settled(tmp_path: Path, syncs: list[str]) -> None:
    (tmp_path / "b").write_bytes(b"old")
    files = LateFiles(tmp_path)
    for name in ("a", "b"):
        files.write(tmp_path / name, name.encode())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"a", "b": b"b"}
    assert "sync" not in syncs
    renames = len(syncs)
    files.settle()
    assert syncs[renames:] in (["sync"], ["sync", "sync", "sync folder"])
    assert renames == 2


def test_nothing_is_synced_twice_or_for_nothing(tmp_path: Path, syncs: list[str]) -> None:
    files = LateFiles(tmp_path)
    files.settle()
    assert syncs == []
    files.write(tmp_path / "a", b"1")
    files.settle()
    synced = len(syncs)
    files.settle()
    assert len(syncs) == synced


@pytest.mark.usefixtures("syncs")
def test_what_was_removed_is_neither_there_nor_waited_for(tmp_path: Path) -> None:
    files = LateFiles(tmp_path)
    for name in ("a", "b"):
        files.write(tmp_path / name, b"1")
    files.remove(tmp_path / "a")
    files.remove(tmp_path / "never there")
    (tmp_path / "b").unlink()  # by somebody else
    files.settle()
    assert names(tmp_path) == []


def test_other_names_are_as_safe_as_what_is_written(tmp_path: Path, syncs: list[str]) -> None:
    (tmp_path / "source").write_bytes(b"1")
    files = LateFiles(tmp_path)
    assert files.link(tmp_path / "source", tmp_path / "a")
    assert not files.link(tmp_path / "missing", tmp_path / "b")
    files.settle()
    assert names(tmp_path) == ["a", "source"]
    assert "sync" in syncs


def test_who_settles_second_waits_for_what_the_first_has_begun(tmp_path: Path, monkeypatch: Patch) -> None:
    begun, may_end, ended = Event(), Event(), []

    def sync(_: int) -> None:
        begun.set()
        may_end.wait(60)

    monkeypatch.setattr(disk_sync, "open_disk", lambda folder: os.open(folder, os.O_RDONLY))
    monkeypatch.setattr(disk_sync, "sync_disk", sync)
    files = LateFiles(tmp_path)
    files.write(tmp_path / "a", b"1")

    def settle(name: str) -> None:
        files.settle()
        ended.append(name)

    first, second = (Thread(target=settle, args=(name,)) for name in ("first", "second"))
    first.start()
    begun.wait(60)
    second.start()
    second.join(0.2)
    assert ended == []
    may_end.set()
    for thread in (first, second):
        thread.join()
    assert ended == ["first", "second"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_could_not_be_synced_is_never_passed_over(
    tmp_path: Path, syncs: list[str], monkeypatch: Patch, number: int
) -> None:
    monkeypatch.setattr(disk_sync, "sync_disk", refusing(number))
    monkeypatch.setattr(os, "fsync", refusing(number))
    files = LateFiles(tmp_path)
    files.write(tmp_path / "a", b"1")
    for _ in range(2):  # nor is it the second time
        with pytest.raises(NoSpaceError if number == errno.ENOSPC else UsageError):
            files.settle()
    assert syncs == ["rename"]


def test_a_disk_on_which_others_write_much_is_not_synced_whole_again(tmp_path: Path, monkeypatch: Patch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(disk_sync, "open_disk", lambda folder: os.open(folder, os.O_RDONLY))
    monkeypatch.setattr(disk_sync, "sync_disk", lambda _: synced.append("disk"))
    monkeypatch.setattr(disk_sync, "LONGEST_SYNC_S", -1.0)
    monkeypatch.setattr(os, "fsync", lambda _: synced.append("one"))
    files = LateFiles(tmp_path)
    for _ in range(3):
        files.write(tmp_path / "a", b"1")
        files.settle()
    assert synced == ["disk", "one", "one", "one", "one"]


def test_what_a_full_disk_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        padding = fill_disk(disk)
        with pytest.raises(NoSpaceError, match="no space left"):
            LateFiles(disk).write(disk / "a", bytes(50_000))
        assert names(disk) == [padding.name]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    gc.collect()  # of what other tests have left
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = LateFiles(tmp_path)
    files.write(tmp_path / "a", b"1")
    files.settle()
    del files
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
