"""SIGTERM and SIGINT at chosen moments: the open shard is finished or dropped, and a second signal ends it at once."""

import signal
from itertools import count
from pathlib import Path

import pytest

from tests.torture.harness import temporaries
from tests.torture.points import POINTS, Point, World, go_on
from tests.torture.watch import Stop

STOPS = {signal.SIGTERM: 143, signal.SIGINT: 130}
CHOSEN = {
    "lock taken, its holder not named",
    "plan written, not synced",
    "first shard half written",
    "first shard synced, not renamed",
    "first shard renamed, its folder not synced",
    "between the first shard and the second",
    "index half written",
    "manifest synced, not renamed",
    "manifest safe, journal still there",
    "journal gone, its folder still there",
    "report half written",
    "one temporary file swept, another not",
    "shard of the plan given up removed, the plan still there",
    "set as it was noted, no plan",
    "first new piece in its place, not synced",
    "one old piece removed, its times not",
    "new index in the place of the old one, old manifest",
    "set as it was half removed",
    "what was published listed, the old plan still there",
}
QUICK = {"first shard half written", "first shard renamed, its folder not synced"}
WHERE = [
    pytest.param(point, id=point.name, marks=[] if point.name in QUICK else pytest.mark.slow)
    for point in POINTS
    if point.name in CHOSEN
]


def stop_at(world: World, point: Point, number: signal.Signals, times: int = 1) -> Stop:
    found = point.find(world.situation(point.situation).steps)
    # Half a write and a signal that is heard: the writing goes on, with all of the data.
    moment = "before" if found.moment == "half" else found.moment
    return Stop(found.number, moment, int(number), times)


def test_every_chosen_point_is_one() -> None:
    assert {point.name for point in POINTS} >= CHOSEN


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("point", WHERE)
def test_a_run_asked_to_stop_here_tidies_up_and_says_how_to_go_on(
    tmp_path: Path, world: World, point: Point, number: signal.Signals
) -> None:
    situation = world.situation(point.situation)
    disk = situation.begin(tmp_path / "disk")
    stopped, _ = world.runner.watch(situation.arguments(disk), disk, stop_at(world, point, number))
    assert stopped.code == STOPS[number], stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith(f"semdis: stopped by {number.name}; run the same command again")
    assert "Traceback" not in stopped.stderr
    swept_first = point.situation == "a set that a killed run left"  # stopped while it did just that
    assert swept_first or temporaries(disk) == []
    assert not list(disk.glob("latents/.semdis-lock"))
    broken = go_on(situation, disk)
    assert broken.is_right, (broken.left, broken.differences, broken.stderr)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.slow
def test_a_run_asked_to_stop_before_any_file_operation_leaves_nothing_half_done(
    tmp_path: Path, world: World, number: signal.Signals
) -> None:
    situation = world.situation("a new set")
    for operation in count(1):
        disk = situation.begin(tmp_path / "disk")
        stopped = world.runner.run(situation.arguments(disk), kill=number, before=(operation, disk / "latents"))
        if stopped.code == 3:
            break
        assert stopped.code == STOPS[number], stopped.stderr
        assert stopped.stderr.splitlines()[-1].startswith(f"semdis: stopped by {number.name}; run the same command")
        assert "Traceback" not in stopped.stderr
        assert temporaries(disk) == []
        broken = go_on(situation, disk)
        assert broken.is_right, (operation, broken.differences, broken.stderr)
    assert operation > 30


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("point", WHERE)
def test_a_second_signal_ends_the_run_at_once_and_the_set_is_completed(
    tmp_path: Path, world: World, point: Point, number: signal.Signals
) -> None:
    situation = world.situation(point.situation)
    disk = situation.begin(tmp_path / "disk")
    stopped, _ = world.runner.watch(situation.arguments(disk), disk, stop_at(world, point, number, times=2))
    assert stopped.code in {-number, STOPS[number]}, (
        stopped.stderr
    )  # the second one comes when it tidies up, if it does
    broken = go_on(situation, disk)
    assert broken.is_right, (broken.left, broken.differences, broken.stderr)
