"""Files appear whole or not at all: on real file systems, full and read-only ones too."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from semdis_cli.errors import NoSpaceError, StoreError, UsageError
from semdis_cli.files.atomic import (
    PendingFile,
    check_free_space,
    digest_file,
    explain_write_error,
    is_temporary,
    make_folder,
    publish,
    sweep_temporaries,
)
from semdis_cli.records import FileDigest
from tests.disks import fill_disk, small_disk

PROJECT = Path(__file__).parents[2]
NOBODY = 65534


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def without_privileges() -> Iterator[None]:
    """Permission bits bind, even where the tests run as root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def broken_off(*chunks: bytes) -> Iterator[bytes]:
    """The chunks, and then what makes them cannot go on."""
    yield from chunks
    raise RuntimeError("broken off")


# --- what appears ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"one"], id="one chunk"),
        pytest.param([b"one", b"", memoryview(b"two"), bytes(300_000)], id="many chunks"),
    ],
)
def test_a_file_holds_its_chunks_and_size_and_sha256_are_those_of_the_file(
    tmp_path: Path, chunks: list[bytes | memoryview]
) -> None:
    published = publish(tmp_path / "file", iter(chunks))
    data = (tmp_path / "file").read_bytes()
    assert data == b"".join(chunks)
    assert published == FileDigest(len(data), hashlib.sha256(data).hexdigest())
    assert digest_file(tmp_path / "file") == published
    assert names(tmp_path) == ["file"]


def test_the_size_of_a_view_of_wide_items_is_in_bytes(tmp_path: Path) -> None:
    published = publish(tmp_path / "file", [memoryview(bytes(16)).cast("I")])
    assert (tmp_path / "file").stat().st_size == 16
    assert published.num_bytes == 16


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_the_mode_follows_the_umask_even_when_a_file_is_replaced(tmp_path: Path, mask: int, mode: int) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o640)
    with umask(mask):
        publish(tmp_path / "new", [b"new"])
        publish(tmp_path / "old", [b"new"])
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode
    assert (tmp_path / "old").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a b.png", id="space"),
        pytest.param("two\nlines", id="newline"),
        pytest.param(os.fsdecode(b"latin-\xe9"), id="not UTF-8"),
        pytest.param("x" * 255, id="longest name that a file can have"),
    ],
)
def test_any_name_that_a_file_can_have_can_be_published(tmp_path: Path, name: str) -> None:
    publish(tmp_path / name, [b"data"])
    assert names(tmp_path) == [name]


def test_a_file_that_is_pending_appears_when_it_is_published_and_never_otherwise(tmp_path: Path) -> None:
    for name in ("published", "dropped"):
        pending = PendingFile(tmp_path / name)
        pending.write(b"one ")
        pending.write(memoryview(b"two"))
        assert name not in names(tmp_path)
        if name == "published":
            assert pending.publish() == FileDigest(7, hashlib.sha256(b"one two").hexdigest())
        pending.discard()
    assert names(tmp_path) == ["published"]
    assert (tmp_path / "published").read_bytes() == b"one two"


def test_while_it_is_written_there_is_only_a_temporary_file(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def chunks() -> Iterator[bytes]:
        yield b"first"
        seen.append(names(tmp_path))
        yield b"second"

    publish(tmp_path / "file", chunks())
    assert len(seen) == 1
    assert len(seen[0]) == 1
    assert is_temporary(seen[0][0])


def test_what_a_killed_writer_with_the_same_process_id_left_is_not_in_the_way(tmp_path: Path) -> None:
    # In a container, the same command has the same process id every time.
    left: list[str] = []

    def chunks() -> Iterator[bytes]:
        left.extend(names(tmp_path))
        yield b"first"

    publish(tmp_path / "file", chunks())
    (tmp_path / left[0]).write_bytes(b"half a fi")
    publish(tmp_path / "file", [b"second"])
    assert (tmp_path / "file").read_bytes() == b"second"


def test_a_reader_of_the_old_file_keeps_all_of_it_and_other_links_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old" * 1000)
    (tmp_path / "link").hardlink_to(tmp_path / "file")
    with (tmp_path / "file").open("rb") as reader:
        publish(tmp_path / "file", [b"new"])
        assert reader.read() == b"old" * 1000
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "link").read_bytes() == b"old" * 1000


def test_a_symbolic_link_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    publish(tmp_path / "file", [b"new"])
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


# --- what does not --------------------------------------------------------------------------------------------------


def test_nothing_is_left_when_the_data_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken off"):
        publish(tmp_path / "file", broken_off(b"a", bytes(100_000)))
    assert names(tmp_path) == []


