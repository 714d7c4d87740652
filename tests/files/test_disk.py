"""Refused system calls and what each means; tests/cli/test_disks.py has the same with real commands."""

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semdis_cli.errors import NoSpaceError, RefusedNameError, UsageError
from semdis_cli.files import disk
from semdis_cli.files.atomic import check_free_space, make_folder, move, publish, publish_below, sweep_temporaries

Patch = pytest.MonkeyPatch


def refusing(
    number: int, applies: Callable[..., bool] = lambda *_: True, call: Callable[..., Any] | None = None
) -> Any:
    """A system call that is refused with `number` where it `applies`."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        if applies(*arguments):
            raise OSError(number, os.strerror(number))
        assert call is not None
        return call(*arguments, **options)

    return refuse


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Syncing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.ENOTTY, errno.EPERM])
def test_what_cannot_be_synced_is_written_all_the_same(tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    make_folder(tmp_path / "new" / "folder")
    assert publish(tmp_path / "new" / "folder" / "file", [b"whole"]).num_bytes == 5
    assert names(tmp_path / "new" / "folder") == ["file"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EISDIR, errno.EBADF])
def test_a_folder_that_cannot_be_opened_is_not_synced(tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    monkeypatch.setattr(os, "open", refusing(number, lambda path, *_: Path(path) == tmp_path, os.open))
    publish(tmp_path / "file", [b"whole"])
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOSPC])
def test_a_file_that_failed_to_be_synced_is_never_passed_over(tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(NoSpaceError if number == errno.ENOSPC else UsageError):
        publish(tmp_path / "file", [b"whole"])
    assert names(tmp_path) == []


def test_a_folder_that_failed_to_be_synced_is_never_passed_over(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        os, "fsync", refusing(errno.EIO, lambda number: Path(f"/proc/self/fd/{number}").is_dir(), os.fsync)
    )
    with pytest.raises(UsageError, match="Input/output error"):
        publish(tmp_path / "file", [b"whole"])


# --- Replacing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EPERM, errno.EEXIST, errno.EACCES])
def test_a_disk_that_replaces_no_file_has_the_new_one_in_two_steps(
    tmp_path: Path, monkeypatch: Patch, number: int
) -> None:
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(number, lambda _, new: os.path.lexists(new), getattr(os, call)))
    for content in (b"old", b"new"):
        publish(tmp_path / "file", [content])
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_neither_replaces_nor_removes_has_the_new_file_and_the_old_one_beside_it(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(errno.EPERM, lambda _, new: os.path.lexists(new), getattr(os, call)))
    monkeypatch.setattr(os, "unlink", refusing(errno.EPERM))
    for content in (b"old", b"new"):
        publish(tmp_path / "file", [content])
    assert (tmp_path / "file").read_bytes() == b"new"
    [aside] = [name for name in names(tmp_path) if name != "file"]
    assert (tmp_path / aside).read_bytes() == b"old"


def test_the_old_file_is_back_if_the_new_one_cannot_have_its_place(tmp_path: Path, monkeypatch: Patch) -> None:
    publish(tmp_path / "file", [b"old"])
    is_new = lambda old, new: Path(new).name == "file" and Path(old).read_bytes() == b"new"  # noqa: E731
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(errno.EPERM, is_new, getattr(os, call)))
    with pytest.raises(UsageError, match="not permitted"):
        publish(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_file_is_copied_where_its_new_folder_is_another_disk_underneath(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "journal").mkdir()
    for folder, content in ((tmp_path, b"old"), (tmp_path / "journal", b"new")):
        publish(folder / "file", [content])
    is_across = lambda old, new: Path(old).parent != Path(new).parent  # noqa: E731
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(errno.EXDEV, is_across, getattr(os, call)))
    move(tmp_path / "journal" / "file", tmp_path)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path / "journal") == []


def test_temporary_files_that_stay_stop_nobody(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / ".0123456789abcdef.semdis-tmp").touch()
    monkeypatch.setattr(os, "unlink", refusing(errno.EPERM))
    sweep_temporaries(tmp_path)
    assert len(names(tmp_path)) == 1
    sweep_temporaries(tmp_path / "missing")


# --- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.EPERM, errno.EACCES, errno.ENOENT, errno.EBADMSG]
)
def test_a_name_that_is_refused_where_others_are_taken_is_told_from_a_broken_disk(
    tmp_path: Path, monkeypatch: Patch, number: int
) -> None:
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(number, lambda _, new: ":" in os.fspath(new), getattr(os, call)))
    monkeypatch.setattr(os, "mkdir", refusing(number, lambda path, *_: ":" in os.fspath(path), os.mkdir))
    for name in ("a:b.png", "a:b/c.png"):
        with pytest.raises(RefusedNameError, match="does not take its name"):
            publish_below(tmp_path, tmp_path / name, [b"x"])
    publish_below(tmp_path, tmp_path / "fine" / "c.png", [b"x"])
    assert names(tmp_path) == ["fine"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOTCONN, errno.ESTALE, errno.EINVAL, errno.ENOSPC])
def test_a_disk_that_takes_no_name_at_all_is_broken(tmp_path: Path, monkeypatch: Patch, number: int) -> None:
    for call in ("rename", "replace"):
        monkeypatch.setattr(os, call, refusing(number))
    with pytest.raises((UsageError, NoSpaceError)) as raised:
        publish_below(tmp_path, tmp_path / "a.png", [b"x"])
    assert not isinstance(raised.value, RefusedNameError)
    assert names(tmp_path) == []


# --- Room -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"f_blocks": 0, "f_bavail": 0, "f_frsize": 4096},
        {"f_blocks": 10**9, "f_bavail": 0, "f_frsize": 0, "f_bsize": 0},
        {"f_blocks": 1, "f_bavail": 0, "f_frsize": 512},
        {"f_blocks": 100, "f_bavail": 2**64 - 5, "f_frsize": 4096},
        {"f_blocks": 10**9, "f_bavail": -3, "f_frsize": 4096},
        errno.ENOSYS,
        errno.EACCES,
    ],
)
def test_a_disk_that_does_not_know_its_room_may_have_enough(
    tmp_path: Path, monkeypatch: Patch, answer: dict[str, int] | int
) -> None:
    status = SimpleNamespace(**{"f_bsize": 4096, **answer}) if isinstance(answer, dict) else None
    monkeypatch.setattr(os, "statvfs", refusing(answer) if isinstance(answer, int) else lambda _: status)
    check_free_space(tmp_path, 1 << 60)


def test_a_disk_that_is_full_says_so_and_block_sizes_have_two_places(tmp_path: Path, monkeypatch: Patch) -> None:
    status = SimpleNamespace(f_blocks=1000, f_bavail=0, f_frsize=0, f_bsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    with pytest.raises(NoSpaceError, match=r"0\.0 KiB free"):
        check_free_space(tmp_path, 1)


# --- Opening --------------------------------------------------------------------------------------------------------


def test_a_link_is_refused_also_where_the_system_cannot_do_that(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("file")
    monkeypatch.setattr(os, "open", refusing(errno.EINVAL, lambda _, flags, *__: flags & os.O_NOFOLLOW, os.open))
    os.close(disk.open_no_link(tmp_path / "file", os.O_RDWR))
    with pytest.raises(OSError, match="symbolic links"):
        disk.open_no_link(tmp_path / "link", os.O_RDWR)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EAGAIN, errno.ESTALE])
def test_a_file_that_does_not_open_at_once_is_waited_for_but_no_pipe(
    tmp_path: Path, monkeypatch: Patch, number: int
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os, "open", refusing(number, lambda _, flags, *__: flags & os.O_NONBLOCK, os.open))
    with os.fdopen(disk.open_at_once(tmp_path / "file"), "rb") as file:
        assert file.read() == b"content"
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.open_at_once(tmp_path / "pipe")


def test_a_file_that_knows_no_appending_is_added_to_at_its_end(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "file").write_bytes(b"one ")
    real = Path.open
    refused = refusing(errno.ENOTSUP, lambda _, mode="r", *__: "a" in mode, real)
    monkeypatch.setattr(Path, "open", lambda self, mode="r", *rest, **options: refused(self, mode, *rest, **options))
    with disk.open_to_append(tmp_path / "file") as file:
        file.write(b"two")
    assert (tmp_path / "file").read_bytes() == b"one two"


# --- Files without a name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
def test_without_files_in_memory_a_buffer_will_do(monkeypatch: Patch, number: int) -> None:
    with disk.memory_file() as file:
        file.write(b"x")
    monkeypatch.setattr(os, "memfd_create", refusing(number), raising=False)
    assert isinstance(disk.memory_file(), io.BytesIO)


def test_a_file_that_cannot_lose_its_name_while_it_is_open_is_gone_when_it_is_closed(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", refusing(errno.EBUSY))
    with disk.unnamed_file(tmp_path) as file:
        file.write(b"content")
        file.seek(0)
        assert file.read() == b"content"
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == []


def test_a_spool_has_a_name_where_no_other_way_leads_to_it_and_memory_where_no_folder_is(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    for folder in (None, tmp_path):
        spool = disk.spool_file(folder)
        spool.file.write(b"content")
        assert spool.path.read_bytes() == b"content"
        assert names(tmp_path) == []
        spool.file.close()
    monkeypatch.setattr(os, "open", refusing(errno.ENOENT, lambda path, *_: "/fd/" in os.fspath(path), os.open))
    spool = disk.spool_file(tmp_path)
    spool.file.write(b"content")
    assert spool.path.read_bytes() == b"content"
    sweep_temporaries(tmp_path)
    assert spool.path.exists()
    spool.file.close()
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="set TMPDIR"):
        disk.spool_file(None)


def test_cores_are_counted_where_the_system_does_not_say_which_are_ours(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", refusing(errno.ENOSYS), raising=False)
    assert disk.count_cores() == (os.cpu_count() or 1)
