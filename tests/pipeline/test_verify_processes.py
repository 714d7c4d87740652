"""Shards and lists that several processes look at: the problems of one, in the same order, whatever happens to them."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Event, Planning, Problem, ProcessDied, ShardVerified, VerifyFinished
from semdis_cli.files.atomic import digest_file
from semdis_cli.files.url import parse_location
from semdis_cli.pipeline.fleet import fleet
from semdis_cli.pipeline.fleet.verify_job import helpers_by
from semdis_cli.pipeline.verify import verify
from semdis_cli.settings import ProcessSettings
from semdis_cli.store.set_index import IndexPiece, digest_pieces
from semdis_cli.store.verifying.verify import ALL_DATA, NO_DATA, Sample, VerifySettings
from semdis_cli.store.writing import index_writer
from tests.accelerated import children_of
from tests.cli.conftest import semdis
from tests.forks import FRESH, PROJECT
from tests.store import edit_manifest, flip_last_bit, make_plan, write_set, write_some

NUM_IMAGES, SHARD_IMAGES = 40, 3
TWO = ProcessSettings(num_processes=2)
KEYS = tuple(f"{number:02d}{'bad' if number == 17 else ''}.png" for number in range(NUM_IMAGES))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "latents"
    write_set(root, make_plan(KEYS, SHARD_IMAGES))
    return root


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A set in which data, a header and the index are damaged, and a shard is missing."""
    root = shutil.copytree(whole, tmp_path / "damaged")
    shards = sorted((root / "shards").iterdir())
    for number in (2, 9, 11):
        flip_last_bit(shards[number])
    shards[5].write_bytes(shards[5].read_bytes()[:100])
    shards[7].unlink()
    lines = (root / "index.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"num_bytes":', b'"num_bytes":7')
    (root / "index.jsonl").write_bytes(b"".join(lines))
    edit_manifest(root, lambda fields: fields["index"].update(asdict(digest_file(root / "index.jsonl"))))
    return root


def look(root: Path, sample: Sample, processes: ProcessSettings, num_workers: int = 2) -> list[Event]:
    return list(verify(root, VerifySettings(sample, num_workers), helpers=helpers_by(processes, num_workers, root)))


def kinds(events: list[Event]) -> set[str]:
    return {event.kind for event in events if isinstance(event, Problem)}


def told(events: list[Event]) -> list[Event]:
    """All that a run tells, but for its seconds, and what is done meanwhile."""
    finished = [event.report for event in events if isinstance(event, VerifyFinished)]
    for report in finished:
        del report["elapsed_s"]
    return [event for event in events if not isinstance(event, Planning)]


@pytest.mark.parametrize("sample", [NO_DATA, ALL_DATA, Sample(count=4)], ids=["headers", "data", "sample"])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_find_what_threads_find(whole: Path, damaged: Path, sample: Sample, processes: int) -> None:
    shared = ProcessSettings(num_processes=processes)
    for root in (whole, damaged):
        alone = told(look(root, sample, ProcessSettings()))
        assert told(look(root, sample, shared)) == alone
        assert ("rows" in kinds(alone)) == ("missing" in kinds(alone)) == (root == damaged)
        assert ("data" in kinds(alone)) == (root == damaged and sample != NO_DATA)
        assert sum(isinstance(event, ShardVerified) for event in alone) >= 12


def swap_pieces(root: Path) -> None:
    """Exchange two files of the index, for which the manifest vouches."""
    first, second = (root / "index" / f"0000000{number}.jsonl" for number in (1, 2))
    first.rename(root / "other")
    second.rename(first)
    (root / "other").rename(second)

    def change(fields: dict[str, Any]) -> None:
        pieces = fields["index"]["pieces"]
        for number, path in ((1, first), (2, second)):
            pieces[number] |= asdict(digest_file(path))
        fields["index"] |= asdict(digest_pieces(map(IndexPiece.from_json, pieces)))

    edit_manifest(root, change)


def drop_a_piece(root: Path) -> None:
    (root / "index" / "00000002.jsonl").unlink()


def break_a_line(root: Path) -> None:
    path = root / "index" / "00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"key"', b'"kay"', 1))


@pytest.mark.parametrize("damage", [None, swap_pieces, drop_a_piece, break_a_line])
def test_processes_read_the_pieces_of_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None] | None
) -> None:
    monkeypatch.setattr(index_writer, "PIECE_ROWS", 3)
    write_set(tmp_path / "set")
    if damage is not None:
        damage(tmp_path / "set")
    alone = told(look(tmp_path / "set", ALL_DATA, ProcessSettings()))
    assert told(look(tmp_path / "set", ALL_DATA, ProcessSettings(num_processes=2))) == alone
    assert ("index" in kinds(alone)) == (damage is not None)
    whats = [event.what for event in alone if isinstance(event, Problem)]
    assert any("its first row: " in what for what in whats) == (damage == swap_pieces)


