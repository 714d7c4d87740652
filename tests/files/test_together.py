"""Files that are published together: synced once, whole or not at all, on real disks and on those that refuse calls."""

import errno
import os
from pathlib import Path

import pytest

from semdis_cli.errors import NoSpaceError, RefusedNameError, UsageError
from semdis_cli.files import disk_sync
from semdis_cli.files.together import Publisher
from tests.disks import fill_disk, small_disk
from tests.files.test_disk import names, refusing

Patch = pytest.MonkeyPatch


def files(root: Path, *keys: str) -> list[tuple[Path, bytes]]:
    return [(root / key, f"content of {key}".encode()) for key in keys]


def test_all_files_are_whole_and_safe_before_the_first_has_its_name(tmp_path: Path, syncs: list[str]) -> None:
    wanted = files(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_bytes(b"old")
    assert Publisher(tmp_path).publish(wanted) == [None, None, None]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == dict(wanted)
    num_syncs = syncs.index("rename")
    assert syncs == [*["sync"] * num_syncs, *["rename"] * 3, "sync folder"]
    assert num_syncs in {1, 3}


def test_folders_are_made_and_each_is_synced_once(tmp_path: Path, syncs: list[str]) -> None:
    wanted = files(tmp_path, "x/a.png", "y/z/b.png", "x/c.png")
    assert Publisher(tmp_path).publish(wanted) == [None, None, None]
    assert all(path.read_bytes() == data for path, data in wanted)
    assert syncs[-2:] == ["sync folder", "sync folder"]
    assert syncs[-5:-2] == ["rename"] * 3


@pytest.mark.usefixtures("syncs")
def test_no_files_are_published_without_a_sign(tmp_path: Path) -> None:
    assert Publisher(tmp_path).publish([]) == []
    assert names(tmp_path) == []


@pytest.mark.usefixtures("syncs")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENAMETOOLONG, errno.EACCES, errno.ENOENT])
def test_a_name_that_is_refused_costs_its_own_file(tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(number, lambda _, new: ":" in os.fspath(new), getattr(os, call)))
    monkeypatch.setattr(os, "mkdir", refusing(number, lambda path, *_: ":" in os.fspath(path), os.mkdir))
    found = Publisher(tmp_path).publish(files(tmp_path, "a.png", "b:c.png", "d:e/f.png", "g/h.png"))
    assert [type(error) for error in found] == [type(None), RefusedNameError, RefusedNameError, type(None)]
    assert "does not take its name" in str(found[1])
    assert (names(tmp_path), names(tmp_path / "g")) == (["a.png", "g"], ["h.png"])


@pytest.mark.usefixtures("syncs")
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EINVAL, errno.ENOSPC])
def test_a_disk_that_takes_no_name_at_all_is_broken(tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(number))
    with pytest.raises((UsageError, NoSpaceError)) as raised:
        Publisher(tmp_path).publish(files(tmp_path, "a.png", "b.png"))
    assert not isinstance(raised.value, RefusedNameError)
    assert names(tmp_path) == []


@pytest.mark.usefixtures("syncs")
def test_what_is_whole_when_the_disk_is_full_stays_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        wanted = [(disk / f"{number}.png", bytes([number]) * 50_000) for number in range(9)]
        padding = fill_disk(disk)
        os.truncate(padding, padding.stat().st_size - 140_000)
        with pytest.raises(NoSpaceError, match="no space left"):
            Publisher(disk).publish(wanted)
        assert names(disk) == ["0.png", "1.png", "padding"]
        assert all(path.read_bytes() == data for path, data in wanted[:2])
        padding.unlink()
        assert Publisher(disk).publish(wanted[2:4]) == [None, None]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_could_not_be_synced_is_never_passed_over(
    tmp_path: Path, syncs: list[str], monkeypatch: Patch, number: int
) -> None:
    monkeypatch.setattr(disk_sync, "sync_disk", refusing(number))
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(NoSpaceError if number == errno.ENOSPC else UsageError):
        Publisher(tmp_path).publish(files(tmp_path, "a.png", "b.png"))
    assert names(tmp_path) == []
    assert syncs == []


def test_a_disk_on_which_others_write_much_is_not_synced_whole_again(tmp_path: Path, monkeypatch: Patch) -> None:
    opened: list[Path] = []

    def open_disk(folder: Path) -> int:
        opened.append(folder)
        return os.open(folder, os.O_RDONLY)

    monkeypatch.setattr(disk_sync, "open_disk", open_disk)
    monkeypatch.setattr(disk_sync, "sync_disk", lambda _: None)
    publisher = Publisher(tmp_path)
    for name in ("a", "b"):
        publisher.publish(files(tmp_path, name))
    assert len(opened) == 2
    monkeypatch.setattr(disk_sync, "LONGEST_SYNC_S", -1.0)
    for name in ("c", "d", "e"):
        publisher.publish(files(tmp_path, name))
    assert len(opened) == 3
    assert names(tmp_path) == ["a", "b", "c", "d", "e"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    Publisher(tmp_path).publish(files(tmp_path, "a", "x/b", "y/c"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- Syncing a disk -------------------------------------------------------------------------------------------------


def test_a_disk_that_is_synced_as_a_whole_is_a_local_one(tmp_path: Path, monkeypatch: Patch) -> None:
    descriptor = disk_sync.open_disk(tmp_path)
    if descriptor is None:
        pytest.skip("the disk of temporary files is none of those, or the kernel is older")
    disk_sync.sync_disk(descriptor)
    os.close(descriptor)
    monkeypatch.setattr(disk_sync, "_KINDS", frozenset())
    assert disk_sync.open_disk(tmp_path) is None


def test_a_failed_sync_is_an_error(tmp_path: Path) -> None:
    descriptor = disk_sync.open_disk(tmp_path)
    if descriptor is None:
        pytest.skip("the disk of temporary files is none of those, or the kernel is older")
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk_sync.sync_disk(descriptor)


def test_a_disk_in_memory_and_a_folder_that_is_not_there_are_not_synced_as_a_whole(tmp_path: Path) -> None:
    assert disk_sync.open_disk(tmp_path / "missing") is None
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        assert disk_sync.open_disk(disk) is None


@pytest.mark.parametrize("release", ["5.7.19-generic", "4.4.0", "3.10.0-1160.el7.x86_64", "unknown"])
def test_a_kernel_that_does_not_tell_of_failed_writes_is_not_relied_on(
    tmp_path: Path, monkeypatch: Patch, release: str
) -> None:
    status = os.uname()
    changed = os.uname_result((status.sysname, status.nodename, release, status.version, status.machine))
    monkeypatch.setattr(os, "uname", lambda: changed)
    disk_sync._library.cache_clear()
    try:
        assert disk_sync.open_disk(tmp_path) is None
    finally:
        disk_sync._library.cache_clear()
