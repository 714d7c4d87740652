"""What befalls shares of a run: machines that hang, others at the same time, files that are damaged or vanish."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Failure
from semdis_cli.files import lock
from semdis_cli.files.json_text import to_line
from semdis_cli.files.lock import held_parts, locked_parts
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.writing import set_share
from semdis_cli.store.writing.attach import SetEditor
from semdis_cli.store.writing.finish_set import finish_by_journal, finish_set
from semdis_cli.store.writing.growth import Growth
from semdis_cli.store.writing.journal import Journal
from semdis_cli.store.writing.journal_file import JournalFile
from semdis_cli.store.writing.outline import proved
from semdis_cli.store.writing.shard_writer import WrittenShard
from tests.accelerated import refuse
from tests.store import KEYS, PROVENANCE, contents, make_plan, write_next, write_set
from tests.store.shares import leave_unfinished, opened, write_share

GROWN = (*KEYS, "f.png", "g.png")
FIRST_SHARD = "shards/00000000-1x2.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "latents"


# --- machines that hang ---------------------------------------------------------------------------------------------


def test_a_part_that_wakes_up_after_writing_a_shard_notes_it_no_more(
    root: Path, finished_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[WrittenShard] = []
    with opened(root, "0/2") as latents:
        with monkeypatch.context() as patched:  # the machine hangs between the two
            patched.setattr(latents, "record", written.append)
            write_next(latents)
        (root / "journal/.semdis-lock-0-of-2").unlink()  # and is thought dead
        write_set(root)
        before = contents(root)
        with pytest.raises(UsageError, match="another semdis run has taken over"):
            latents.record(written[0])
        assert contents(root) == before
    assert contents(root) == contents(finished_set)


def test_an_entry_is_never_the_first_line_of_a_journal(root: Path) -> None:
    with opened(root, "0/2") as latents:
        (root / "journal/0-of-2.jsonl").unlink()
        with pytest.raises(UsageError, match=r"0-of-2.jsonl: cannot be written"):
            write_next(latents)
    assert not (root / "journal/0-of-2.jsonl").exists()


def test_a_finisher_that_wakes_up_does_not_put_old_lists_over_new_ones(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_unfinished(root)
    write = Growth.write

    def hang(growth: Growth, *arguments: Any) -> Manifest:
        manifest = write(growth, *arguments)
        (root / ".semdis-lock").unlink()  # it was thought dead
        return manifest

    monkeypatch.setattr(Growth, "write", hang)
    with pytest.raises(UsageError, match="another semdis run has taken over"):
        finish_by_journal(root)
    assert not (root / "manifest.json").exists()


# --- other machines ------------------------------------------------------------------------------------------------


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and waits of a fraction of a second."""
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "WATCH_S", 0.8)


@contextmanager
def held_elsewhere(path: Path, *, is_alive: bool = True) -> Iterator[None]:
    """A lock that a process on another machine holds; its number rises for as long as that is alive."""
    ended, file = threading.Event(), os.open(path, os.O_RDWR | os.O_CREAT)

    def beat() -> None:
        number = 0
        while True:
            number += 1
            fields = {"machine": "elsewhere 1", "namespace": "n", "process": "7 8", "token": "t", "beat": number}
            os.pwrite(file, json.dumps(fields).encode().ljust(511) + b"\n", 0)
            if not is_alive or ended.wait(0.1):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        while not (path.exists() and path.stat().st_size):
            time.sleep(0.01)
        yield
    finally:
        ended.set()
        thread.join()
        os.close(file)


@pytest.mark.usefixtures("_fast")
def test_parts_on_other_machines_are_waited_for_by_who_has_the_whole_set(root: Path) -> None:
    leave_unfinished(root)
    with held_elsewhere(root / "journal/.semdis-lock-0-of-2"):
        others: list[Callable[[Path], object]] = [
            *(write_set, finish_by_journal),
            lambda root: SetEditor(root).__enter__(),
        ]
        for begin in others:
            with pytest.raises(UsageError, match=r"other semdis runs are writing there \(--part 0/2\)"):
                begin(root)
        assert write_share(root, "1/2") is None
        with pytest.raises(UsageError, match=r"another semdis run is writing there \(--part 0/2\)"):
            write_share(root, "0/2")


@pytest.mark.usefixtures("_fast")
def test_a_whole_run_on_another_machine_is_waited_for_by_parts(root: Path) -> None:
    write_share(root, "0/2")
    with held_elsewhere(root / ".semdis-lock"), pytest.raises(UsageError, match="another semdis run is writing there"):
        write_share(root, "1/2")


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("finish", [write_set, finish_by_journal])
def test_a_part_that_died_on_another_machine_is_not_waited_for(
    root: Path, finished_set: Path, finish: Callable[[Path], object]
) -> None:
    leave_unfinished(root)
    with held_elsewhere(root / "journal/.semdis-lock-0-of-2", is_alive=False):
        finish(root)
    assert contents(root) == contents(finished_set)


