"""What surrounds a run: the umask, clocks, disks that are full or read-only, and other runs at the same time."""

import json
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.disks import remount, small_disk
from tests.torture.harness import Runner, decode_arguments, differences, encode_arguments, temporaries
from tests.torture.points import Situation, World, go_on

ALREADY = "another semdis run is writing there; wait for it to end"


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[Runner]:
    """A second one that runs `semdis`, at the same time."""
    rival = Runner(tmp_path_factory.mktemp("rival"), world.model)
    yield rival
    rival.close()


@pytest.fixture(params=["a new set", pytest.param("a set that grows", marks=pytest.mark.slow)])
def situation(world: World, request: pytest.FixtureRequest) -> Situation:
    return world.situation(request.param)


# --- umask ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o077, pytest.param(0o022, marks=pytest.mark.slow), 0o002], ids=oct)
def test_the_mode_of_every_file_and_folder_follows_the_umask(tmp_path: Path, world: World, mask: int) -> None:
    situation = world.situation("a new set")
    disk = situation.begin(tmp_path / "disk")
    done = world.runner.run(situation.arguments(disk), umask=mask)
    assert done.code == 3, done.stderr
    assert differences(disk / "latents", situation.expected) == []
    decoded = world.runner.run(decode_arguments(disk / "latents", disk / "decoded"), umask=mask)
    assert decoded.code == 0, decoded.stderr
    modes = {path.relative_to(disk).as_posix(): path.stat().st_mode & 0o777 for path in disk.rglob("*")}
    expected = {name: (0o777 if (disk / name).is_dir() else 0o666) & ~mask for name in modes}
    assert modes == expected
    assert len(modes) > 12


# --- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["jumping", "standing"])
def test_clocks_that_jump_or_stand_still_change_no_byte(
    tmp_path: Path, world: World, situation: Situation, clock: str
) -> None:
    disk = situation.begin(tmp_path / "disk")
    done = world.runner.run(situation.arguments(disk), clock=clock)
    assert done.code == 3, done.stderr
    assert [line for line in differences(disk / "latents", situation.expected) if TIMES not in line] == []


@pytest.mark.parametrize("year", [1902, pytest.param(1970, marks=pytest.mark.slow), 2100])
def test_modification_times_of_any_year_change_no_latent(tmp_path: Path, world: World, year: int) -> None:
    situation = world.situation("a new set")
    images = Path(shutil.copytree(situation.images, tmp_path / "images"))
    time_s = (year - 1970) * 31_556_952
    for path in images.iterdir():
        os.utime(path, (time_s, time_s))
    disk = situation.begin(tmp_path / "disk")
    arguments = encode_arguments(images, disk / "latents", world.model, shard_images=1)
    done = world.runner.run(arguments)
    assert done.code == 3, done.stderr
    assert [line for line in differences(disk / "latents", situation.expected) if TIMES not in line] == []
    again = world.runner.run(arguments)
    assert again.code == 3, again.stderr
    assert json.loads((disk / "latents" / "report.json").read_bytes())["images"]["this_run"] == 0


TIMES = "seen.jsonl"  # where modification times are kept, to tell what may have changed


# --- disks ----------------------------------------------------------------------------------------------------------


def test_a_read_only_disk_is_refused_in_one_line_and_can_be_read(tmp_path: Path, world: World) -> None:
    situation = world.situation("a new set")
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        remount(disk, "ro")
        refused = world.runner.run([*situation.arguments(disk), "--quiet"])
        assert refused.code == 2
        [line] = refused.stderr.splitlines()
        assert line.endswith("cannot be written (Read-only file system)")
        remount(disk, "rw")
        assert world.runner.run(situation.arguments(disk)).code == 3
        remount(disk, "ro")
        refused = world.runner.run([*situation.arguments(disk), "--quiet"])
        assert refused.code == 2
        [line] = refused.stderr.splitlines()
        assert line.endswith("cannot be written (Read-only file system)")
        decoded = world.runner.run(decode_arguments(disk / "latents", tmp_path / "decoded"))
        assert decoded.code == 0, decoded.stderr
        assert differences(disk / "latents", situation.expected) == []


@pytest.mark.parametrize("step", [pytest.param(4, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_a_run_on_a_disk_that_fills_up_anywhere_can_go_on(
    tmp_path: Path, world: World, situation: Situation, step: int
) -> None:
    for more in count(1, step):
        with small_disk(tmp_path / "disk", "size=4m") as disk:
            shutil.copytree(situation.start, disk, dirs_exist_ok=True)
            status = os.statvfs(disk)
            remount(disk, f"size={(status.f_blocks - status.f_bfree + more) * status.f_frsize}")
            stopped = world.runner.run(situation.arguments(disk))
            if stopped.code == 3:
                break
            assert stopped.code == 5, stopped.stderr
            assert "make room" in stopped.stderr.splitlines()[-1]
            assert temporaries(disk) == []
            remount(disk, "size=4m")
            done = world.runner.run(situation.arguments(disk))
            assert done.code == 3, done.stderr
            assert differences(disk / "latents", situation.expected) == []
    assert more > 5


# --- two at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locks", "num_times"),
    [
        pytest.param("flock", 2, id="twice"),
        pytest.param("flock", 20, id="20 times", marks=pytest.mark.slow),
        pytest.param("none", 1, id="once on a file system without locks"),
        pytest.param("none", 20, id="20 times on a file system without locks", marks=pytest.mark.slow),
    ],
)
def test_two_runs_begun_at_once_do_no_damage(
    tmp_path: Path, world: World, situation: Situation, rival: Runner, locks: str, num_times: int
) -> None:
    num_refused = 0
    for number in range(20 * num_times):
        if number >= num_times and num_refused:
            break
        disk = situation.begin(tmp_path / "disk")
        runners = world.runner, rival
        for runner in runners:
            runner.start([*situation.arguments(disk), "--quiet"], locks=locks)
        outcomes = [runner.wait() for runner in runners]
        codes = sorted(outcome.code for outcome in outcomes)
        assert codes in ([3, 7], [3, 3]), outcomes  # the second one may have come when the first was through
        if codes == [3, 7]:
            num_refused += 1
            refused = next(outcome for outcome in outcomes if outcome.code == 7)
            assert refused.stderr == f"semdis: {disk / 'latents'}: {ALREADY}\n"
        broken = go_on(situation, disk)
        assert broken.is_right, (broken.differences, broken.stderr)
    assert num_refused > 0


@pytest.mark.parametrize("locks", ["flock", pytest.param("none", marks=pytest.mark.slow)])
def test_after_a_kill_the_next_run_gets_in(tmp_path: Path, world: World, situation: Situation, locks: str) -> None:
    disk = situation.begin(tmp_path / "disk")
    killed = world.runner.run(situation.arguments(disk), before=(20, disk), locks=locks)
    assert killed.code == -9
    done = world.runner.run(situation.arguments(disk), locks=locks)
    assert done.code == 3, done.stderr
    assert differences(disk / "latents", situation.expected) == []
