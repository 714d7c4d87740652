"""Real commands, stopped and continued: they end with the bytes of an unbroken run. At every moment: tests/torture."""

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from semdis_cli.store.manifest import Manifest
from tests.cli.conftest import semdis
from tests.disks import small_disk
from tests.torture.harness import (
    PROJECT,
    Runner,
    contents,
    encode_arguments,
    make_images,
    start,
    temporaries,
    wait_for_shards,
    wait_until_settled,
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runner"), tiny)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small images of three sizes."""
    return wait_until_settled(make_images(tmp_path_factory.mktemp("images") / "forty", 40))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path, tiny: Path) -> Path:
    """The forty images as the real command encodes them without a break."""
    root = tmp_path_factory.mktemp("sets") / "whole"
    done = semdis(*encode_arguments(images, root, tiny), cwd=PROJECT)
    assert done.code == 0, done.stderr
    return root


# --- an unbroken run ------------------------------------------------------------------------------------------------


def test_sha256sum_agrees_with_the_checksums(whole: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 17


@pytest.mark.parametrize("workers", ["1", "4"])
def test_the_number_of_workers_changes_no_byte(
    tmp_path: Path, runner: Runner, whole: Path, images: Path, tiny: Path, workers: str
) -> None:
    done = runner.run(encode_arguments(images, tmp_path / "latents", tiny, "--workers", workers))
    assert done.code == 0, done.stderr
    assert contents(tmp_path / "latents") == contents(whole)


# --- SIGKILL --------------------------------------------------------------------------------------------------------


def test_the_real_command_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, whole: Path, images: Path, tiny: Path
) -> None:
    root, chance = tmp_path / "latents", random.Random(0)
    codes = []
    for target in count(4, 7):
        process = start(encode_arguments(images, root, tiny))
        wait_for_shards(root, target, process)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        if process.returncode != -signal.SIGKILL:
            break
    assert codes[-1] == 0
    assert len(codes) > 1, "it was never killed"
    assert contents(root) == contents(whole)


# --- SIGTERM and SIGINT ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_the_real_command_asked_to_stop_says_how_to_go_on(
    tmp_path: Path, runner: Runner, images: Path, tiny: Path, number: signal.Signals, code: int
) -> None:
    root = tmp_path / "latents"
    # Shards enough, and slow ones, so that it is never over before the signal arrives.
    arguments = encode_arguments(images, root, tiny, "--size", "512", "--quiet", shard_images=1)
    process = start(arguments)
    wait_for_shards(root, 1, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    verbs = "encode, decode, roundtrip, eval, export, import and train"
    again = f"run the same command again: {verbs} go on where they were"
    assert stderr == f"semdis: stopped by {number.name}; {again}\n"
    assert stdout == ""
    assert temporaries(root) == []
    assert not (root / "manifest.json").exists()
    done = runner.run(arguments)
    assert (done.code, done.stderr) == (0, "")
    assert Manifest.read(root).num_ok == 40


# --- full disks -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_refused_before_the_first_shard(
    tmp_path: Path, runner: Runner, images: Path, tiny: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=16k") as disk:
        done = runner.run(encode_arguments(images, disk / "latents", tiny))
        assert done.code == 5, done.stderr
        assert "make room or choose another -o" in done.stderr
        assert not list((disk / "latents" / "shards").iterdir())
