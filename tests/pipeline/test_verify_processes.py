"""Shards that several processes look at: the problems of one, in the same order, whatever happens to them."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import Event, Planning, Problem, ProcessDied, ShardVerified, VerifyFinished
from semdis_cli.files.url import parse_location
from semdis_cli.pipeline.fleet import fleet
from semdis_cli.pipeline.fleet.verify_job import check_by
from semdis_cli.pipeline.verify import verify
from semdis_cli.settings import ProcessSettings
from semdis_cli.store.verifying.verify import ALL_DATA, NO_DATA, Sample, VerifySettings
from tests.cli.conftest import semdis
from tests.store import flip_last_bit, make_plan, write_set, write_some

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
    (root / "index.jsonl").write_bytes(b"".join([*lines[:3], lines[3].replace(b'"num_bytes": 6', b'"num_bytes": 7')]))
    return root


def look(root: Path, sample: Sample, processes: ProcessSettings, num_workers: int = 2) -> list[Event]:
    return list(verify(root, VerifySettings(sample, num_workers), check=check_by(processes, num_workers, root)))


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
        assert any(isinstance(event, Problem) for event in alone) == (root == damaged)
        assert sum(isinstance(event, ShardVerified) for event in alone) >= 12


@pytest.mark.parametrize("num_workers", [1, 8])
def test_a_set_of_fewer_shards_than_processes_and_one_that_is_unfinished(tmp_path: Path, num_workers: int) -> None:
    write_set(tmp_path / "small", make_plan(("a.png",)))
    write_some(tmp_path / "begun", 2, make_plan(KEYS))
    for root in (tmp_path / "small", tmp_path / "begun"):
        shared = told(look(root, ALL_DATA, ProcessSettings(num_processes=5), num_workers))
        assert shared == told(look(root, ALL_DATA, ProcessSettings()))
        assert any(isinstance(event, ShardVerified) for event in shared)


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
    monkeypatch.setattr("semdis_cli.pipeline.fleet.verify_job.check_address", lambda _: None)
    with pytest.raises(UsageError, match=why):
        check_by(ProcessSettings(engine="ray"), 2, parse_location(place))
