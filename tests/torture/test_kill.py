"""SIGKILL at every named point, at every change and at random times: the same command ends with the same bytes."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from semdis_cli.parts import QUANTISED
from tests.torture.harness import Step, differences, encode_arguments, start, wait_for_shards
from tests.torture.points import IN_PIECES, PARTS, POINTS, SITUATIONS, Point, World, break_at, go_on
from tests.torture.report import HEAD, TABLE
from tests.torture.watch import Stop

# What has changed inputs ends with another set than the rest.
GROWING = {
    *(
        "a set that grows",
        IN_PIECES[0],
        "a stopped set whose inputs changed",
        "a growing set whose inputs changed again",
    ),
    PARTS[1],
}
ATTACHING = {"columns for a finished set", "tensors for a finished set", IN_PIECES[1]}
# The default run takes every 48th point; each situation has one among them.
QUICK = {*POINTS[::48], *({point.situation: point for point in POINTS}.values())}
EVERY_POINT = [pytest.param(point, id=point.name, marks=[] if point in QUICK else pytest.mark.slow) for point in POINTS]


def test_there_are_many_points_each_with_a_name_of_its_own() -> None:
    assert len(POINTS) >= 50
    assert len({point.name for point in POINTS}) == len(POINTS)
    assert {point.situation for point in POINTS} == set(SITUATIONS)


@pytest.mark.parametrize("point", EVERY_POINT)
def test_a_run_killed_here_is_completed_to_the_same_bytes(tmp_path: Path, world: World, point: Point) -> None:
    situation = world.situation(point.situation)
    broken = break_at(situation, point.find(situation.steps), tmp_path / "disk")
    assert broken.is_right, (broken.left, broken.differences, broken.stderr)


def test_whatever_a_run_starts_from_it_ends_with_the_same_bytes(world: World) -> None:
    whole = world.situation("a new set").expected
    for name in SITUATIONS:
        if name not in {*GROWING, *ATTACHING}:
            found = differences(world.situation(name).expected, whole)
            # each has copies of the images, which were changed at other times
            assert [line for line in found if "seen.jsonl" not in line] == [], name


@pytest.mark.parametrize("step", [pytest.param(19, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(ATTACHING))
def test_a_set_whose_attaching_was_killed_is_whole_after_an_encode(
    tmp_path: Path, world: World, name: str, step: int
) -> None:
    # It has all of the columns then or none.
    situation, wrong = world.situation(name), []
    for number in range(1, len(situation.steps) + 1, step):
        disk = situation.begin(tmp_path / "disk")
        killed, _ = world.runner.watch(situation.arguments(disk), disk, Stop(number, "before"))
        assert killed.code == -signal.SIGKILL
        again = world.runner.run(situation.encoding(disk))
        found = [differences(disk / "latents", whole) for whole in (situation.start / "latents", situation.expected)]
        if again.code != 3 or [] not in found:
            wrong.append((situation.steps[number - 1].title, again, found))
        shutil.rmtree(disk)
    assert wrong == []


def test_a_point_that_is_not_in_a_run_is_no_point_passed_in_silence(world: World) -> None:
    point = Point("", "a new set", "before", "rename", "latents/no such file")
    with pytest.raises(LookupError, match="only 0 times rename"):
        point.find(world.situation("a new set").steps)


def test_half_a_write_leaves_half_the_bytes(tmp_path: Path, world: World) -> None:
    situation = world.situation("a new set")
    step = next(step for step in situation.steps if step.operation == "write" and "shards" in step.file)
    disk = situation.begin(tmp_path / "disk")
    killed, changes = world.runner.watch(situation.arguments(disk), disk, Stop(step.number, "half"))
    assert killed.code == -signal.SIGKILL
    [torn] = (disk / "latents" / "shards").glob(".*")
    assert torn.stat().st_size == len(changes[-1].data) == step.num_bytes // 2 > 100


def test_no_change_of_a_run_goes_unseen(tmp_path: Path, world: World) -> None:
    # What Python itself reports about a run must all be in the log; else there are moments at which nothing is killed.
    situation = world.situation("a new set")
    disk = situation.begin(tmp_path / "disk")
    seen = disk.parent / "seen"
    outcome, _ = world.runner.watch(situation.arguments(disk), disk, audit=str(seen))
    assert outcome.code == 3, outcome.stderr
    missed = seen.read_text().splitlines()
    assert missed == []


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=[] if dtype == "int8" else pytest.mark.slow) for dtype in QUANTISED]
)
def test_a_killed_run_that_quantises_is_completed_to_the_same_bytes(tmp_path: Path, world: World, dtype: str) -> None:
    images = world.situation("a new set").images

    def arguments(name: str) -> list[str]:
        (tmp_path / name).mkdir(exist_ok=True)
        options = "--store-dtype", dtype, "--flip", "both"
        return encode_arguments(images, tmp_path / name / "latents", world.model, *options, shard_images=2)

    whole, changes = world.runner.watch(arguments("whole"), tmp_path / "whole")
    assert whole.code == 3, whole.stderr
    for number in range(5, len(changes), len(changes) // 5):
        killed, _ = world.runner.watch(arguments("killed"), tmp_path / "killed", Stop(number, "before"))
        assert killed.code == -signal.SIGKILL
        assert world.runner.run(arguments("killed")).code == 3
        assert differences(tmp_path / "killed" / "latents", tmp_path / "whole" / "latents") == []
        shutil.rmtree(tmp_path / "killed")


@pytest.mark.parametrize("step", [pytest.param(19, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["a new set", pytest.param("a set that grows", marks=pytest.mark.slow)])
def test_a_run_that_writes_several_shards_at_once_is_completed_to_the_same_bytes(
    tmp_path: Path, world: World, name: str, step: int
) -> None:
    # Which change is the how manieth differs from run to run. The journal has shards in the order of their numbers.
    situation, wrong, most_waiting = world.situation(name), [], 0
    for number in range(1, len(situation.steps) + 1, step):
        disk = situation.begin(tmp_path / "disk")
        stop = Stop(number, "half" if number % 2 else "before")
        killed, _ = world.runner.watch(situation.arguments(disk, "--workers", "4"), disk, stop)
        assert killed.code in {-signal.SIGKILL, 3}  # there was no write to be halved
        noted, present = noted_shards(disk / "latents"), len(list((disk / "latents" / "shards").glob("[0-9]*")))
        most_waiting = max(most_waiting, present - len(noted))
        broken = go_on(situation, disk)
        if not broken.is_right or noted != sorted(noted):
            wrong.append((stop, noted, broken))
    assert wrong == []
    assert step > 1 or name != "a new set" or most_waiting > 1  # shards on disk that wait for one before them


def noted_shards(root: Path) -> list[str]:
    """Names of the shards in the journal, if there is one, in its order; none of the torn line of one."""
    path = root / "journal" / "0.jsonl"
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line)["content"]["shard"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_run_killed_before_or_amid_any_change_is_completed_to_the_same_bytes(
    tmp_path: Path, world: World, name: str
) -> None:
    situation = world.situation(name)
    wrong = []
    for step in situation.steps:
        for moment in moments(step):
            broken = break_at(situation, Stop(step.number, moment), tmp_path / "disk")
            if not broken.is_right:
                wrong.append((moment, step.title, broken))
    assert wrong == []


def moments(step: Step) -> tuple[str, ...]:
    return ("before", "half") if step.operation == "write" else ("before",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in SITUATIONS])
def test_a_run_killed_one_change_later_each_time_gets_there(tmp_path: Path, world: World, name: str) -> None:
    situation = world.situation(name)
    disk = situation.begin(tmp_path / "disk")
    for number in range(1, 200, 3):
        stopped, _ = world.runner.watch(
            situation.arguments(disk), disk, Stop(number, "half" if number % 2 else "before")
        )
        if stopped.code != -signal.SIGKILL:
            break
    broken = go_on(situation, disk)
    assert broken.is_right, (broken.left, broken.differences, broken.stderr)


# --- random times ---------------------------------------------------------------------------------------------------


def duration_s(world: World, folder: Path, name: str) -> float:
    """How long a run takes that nothing stops."""
    situation = world.situation(name)
    disk = situation.begin(folder)
    began = time.monotonic()
    world.runner.run(situation.arguments(disk))
    shutil.rmtree(disk)
    return time.monotonic() - began


TIMES = [pytest.param(range(5), id="5 times"), pytest.param(range(5, 105), id="100 times", marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", TIMES)
@pytest.mark.parametrize("name", ["a new set", pytest.param("a set that grows", marks=pytest.mark.slow)])
def test_a_run_killed_at_a_random_time_is_completed_to_the_same_bytes(
    tmp_path: Path, world: World, name: str, seeds: range
) -> None:
    situation = world.situation(name)
    longest_s = duration_s(world, tmp_path / "disk", name)
    num_killed, wrong = 0, []
    for seed in seeds:
        disk = situation.begin(tmp_path / "disk")
        after_s = random.Random(seed).uniform(0, longest_s)
        num_killed += world.runner.run(situation.arguments(disk), after_s=after_s).code == -signal.SIGKILL
        broken = go_on(situation, disk)
        if not broken.is_right:
            wrong.append((seed, broken))
    assert wrong == []
    assert num_killed > len(seeds) / 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_the_command_as_people_start_it_killed_at_a_random_time_is_completed(
    tmp_path: Path, world: World, seed: int
) -> None:
    situation, chance = world.situation("a new set"), random.Random(seed)
    disk = situation.begin(tmp_path / "disk")
    process = start(situation.arguments(disk))
    wait_for_shards(disk / "latents", chance.randint(0, 5), process)
    time.sleep(chance.uniform(0, 0.02))
    process.kill()
    process.communicate()
    broken = go_on(situation, disk)
    assert broken.is_right, (broken.left, broken.differences, broken.stderr)


# --- the record -----------------------------------------------------------------------------------------------------


def test_the_recorded_table_has_every_point_and_each_is_right() -> None:
    text = TABLE.read_text()
    assert text.startswith(HEAD)
    lines = text.splitlines()
    recorded = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    for point in POINTS:
        assert " | same bytes | " in recorded[point.name], (
            f"{point.name}: run `make torture` to bring the table up to date"
        )
