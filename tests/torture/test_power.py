"""The power is cut: whatever of the unsynced changes arrived, the same command ends with the same bytes."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.torture.harness import differences
from tests.torture.points import JOURNAL, SITUATIONS, Situation, World, go_on
from tests.torture.power import Disk, cuts, disks_after, store
from tests.torture.test_kill import ATTACHING
from tests.torture.watch import Change

ONLY_SYNCED, NAMES = "only what was synced", "names without data"


def write(path: str, data: bytes, offset: int = 0) -> Change:
    return Change("write", path, None, offset, data)


# --- the model of a disk --------------------------------------------------------------------------------------------


def after(tmp_path: Path, changes: list[Change], cut: str) -> dict[str, bytes | None]:
    """What is left of changes to a disk on which a file `old` is safe."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "old").write_bytes(b"old")
    disk = Disk(tmp_path / "start")
    for change in changes:
        disk.make(change)
    return disk.after_a_cut(cuts(0)[cut])


CREATE, DATA = Change("create", "new"), write("new", b"data")
SYNC, SYNC_FOLDER, SYNC_DISK = Change("sync", "new"), Change("sync", "."), Change("sync disk", ".")
RENAME = Change("rename", "new", "old")


@pytest.mark.parametrize(
    ("changes", "cut", "left"),
    [
        pytest.param([CREATE, DATA, SYNC], ONLY_SYNCED, {"old": b"old"}, id="a synced file without its name"),
        pytest.param([CREATE, DATA, SYNC_FOLDER], ONLY_SYNCED, {"old": b"old", "new": b""}, id="a name without data"),
        pytest.param([CREATE, DATA, SYNC, SYNC_FOLDER], ONLY_SYNCED, {"old": b"old", "new": b"data"}, id="both"),
        pytest.param([CREATE, DATA, SYNC_DISK], ONLY_SYNCED, {"old": b"old", "new": b"data"}, id="all of it"),
        pytest.param([CREATE, DATA, RENAME], NAMES, {"old": b""}, id="a rename before its data"),
        pytest.param([CREATE, DATA, SYNC, RENAME], NAMES, {"old": b"data"}, id="a rename after its data"),
        pytest.param([CREATE, DATA, SYNC, RENAME], ONLY_SYNCED, {"old": b"old"}, id="a rename that did not arrive"),
        pytest.param([CREATE, DATA], "names with half the data", {"old": b"old", "new": b"da"}, id="half"),
        pytest.param([CREATE, DATA], "names with zeros for data", {"old": b"old", "new": bytes(4)}, id="zeros"),
        pytest.param([CREATE, DATA], "data without names", {"old": b"old"}, id="data that nothing leads to"),
        pytest.param(
            [Change("truncate", "old", None, 1)], ONLY_SYNCED, {"old": b"old"}, id="a cut that did not arrive"
        ),
        pytest.param(
            [Change("truncate", "old", None, 1), write("old", b"!", 2)], "all of it", {"old": b"o\0!"}, id="all"
        ),
        pytest.param([Change("unlink", "old")], ONLY_SYNCED, {"old": b"old"}, id="a file that comes back"),
        pytest.param([Change("unlink", "old"), SYNC_FOLDER], ONLY_SYNCED, {}, id="a file that does not"),
        pytest.param(
            [Change("mkdir", "d"), Change("create", "d/f"), Change("sync", "d")], NAMES, {"d", "d/f"}, id="in"
        ),
    ],
)
def test_what_was_not_synced_may_be_gone(tmp_path: Path, changes: list[Change], cut: str, left: object) -> None:
    found = after(tmp_path, changes, cut)
    if isinstance(left, set):
        assert found.keys() == left | {"old"}
    else:
        assert found == left


@pytest.mark.slow
def test_a_replay_of_a_whole_run_is_what_the_run_left(tmp_path: Path, world: World) -> None:
    for name in SITUATIONS:
        situation = world.situation(name)
        disk = Disk(situation.start)
        for change in situation.unbroken[1]:
            disk.make(change)
        store(disk.after_a_cut(cuts(0)["all of it"]), tmp_path / name)
        assert differences(tmp_path / name / "latents", situation.expected) == []


# --- a run ----------------------------------------------------------------------------------------------------------


def left_by_cuts(situation: Situation) -> dict[frozenset[tuple[str, bytes | None]], str]:
    """Every disk that a cut at any time during a run may leave, and what happened."""
    return {
        frozenset(disk.after_a_cut(choice).items()): f"after {number} changes, {cut}"
        for number, disk in disks_after(situation.start, situation.unbroken[1])
        for cut, choice in cuts(number).items()
    }


@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("step", [pytest.param(601, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_a_run_whose_power_is_cut_is_completed_to_the_same_bytes(
    tmp_path: Path, world: World, name: str, step: int
) -> None:
    situation = world.situation(name)
    wrong = []
    for found, title in list(left_by_cuts(situation).items())[::step]:
        broken = go_on(situation, store(dict(sorted(found)), tmp_path / "disk"))
        if not broken.is_right:
            wrong.append((title, broken))
    assert wrong == []


@pytest.mark.parametrize("name", sorted(SITUATIONS.keys() - ATTACHING))
def test_what_the_journal_has_noted_outlives_the_power(world: World, name: str) -> None:
    # Else hours of work would be lost, though no damage done: shards, the journal, and all folders above them.
    situation = world.situation(name)
    num_noted = 0
    for number, disk in disks_after(situation.start, situation.unbroken[1]):
        noted = notes(disk.after_a_cut(cuts(0)[NAMES]))
        assert notes(disk.after_a_cut(cuts(0)[ONLY_SYNCED])) >= noted, f"after {number} changes"
        num_noted = max(num_noted, len(noted))
    assert num_noted > 0


def notes(found: dict[str, bytes | None]) -> set[str]:
    """The names of the shards that whole lines of the journal note and that are there."""
    journals = [data or b"" for name, data in found.items() if fnmatchcase(name, JOURNAL)]
    lines = [line for data in journals for line in data.splitlines(keepends=True)]
    noted = {json.loads(line)["content"].get("shard", "") for line in lines if line.endswith(b"\n")}
    return {name for name in noted if f"latents/shards/{name}" in found}
