"""A decode killed before any file operation, and on a disk that fills up anywhere, ends with the same images."""

import os
import signal
from itertools import count
from pathlib import Path

import pytest

from tests.disks import remount, small_disk
from tests.torture.harness import decode_arguments, differences, temporaries
from tests.torture.points import World

EVERY = pytest.mark.parametrize("step", [pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def latents(world: World) -> Path:
    return world.situation("a new set").expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, world: World, latents: Path) -> Path:
    """The latents decoded without a break."""
    root = tmp_path_factory.mktemp("decoded") / "whole"
    done = world.runner.run(decode_arguments(latents, root))
    assert done.code == 0, done.stderr
    return root


@EVERY
def test_a_decode_killed_before_any_of_its_file_operations_is_completed_to_the_same_bytes(
    tmp_path: Path, world: World, latents: Path, whole: Path, step: int
) -> None:
    for operation in count(3, step):
        root = tmp_path / str(operation)
        if world.runner.run(decode_arguments(latents, root), before=(operation, root)).code != -signal.SIGKILL:
            break
        done = world.runner.run(decode_arguments(latents, root))
        assert (done.code, differences(root, whole)) == (0, []), f"killed before file operation {operation}"
    assert operation > 20


@EVERY
def test_a_decode_on_a_disk_that_fills_up_anywhere_can_go_on(
    tmp_path: Path, world: World, latents: Path, whole: Path, step: int
) -> None:
    for num_pages in count(2, step):
        with small_disk(tmp_path / "disk", f"size={num_pages * os.sysconf('SC_PAGESIZE')}") as disk:
            root = disk / "decoded"
            stopped = world.runner.run(decode_arguments(latents, root))
            if stopped.code == 0:
                break
            assert stopped.code == 5, stopped.stderr
            assert "make room" in stopped.stderr.splitlines()[-1]
            assert temporaries(root) == []
            remount(disk, "size=4m")
            done = world.runner.run(decode_arguments(latents, root))
            assert (done.code, differences(root, whole)) == (0, []), f"{num_pages} pages"
    assert num_pages > 5
