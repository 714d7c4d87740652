"""Parts of a set killed anywhere, several at a time, and run again in any order, by any command: the same bytes."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import count as count_from
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.disks import remount, small_disk
from tests.torture.harness import Runner, differences, temporaries
from tests.torture.points import LAST_PART, PARTS, Situation, World, go_on, is_finished
from tests.torture.power import store
from tests.torture.test_kill import moments
from tests.torture.test_power import left_by_cuts
from tests.torture.watch import Stop

# Who takes up what a killed part has left.
WAYS: Mapping[str, Callable[[Situation, Path], list[str]]] = {
    "the same part": lambda situation, disk: situation.part(disk, LAST_PART),
    "the other part": lambda situation, disk: situation.part(disk, "0/2"),
    "semdis finish": lambda _, disk: ["finish", str(disk / "latents")],
    "a run of the whole": lambda situation, disk: situation.encoding(disk),
}
SOME_OR_ALL = [pytest.param(83, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
SEEDS = [pytest.param(seed, marks=[] if seed < 1 else pytest.mark.slow) for seed in range(60)]


@pytest.fixture(params=PARTS)
def situation(world: World, request: pytest.FixtureRequest) -> Situation:
    return world.situation(request.param)


@pytest.fixture(scope="module")
def rivals(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[list[Runner]]:
    """Three that run `semdis`, at the same time."""
    others = [Runner(tmp_path_factory.mktemp("rival"), world.model) for _ in range(2)]
    yield [world.runner, *others]
    for other in others:
        other.close()


def before_all_parts(situation: Situation, disk: Path) -> Path:
    """What the set was before any part of it was written."""
    if (situation.folder / "before").exists():
        return Path(shutil.copytree(situation.folder / "before", disk))
    disk.mkdir()
    return disk


def test_parts_end_with_what_one_run_writes(tmp_path: Path, situation: Situation) -> None:
    disk = before_all_parts(situation, tmp_path / "disk")
    done = situation.world.runner.run(situation.encoding(disk))
    assert done.code == 3, done.stderr
    assert differences(disk / "latents", situation.expected) == []


@pytest.mark.parametrize("step", SOME_OR_ALL)
@pytest.mark.parametrize("way", WAYS)
def test_a_part_killed_at_any_change_is_made_good(tmp_path: Path, situation: Situation, way: str, step: int) -> None:
    wrong, run = [], situation.world.runner
    stops = [Stop(each.number, moment) for each in situation.steps for moment in moments(each)]
    for stop in stops[list(WAYS).index(way) * step // len(WAYS) :: step]:
        disk = situation.begin(tmp_path / "disk")
        killed, _ = run.watch(situation.arguments(disk), disk, stop)
        assert killed.code == -signal.SIGKILL
        broken = go_on(situation, disk, WAYS[way](situation, disk))
        if not broken.is_right:
            wrong.append((stop, broken))
    assert wrong == []


@pytest.mark.parametrize("step", [pytest.param(150, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_a_part_whose_power_is_cut_is_made_good_by_any_way(tmp_path: Path, situation: Situation, step: int) -> None:
    wrong, ways = [], list(WAYS.values())
    for number, (found, title) in enumerate(list(left_by_cuts(situation).items())[::step]):
        disk = store(dict(sorted(found)), tmp_path / "disk")
        broken = go_on(situation, disk, ways[number % len(ways)](situation, disk))
        if not broken.is_right:
            wrong.append((title, number % len(ways), broken))
    assert wrong == []


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_killed_at_random_and_run_again_in_any_order_make_the_same_set(
    tmp_path: Path, world: World, rivals: list[Runner], seed: int
) -> None:
    draw = random.Random(seed)
    situation = world.situation(PARTS[seed // 2 % 2])
    disk = before_all_parts(situation, tmp_path / "disk")
    told: list[tuple[list[str], Outcome]] = []
    locks = "none" if seed % 10 == 9 else "flock"
    for _ in range(draw.randrange(2, 9)):
        runners = rivals[: draw.randint(1, len(rivals))]
        told += run_at_once(draw, situation, disk, runners, count=(2, 7)[seed % 2], locks=locks)
    check(told)
    for _ in range(2):  # one round has all shards written; the set is finished by whoever comes last
        for index in draw.sample(range(7), 7):
            if differences(disk / "latents", situation.expected):
                done = world.runner.run(situation.part(disk, f"{index}/7"))
                assert done.code in {0, 3}, (told, done.stderr)
    assert differences(disk / "latents", situation.expected) == [], told
    assert temporaries(disk) == []


def run_at_once(
    draw: random.Random, situation: Situation, disk: Path, runners: list[Runner], *, count: int, locks: str
) -> list[tuple[list[str], Outcome]]:
    """Start several runs, most of them of parts, of which some are killed, and return how they ended.

    Two may be of the same part. Now and then there is one with other settings, one of the whole set, or `finish`.
    `locks`: of the file system, as in `Job`.
    """
    commands = []
    for runner in runners:
        index = draw.randrange(count)
        command = situation.part(disk, f"{index}/{count}")
        others = [["finish", str(disk / "latents")], situation.encoding(disk)]
        if has_noted(disk / "latents"):  # else these would be the settings of the set
            others.append([*command, "--store-dtype", "float32"])
        command = draw.choice(others) if draw.random() < 0.2 else command
        commands.append(command)
        after_s = draw.uniform(0, 0.8) if draw.random() < 0.6 else None
        runner.start([*command, "--quiet"], after_s=after_s, locks=locks)
    return [(command, runner.wait()) for command, runner in zip(commands, runners, strict=True)]


def has_noted(root: Path) -> bool:
    """Whether a shard is in the journal."""
    return any(path.read_bytes().count(b"\n") > 1 for path in root.glob("journal/*.jsonl"))


def check(told: list[tuple[list[str], Outcome]]) -> None:
    """Each run came to its end, was killed, or was refused in one line that says why."""
    for command, outcome in told:
        assert outcome.code in {0, 2, 3, 4, 7, -signal.SIGKILL}, (command, outcome)
        assert "Traceback" not in outcome.stderr, (command, outcome)


# --- full disks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [pytest.param(8, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_a_part_on_a_disk_that_fills_up_anywhere_can_go_on(tmp_path: Path, situation: Situation, step: int) -> None:
    ways, run = list(WAYS.values()), situation.world.runner
    for number, more in enumerate(count_from(1, step)):
        with small_disk(tmp_path / "disk", "size=4m") as disk:
            shutil.copytree(situation.start, disk, dirs_exist_ok=True)
            status = os.statvfs(disk)
            remount(disk, f"size={(status.f_blocks - status.f_bfree + more) * status.f_frsize}")
            stopped = run.run(situation.arguments(disk))
            if stopped.code == 3:
                break
            assert stopped.code == 5, stopped.stderr
            assert "make room" in stopped.stderr.splitlines()[-1]
            assert temporaries(disk) == []
            remount(disk, "size=4m")
            done = run.run(ways[number % len(ways)](situation, disk))
            if not is_finished(disk / "latents"):
                assert done.code in {0, 2, 3, 7}, done.stderr
                done = run.run(situation.arguments(disk))
            assert done.code == 3, done.stderr
            assert differences(disk / "latents", situation.expected) == []
    assert more > 5
