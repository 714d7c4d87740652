"""The scripts of examples/, their tasks run as a launcher would; the set has the bytes that one process gives it."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.examples import EXAMPLES, World

# As srun starts the tasks of a step: at once, in no order; it ends as the worst of them.
SRUN = """while [[ $1 == --* ]]; do shift; done
for task in $(shuf -i 0-$((${SLURM_NTASKS:-1} - 1))); do
  SLURM_PROCID=$task SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=${SLURM_NTASKS:-1} "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task"; code=$?; ((code > worst)) && worst=$code; done
exit "$((worst))\""""


@pytest.fixture
def world(tmp_path: Path, tiny: Path) -> World:
    world = World.make(tmp_path, tiny)
    world.add_command("srun", SRUN)
    world.add_command("scontrol", 'echo "$*" >> requeued')
    return world


def job(number: int) -> dict[str, str]:
    """What the batch script of a job finds."""
    return {"SLURM_JOB_ID": str(number), "SLURM_CPUS_PER_TASK": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def task(number: int, count: int = 4) -> dict[str, str]:
    """What that of a task of an array finds."""
    numbers = {"ID": number, "COUNT": count, "MIN": 0, "MAX": count - 1, "STEP": 1}
    named = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in numbers.items()}
    return job(71 + number) | {"SLURM_ARRAY_JOB_ID": "70"} | named


@pytest.mark.slow
def test_the_tasks_of_an_array_make_one_set_in_any_order_with_one_killed(world: World) -> None:
    script = ["bash", str(world.edited("slurm/array.sbatch", {}))]
    killed = world.stop_at_work(script, "2/4", signal.SIGKILL, task(2))
    assert killed == 128 + signal.SIGKILL
    for number in (3, 0, 2, 1):
        done = world.run(script, task(number))
        assert done.returncode == 0, done.stderr
        assert f"semdis: part {number}/4, as SLURM_ARRAY_TASK_ID={number}, " in done.stderr
    world.assert_whole()


@pytest.mark.slow
def test_a_task_whose_time_is_up_asks_to_be_run_again(world: World) -> None:
    script = ["bash", str(world.edited("slurm/array.sbatch", {}))]
    assert world.stop_at_work(script, "0/2", signal.SIGTERM, task(0, 2)) == 128 + signal.SIGTERM
    assert (world.folder / "requeued").read_text() == "requeue 70_0\n"
    assert [world.run(script, task(number, 2)).returncode for number in (1, 0)] == [0, 0]
    world.assert_whole()


@pytest.mark.slow
def test_an_array_that_has_a_plan_lists_nothing(world: World) -> None:
    script = ["bash", str(world.edited("slurm/array.sbatch", {}))]
    assert world.run([*script, "plan"], task(0, 1)).returncode == 0
    assert (world.latents / "journal" / "plan").exists()
    shutil.copy(world.folder / "photos" / "lake-sherburne.jpg", world.folder / "photos" / "later.jpg")
    assert [world.run(script, task(number, 2)).returncode for number in (1, 0)] == [0, 0]
    world.assert_whole()


@pytest.mark.slow
def test_what_is_wrong_with_a_task_is_how_it_ends(world: World) -> None:
    script = ["bash", str(world.edited("slurm/array.sbatch", {"photos": "nowhere"}))]
    assert world.run(script, task(0)).returncode == 2
    script = ["bash", str(world.edited("slurm/step.sbatch", {"photos": "nowhere"}))]
    assert world.run(script, job(70) | {"SLURM_NTASKS": "2"}).returncode == 1


@pytest.mark.slow
def test_the_processes_of_a_step_make_one_set_with_one_killed(world: World) -> None:
    script = ["bash", str(world.edited("slurm/step.sbatch", {}))]
    step = job(70) | {"SLURM_NTASKS": "3"}
    assert world.stop_at_work(script, "1/3", signal.SIGKILL, step) == 128 + signal.SIGKILL
    done = world.run(script, step)
    assert done.returncode == 0, done.stderr
    world.assert_whole()


@pytest.mark.slow
def test_the_loop_over_gpus_makes_one_set_with_one_killed(world: World) -> None:
    script = ["bash", str(world.edited("gpus.sh", {"gpus": "(0 2)", "workers": "1"}))]
    lost = world.stop_at_work(script, "1/2", signal.SIGKILL, {})
    assert lost == 2
    assert "--part 1/2" in world.run(["semdis", "finish", str(world.latents)]).stderr
    assert world.run(script).returncode == 3
    world.assert_whole()


@pytest.mark.slow
def test_machines_share_the_loop_over_gpus(world: World) -> None:
    machines = ({"first": "2"}, 2), ({"first": "0"}, 3)
    for changes, code in machines:
        script = world.edited("gpus.sh", {"gpus": "(0 1)", "workers": "1", "parts": "4"} | changes)
        assert world.run(["bash", str(script)]).returncode == code
    world.assert_whole()


@pytest.mark.parametrize("script", sorted(EXAMPLES.rglob("*.s[bh]*")), ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("not installed: shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