# --- others at the same time ----------------------------------------------------------------------------------------


def test_nothing_is_attached_while_parts_add_to_a_set(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    with opened(root, "0/2", make_plan(GROWN)):
        half_written = root / "shards/.0123456789abcdef.semdis-tmp"
        half_written.write_bytes(b"half a shard")
        before = contents(root)
        with pytest.raises(UsageError, match=r"other semdis runs are writing there \(--part 0/2\)"):
            SetEditor(root).__enter__()
        assert contents(root) == before


def test_a_part_that_is_run_again_is_waited_for_by_who_would_finish(root: Path, finished_set: Path) -> None:
    leave_unfinished(root)
    with opened(root, "0/2") as again:
        assert write_share(root, "1/2") is None
        with pytest.raises(UsageError, match=r"--part 0/2"):
            finish_by_journal(root)
        assert again.finish() is not None
    assert contents(root) == contents(finished_set)


def test_a_part_that_is_run_again_and_killed_is_not_waited_for(root: Path, finished_set: Path) -> None:
    leave_unfinished(root)
    path = root / "journal/.semdis-lock-0-of-2"
    with opened(root, "0/2"):
        held = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**held, "process": "1 8"}).encode())
    assert write_share(root, "1/2") is not None
    assert contents(root) == contents(finished_set)


def test_a_part_that_lost_a_shard_is_not_done_until_it_is_written_again(root: Path, finished_set: Path) -> None:
    write_share(root, "0/2")
    (root / FIRST_SHARD).unlink()
    with opened(root, "0/2"):
        pass
    assert write_share(root, "1/2") is None  # and does not say that shards are missing
    assert write_share(root, "0/2") is not None
    assert contents(root) == contents(finished_set)


def test_who_comes_second_to_finishing_finds_it_done_also_where_nothing_came_of_the_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(latents: set_share.SetShareWriter) -> None:
        while latents.remaining:
            planned = latents.remaining[0]
            rows = latents.open_shard(planned)
            for image in planned.images:
                rows.add_failure(Failure(image.source.key, "the disk did not answer"))
            latents.publish(rows.finish())

    def write_both() -> list[Manifest | None]:
        finished = []
        for share in ("0/2", "1/2"):
            with opened(root, share, make_plan(("a.png", "e.png"), shard_images=1)) as latents:
                assert len(latents.remaining) == 1
                write(latents)
                finished.append(latents.finish())
        return finished

    made = write_both()[1]
    before = contents(root)

    def come_second(*arguments: Any) -> Manifest:
        finish_set(*arguments)
        return finish_set(*arguments)

    monkeypatch.setattr(set_share, "finish_set", come_second)
    assert write_both() == [None, made]
    assert contents(root) == before


# --- another plan ---------------------------------------------------------------------------------------------------


def test_a_part_that_is_done_and_refused_with_other_settings_loses_nothing(root: Path, finished_set: Path) -> None:
    write_share(root, "0/2")
    before = contents(root)
    for plan in (make_plan(dtype="float32"), make_plan(KEYS[:5])):
        with pytest.raises(UsageError, match="by another part or run"):
            write_share(root, "0/2", plan)
        assert contents(root) == before
    assert write_share(root, "1/2") is not None
    assert contents(root) == contents(finished_set)


