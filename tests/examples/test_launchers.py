"""Launchers that start processes together: their environment is their own, and so is how one process ends others."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.examples import World
from tests.test_readme import PROJECT

pytestmark = pytest.mark.slow
GENTLY = """bash -c 'semdis encode "$@" || [ $? = 3 ]' semdis"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node=2")
LAUNCHERS = {
    "torchrun": (TORCHRUN, "RANK=1, WORLD_SIZE=2"),
    "Open MPI": (("mpirun.openmpi", "--oversubscribe", "-n", "2"), "OMPI_COMM_WORLD_RANK=1, OMPI_COMM_WORLD_SIZE=2"),
    "MPICH": (("mpirun.mpich", "-n", "2"), "PMI_RANK=1, PMI_SIZE=2"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_processes_that_are_started_together_make_one_set(tmp_path: Path, tiny: Path, launcher: str) -> None:
    command, by = LAUNCHERS[launcher]
    if shutil.which(command[0]) is None:
        pytest.skip(f"not installed: {command[0]}")
    world = World.make(tmp_path, tiny)
    world.add_command("part", f'exec {GENTLY} "$@"')
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = world.run([*command, "part", world.photos, "-o", str(world.latents), *world.options, "--workers=1"], root)
    assert done.returncode == 0, done.stderr
    assert f"semdis: part 1/2, as {by} say" in done.stderr
    world.assert_whole()


def test_the_page_says_how_a_part_lets_others_go_on() -> None:
    assert GENTLY.removesuffix(" semdis") in (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")