def test_the_old_file_stays_when_the_new_data_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="broken off"):
        publish(tmp_path / "file", broken_off(b"new"))
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_path_below_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"file/below: cannot be written \(Not a directory\)"):
        publish(tmp_path / "file" / "below", [b"data"])
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing/file: cannot be written \(No such file or directory\)"):
        publish(tmp_path / "missing" / "file", [b"data"])


def test_a_folder_in_the_place_of_the_file_is_explained_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(Is a directory\)"):
        publish(tmp_path / "file", [b"data"])
    assert names(tmp_path) == ["file"]
    assert names(tmp_path / "file") == ["inside"]


@pytest.mark.parametrize(
    "mode", [pytest.param(0o555, id="not to be written"), pytest.param(0o444, id="not to be entered")]
)
def test_a_folder_without_permission_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.chdir(tmp_path)  # the folders above may be closed to others
    tmp_path.chmod(0o755)
    Path("locked").mkdir(mode)
    with without_privileges(), pytest.raises(UsageError, match=r"locked/file: cannot be written \(Permission denied\)"):
        publish(Path("locked/file"), [b"data"])
    assert names(Path("locked")) == []


def test_a_read_only_disk_is_explained(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k,ro") as disk:
        with pytest.raises(UsageError, match=r"file: cannot be written \(Read-only file system\)"):
            publish(disk / "file", [b"data"])
        with pytest.raises(UsageError, match=r"folder: cannot be written \(Read-only file system\)"):
            make_folder(disk / "folder")


@pytest.mark.parametrize("num_bytes", [8_000, 200_000, 2_000_000])
def test_on_a_full_disk_nothing_is_left_and_the_error_says_how_to_go_on(tmp_path: Path, num_bytes: int) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        (disk / "file").write_bytes(b"old")
        padding = fill_disk(disk)
        with pytest.raises(NoSpaceError, match=r"file: no space left.*run the same command again"):
            publish(disk / "file", [bytes(num_bytes)])
        assert (disk / "file").read_bytes() == b"old"
        assert names(disk) == ["file", "padding"]
        padding.unlink()
        publish(disk / "file", [b"new"])
        assert (disk / "file").read_bytes() == b"new"


def test_a_disk_without_room_for_one_more_name_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k,nr_inodes=2") as disk:
        publish(disk / "file", [b"data"])
        with pytest.raises(NoSpaceError, match="no space left"):
            publish(disk / "another", [b"data"])
        with pytest.raises(NoSpaceError, match="no space left"):
            make_folder(disk / "folder")
        assert names(disk) == ["file"]


def test_a_limit_on_file_sizes_is_explained(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from semdis_cli.files.atomic import publish
from semdis_cli.errors import UsageError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    publish(Path(sys.argv[1]), [bytes(200_000)])
except UsageError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, os.fspath(tmp_path / "file")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("file: cannot be written (File too large)\n"), done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_used_up_quota_are_lack_of_space(number: int) -> None:
    explained = explain_write_error(Path("file"), OSError(number, os.strerror(number)))
    assert isinstance(explained, NoSpaceError)


def test_an_error_without_a_number_keeps_its_words() -> None:
    explained = explain_write_error(Path("file"), OSError("something odd"))
    assert isinstance(explained, UsageError)
    assert str(explained) == "file: cannot be written (something odd)"


# --- sweeping, folders, space ---------------------------------------------------------------------------------------


def test_sweeping_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from semdis_cli.files.atomic import publish
def chunks():
    yield b"data"
    os.kill(os.getpid(), signal.SIGKILL)
publish(Path(sys.argv[1]), chunks())
"""
    others = [".hidden", "file", "file.semdis-tmp", ".file.tmp", ".semdis-tmp.png", "folder"]
    for name in others[:-1]:
        (tmp_path / name).write_bytes(b"precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".x.1.semdis-tmp").touch()
    subprocess.run([sys.executable, "-c", script, os.fspath(tmp_path / "file")], cwd=PROJECT, check=False)
    left = set(names(tmp_path)) - set(others)
    assert len(left) == 1
    assert is_temporary(*left)

    sweep_temporaries(tmp_path)

    assert names(tmp_path) == sorted(others)
    assert all((tmp_path / name).read_bytes() == b"precious" for name in others[:-1])
    assert names(tmp_path / "folder") == [".x.1.semdis-tmp"]


def test_a_folder_is_made_with_its_parents_and_may_be_there_already(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_in_the_place_of_a_file_or_below_one_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be written"):
            make_folder(folder)


def test_what_does_not_fit_on_the_disk_is_refused_with_both_figures(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        check_free_space(disk, 8 * 2**20)
        with pytest.raises(NoSpaceError, match=r"needs 12\.0 MiB, but the disk has 8\.0 MiB free"):
            check_free_space(disk, 12 * 2**20)


def test_size_and_sha256_of_what_is_no_file_are_a_store_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(StoreError, match="cannot be read"):
            digest_file(path)