@pytest.mark.parametrize("num_workers", [1, 8])
def test_a_set_of_fewer_shards_than_processes_and_one_that_is_unfinished(tmp_path: Path, num_workers: int) -> None:
    write_set(tmp_path / "small", make_plan(("a.png",)))
    write_some(tmp_path / "begun", 2, make_plan(KEYS))
    for root in (tmp_path / "small", tmp_path / "begun"):
        shared = told(look(root, ALL_DATA, ProcessSettings(num_processes=5), num_workers))
        assert shared == told(look(root, ALL_DATA, ProcessSettings()))
        assert any(isinstance(event, ShardVerified) for event in shared)


def test_a_shard_that_a_damaged_manifest_names_twice_is_looked_at_once(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "twice")
    edit_manifest(root, lambda fields: fields["shards"].__setitem__(4, fields["shards"][3]))
    alone = told(look(root, ALL_DATA, ProcessSettings()))
    assert "manifest" in kinds(alone)
    assert told(look(root, ALL_DATA, ProcessSettings(num_processes=3))) == alone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_s", [0.0, 0.7, 1.5])
@pytest.mark.slow
def test_a_command_that_all_processes_are_told_to_end_ends_quietly(
    whole: Path, number: signal.Signals, after_s: float
) -> None:
    command = [*FRESH, "verify", str(whole), "--processes", "2", "--data"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=PROJECT)
    while process.poll() is None and not children_of(process.pid):  # the first is what others are forked from
        time.sleep(0.01)
    time.sleep(after_s)
    if process.poll() is None:
        os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in {0, 128 + number}
    assert all(line.startswith("semdis: ") for line in stderr.splitlines()), stderr


def test_what_holds_no_shards_needs_no_process(tmp_path: Path) -> None:
    write_set(tmp_path / "none", make_plan(("bad.png",)))
    assert told(look(tmp_path / "none", ALL_DATA, TWO)) == told(look(tmp_path / "none", ALL_DATA, ProcessSettings()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError):
        look(tmp_path / "empty", ALL_DATA, TWO)


def test_a_process_that_is_killed_costs_nothing(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deal = fleet.Fleet._deal
    has_killed: list[int] = []

    def dealing(self: Any, child: Any, remaining: Iterator[Any]) -> None:
        deal(self, child, remaining)
        if not has_killed and any("00000003" in name for name in child.under_way):
            has_killed.append(child.process.pid)
            os.kill(child.process.pid, signal.SIGKILL)

    monkeypatch.setattr(fleet.Fleet, "_deal", dealing)
    events = look(damaged, ALL_DATA, TWO)
    [died] = [event for event in events if isinstance(event, ProcessDied)]
    assert (died.pid, died.how) == (has_killed[0], "SIGKILL")
    events.remove(died)
    assert told(events) == told(look(damaged, ALL_DATA, ProcessSettings()))


def test_the_command_says_the_same_with_processes(damaged: Path) -> None:
    where = damaged.parent
    alone, shared = (semdis("verify", damaged, "--data", *more, cwd=where) for more in ((), ("--processes", "2")))
    assert alone.code == shared.code == 4
    bad = [line for line in alone.stderr.splitlines() if line.startswith("bad: ")]
    assert [line for line in shared.stderr.splitlines() if line.startswith("bad: ")] == bad
    assert len(bad) > 5


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("s3://bucket/latents", "a cluster verifies what all its nodes see as a folder"),
        ("latents", "a cluster verifies sets that are finished"),
    ],
)
def test_what_a_cluster_cannot_share_is_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latents").mkdir()
    monkeypatch.setattr("semdis_cli.pipeline.fleet.verify_job.check_address", lambda _: None)
    with pytest.raises(UsageError, match=why):
        helpers_by(ProcessSettings(engine="ray"), 2, parse_location(place))
