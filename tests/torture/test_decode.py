"""A decode killed before any file operation, on a disk that fills up anywhere, or whose power is cut: same images."""

import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.disks import remount, small_disk
from tests.torture.harness import decode_arguments, differences, encode_arguments, make_images, temporaries
from tests.torture.points import World
from tests.torture.power import cuts, disks_after, store
from tests.torture.watch import Change

EVERY = pytest.mark.parametrize(
    "step", [pytest.param(11, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)


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


# --- Power cuts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, world: World) -> tuple[Path, Path, list[Change]]:
    """Latents of which three fit into a call, an empty folder where they were decoded, and what changed in it."""
    folder = tmp_path_factory.mktemp("power")
    images, latents, disk = make_images(folder / "images", 9), folder / "latents", folder / "disk"
    assert world.runner.run(encode_arguments(images, latents, world.model)).code == 0
    disk.mkdir()
    done, changes = world.runner.watch(decode_arguments(latents, disk / "decoded"), disk)
    assert done.code == 0, done.stderr
    return latents, disk, changes


def left_by_cuts(tmp_path: Path, changes: list[Change]) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """Every disk that a cut at any time during the decode may leave, and what happened."""
    (tmp_path / "empty").mkdir()
    for number, disk in disks_after(tmp_path / "empty", changes):
        for cut, choice in cuts(number).items():
            yield f"after {number} changes, {cut}", disk.after_a_cut(choice)


def test_an_image_has_its_name_only_when_it_is_whole_and_safe_whenever_the_power_is_cut(
    tmp_path: Path, unbroken: tuple[Path, Path, list[Change]]
) -> None:
    _, disk, changes = unbroken
    assert sum(change.operation == "rename" for change in changes) >= 9
    whole = {f"decoded/{path.name}": path.read_bytes() for path in (disk / "decoded").glob("*.png")}
    torn = [
        (title, name)
        for title, found in left_by_cuts(tmp_path, changes)
        for name in found.keys() & whole.keys()
        if found[name] != whole[name]
    ]
    assert (torn, len(whole)) == ([], 9)


@pytest.mark.parametrize("step", [pytest.param(60, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_a_decode_whose_power_is_cut_is_completed_to_the_same_bytes(
    tmp_path: Path, world: World, unbroken: tuple[Path, Path, list[Change]], step: int
) -> None:
    latents, disk, changes = unbroken
    different = {frozenset(found.items()): title for title, found in left_by_cuts(tmp_path, changes)}
    for number, (found, title) in enumerate(list(different.items())[::step]):
        root = store(dict(sorted(found)), tmp_path / str(number)) / "decoded"
        done = world.runner.run(decode_arguments(latents, root))
        assert (done.code, differences(root, disk / "decoded")) == (0, []), title
