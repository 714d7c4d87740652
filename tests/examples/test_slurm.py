"""The examples for SLURM on a cluster that runs: what SLURM sets and signals is its own."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import forks
from tests.examples import World, holder
from tests.examples.slurm import Slurm, cluster, missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]
SMALL = ("--cpus-per-task=1", "--output=log")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, tiny: Path) -> World:
    world = World.make(tmp_path, tiny)
    world.add_command("semdis", f'exec {" ".join(forks.FRESH)} "$@"')  # a child of SLURM's, which signals it
    return world


def submit(slurm: Slurm, world: World, *command: str) -> str:
    """Submit a job of small tasks; its number."""
    return slurm.call("sbatch", "--parsable", *SMALL, *command, folder=world.folder, more=world.environment())


def wait_for(slurm: Slurm, world: World, state: str, job: str) -> None:
    """Wait until all tasks of a job, or a task, are in a state."""
    end, states = time.monotonic() + 300, ""  # SLURM starts what was requeued after two minutes
    while time.monotonic() < end:
        states = slurm.call("scontrol", "show", "job", job, folder=world.folder)
        if states.count("JobState=") == states.count(f"JobState={state}"):
            return
        time.sleep(0.5)
    raise AssertionError(f"{states}\n{(world.folder / 'log').read_text()}")


@contextmanager
def held_up(world: World, part: str) -> Iterator[int]:
    """Stop the process of a part once it is at work, and have it go on if it is still there; its number."""
    process = holder(world.latents / "journal" / f".semdis-lock-{part}")
    os.kill(process, signal.SIGSTOP)
    yield process
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def test_an_array_waits_for_its_plan_and_makes_one_set(slurm: Slurm, world: World) -> None:
    script = str(world.edited("slurm/array.sbatch", {}))
    plan = submit(slurm, world, "--mem=0", "--array=0", script, "plan")
    tasks = submit(slurm, world, "--mem=0", "--array=5-11:2", "--exclusive", f"--dependency=afterok:{plan}", script)
    wait_for(slurm, world, "COMPLETED", tasks)
    log = (world.folder / "log").read_text()
    assert all(f"part {number}/4, as SLURM_ARRAY_TASK_ID={5 + 2 * number}, " in log for number in range(4))
    world.assert_whole()


def test_a_task_that_is_requeued_at_work_is_started_again(slurm: Slurm, world: World) -> None:
    script = str(world.edited("slurm/array.sbatch", {}))
    tasks = submit(slurm, world, "--mem=0", "--array=0-1", script)
    with held_up(world, "0-of-2"):
        slurm.call("scontrol", "requeue", f"{tasks}_0", folder=world.folder)
    wait_for(slurm, world, "COMPLETED", f"{tasks}_1")
    assert not (world.latents / "manifest.json").exists()
    wait_for(slurm, world, "COMPLETED", tasks)
    world.assert_whole()


def test_a_task_whose_time_is_up_requeues_itself(slurm: Slurm, world: World) -> None:
    script = str(world.edited("slurm/array.sbatch", {}))
    tasks = submit(slurm, world, "--mem=0", "--array=0-1", script)
    with held_up(world, "1-of-2"):
        slurm.call("scancel", "--signal=TERM", f"{tasks}_1", folder=world.folder)
    wait_for(slurm, world, "PENDING", f"{tasks}_1")
    assert "stopped by SIGTERM" in (world.folder / "log").read_text()
    wait_for(slurm, world, "COMPLETED", tasks)
    world.assert_whole()


def test_the_processes_of_a_step_on_two_nodes_make_one_set_after_one_is_killed(slurm: Slurm, world: World) -> None:
    script = str(world.edited("slurm/step.sbatch", {}))
    size = ("--ntasks-per-node=2", "--mem-per-cpu=0")
    job = submit(slurm, world, *size, script)
    with held_up(world, "3-of-4") as process:
        os.kill(process, signal.SIGKILL)
    wait_for(slurm, world, "FAILED", job)
    assert json.loads((world.latents / "journal" / "0-of-4.report.json").read_bytes())["part"] == "0/4"
    wait_for(slurm, world, "COMPLETED", submit(slurm, world, *size, script))
    world.assert_whole()