def test_a_set_is_not_finished_for_one_part_while_another_has_added_to_it(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    write_share(root, "0/2", make_plan(GROWN, shard_images=1))
    before = contents(root)
    with pytest.raises(UsageError, match="other inputs"):
        write_share(root, "0/2")
    with pytest.raises(UsageError, match="other inputs"):
        write_share(root, "1/2")
    assert contents(root) == before


# --- what is left of a journal --------------------------------------------------------------------------------------

LEFT = ("outline", "0-of-2.done", "1-of-2.report.json", "1-of-2.jsonl", "0.jsonl")


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("finish", [finish_by_journal, lambda root: write_share(root, "2/3"), write_set])
def test_what_is_left_of_the_journal_of_a_finished_set_is_removed(
    root: Path, finished_set: Path, name: str, finish: Callable[[Path], object]
) -> None:
    shutil.copytree(finished_set, root)
    plan = {"provenance": PROVENANCE, "plan_sha256": Manifest.read(root).plan_sha256, "base": None}
    (root / "journal").mkdir()
    JournalFile(root / "journal" / name, str).begin(plan)
    finish(root)
    assert contents(root) == contents(finished_set)


@pytest.mark.parametrize("is_written", [True, False])
def test_the_lock_of_a_dead_part_does_not_stay_with_a_finished_set(
    root: Path, finished_set: Path, *, is_written: bool
) -> None:
    shutil.copytree(finished_set, root)
    with opened(root, "0/2"), opened(root, "1/2"):
        held = json.loads((root / "journal/.semdis-lock-0-of-2").read_bytes())
    (root / "journal").mkdir(exist_ok=True)
    dead = json.dumps({**held, "process": "1 8"}).encode() if is_written else b""
    (root / "journal/.semdis-lock-1-of-2").write_bytes(dead)
    with opened(root, "0/2"):
        assert write_share(root, "2/3") is not None  # one that is at work keeps its own
        assert list(locked_parts(root / "journal")) == ["0-of-2"]
    assert contents(root) == contents(finished_set)


def test_a_plan_for_runs_to_come_stays_with_a_finished_set(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    (root / "journal").mkdir()
    (root / "journal/plan").write_bytes(b"a plan")
    before = contents(root)
    assert finish_by_journal(root) == Manifest.read(root)
    assert contents(root) == before


def test_a_temporary_file_beside_a_finished_set_is_swept_by_a_part(root: Path, finished_set: Path) -> None:
    shutil.copytree(finished_set, root)
    (root / ".0123456789abcdef.semdis-tmp").write_bytes(b"half a report")
    assert write_share(root, "2/3") is not None
    assert contents(root) == contents(finished_set)


# --- files that are damaged, or vanish ------------------------------------------------------------------------------


def test_a_journal_that_vanishes_while_others_look_has_no_entries(tmp_path: Path) -> None:
    assert JournalFile(tmp_path / "0-of-2.jsonl", str).read_whole_lines() == {}


class Growing:
    """A journal that gets the rest of its last line between two calls, as where another process is adding to it."""

    def __init__(self, file: BinaryIO, cut: int) -> None:
        self._file, self._cut = file, cut

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> "Growing":
        return self

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    def readline(self) -> bytes:
        start = self._file.tell()
        return self._file.readline(self._cut - start if start < self._cut else -1)


def test_a_line_that_grows_while_it_is_read_is_none_yet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_share(root, "0/2")
    path = root / "journal/0-of-2.jsonl"
    plan, first, second = path.read_bytes().splitlines(keepends=True)
    journal, path_open = JournalFile(path, str), Path.open

    def opened_at(cut: int) -> Callable[..., Growing]:
        return lambda *_: Growing(path_open(path, "rb"), cut)

    for cut in (len(plan) + len(first) + 1, len(plan) + len(first) + len(second) - 1):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", opened_at(cut))
            assert list(journal.read_whole_lines()) == [len(plan)]
    assert len(journal.read_whole_lines()) == 2


def test_a_damaged_journal_of_a_part_costs_that_part_alone(root: Path, finished_set: Path) -> None:
    leave_unfinished(root)
    path = root / "journal/0-of-2.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"row":0', b'"row":1', 1))
    for finish in (finish_by_journal, write_set):
        with pytest.raises(StoreError, match=r"0-of-2.jsonl: .*delete .*0-of-2.jsonl, and run .* --part 0/2 again"):
            finish(root)
    path.unlink()
    write_share(root, "0/2")
    assert write_share(root, "1/2") is not None
    assert contents(root) == contents(finished_set)


LIES: dict[str, Callable[[list[Any]], object]] = {
    "more inputs": lambda lines: lines[0].update(num_inputs=99),
    "a shard twice": lambda lines: lines.insert(1, lines[1]),
    "fewer images in a shard": lambda lines: lines[1].__setitem__(2, 1),
    "a failure that an image is": lambda lines: lines.append(["failure", "a.png", "is none", None, None, None]),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_outline_of_something_else_is_refused(root: Path, finished_set: Path, lie: str) -> None:
    leave_unfinished(root)
    path = root / "journal/outline"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[:-1]]
    LIES[lie](lines)
    write_outline(path, lines)
    with pytest.raises(StoreError, match=r"has other shards than are planned|rows in no order: 'a.png'"):
        finish_by_journal(root)
    assert not (root / "manifest.json").exists()
    path.unlink()
    write_share(root, "0/2")
    assert write_share(root, "1/2") is not None
    assert contents(root) == contents(finished_set)


def write_outline(path: Path, lines: list[Any]) -> None:
    """Write an outline that holds what it should not, with the right sha256."""
    path.write_bytes(b"".join(proved(map(to_line, lines))))


def test_a_share_that_could_not_begin_leaves_nothing_in_the_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "begin", refuse)
        with pytest.raises(OSError, match="No space left"):
            write_share(root, "0/2")
    write_share(root, "0/2")
    write_share(root, "1/2")
    assert (root / "manifest.json").is_file()


def test_pipes_in_the_place_of_files_are_not_waited_for(root: Path) -> None:
    write_share(root, "0/2")
    os.mkfifo(root / "journal/.semdis-lock-1-of-2")
    assert locked_parts(root / "journal") == {"1-of-2": ""}
    assert held_parts(root / "journal") == []
    os.mkfifo(root / "journal/1-of-2.jsonl")
    with pytest.raises(UsageError, match="holds other files"):
        finish_by_journal(root)
