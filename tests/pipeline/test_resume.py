"""Runs stopped by signals at any moment and by full disks, as real processes: continued, they end with equal bytes."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import LatentSource, open_latents
from tests.cli.conftest import semdis
from tests.files.test_atomic import small_disk
from tests.forks import Started
from tests.store import contents as all_contents
from tests.torture.harness import (
    PROJECT,
    Runner,
    contents,
    decode_arguments,
    encode_arguments,
    make_few_images,
    make_images,
    start,
    temporaries,
    wait_for_shards,
)
from tests.worlds import save_tiny_model, tiny_model


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runner"), model)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small images of three sizes."""
    return make_images(tmp_path_factory.mktemp("images") / "forty", 40)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images, one of which is cut short, and a file that is no image at all: four shards of up to two images."""
    return make_few_images(tmp_path_factory.mktemp("images") / "few")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path, model: Path) -> Path:
    """The forty images as the real command encodes them without a break."""
    root = tmp_path_factory.mktemp("sets") / "whole"
    done = semdis(*encode_arguments(images, root, model), cwd=PROJECT)
    assert done.code == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def few_latents(tmp_path_factory: pytest.TempPathFactory, runner: Runner, few_images: Path, model: Path) -> Path:
    """The six images encoded without a break."""
    root = tmp_path_factory.mktemp("sets") / "few"
    done = runner.run(encode_arguments(few_images, root, model, shard_images=1))
    assert done.code == 3, done.stderr
    return root


@pytest.fixture(scope="module")
def few_decoded(tmp_path_factory: pytest.TempPathFactory, runner: Runner, few_latents: Path) -> Path:
    """Their latents decoded without a break."""
    root = tmp_path_factory.mktemp("decoded") / "few"
    done = runner.run(decode_arguments(few_latents, root))
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
    tmp_path: Path, runner: Runner, whole: Path, images: Path, model: Path, workers: str
) -> None:
    done = runner.run(encode_arguments(images, tmp_path / "latents", model, "--workers", workers))
    assert done.code == 0, done.stderr
    assert contents(tmp_path / "latents") == contents(whole)


def latents_of(source: LatentSource, key: str) -> torch.Tensor:
    shards = map(source.read, source.shards)
    return next(shard.latents[shard.keys.index(key)] for shard in shards if key in shard.keys)


@pytest.mark.parametrize("key", ["01.png", "05.png", "38.png"])
def test_an_image_has_the_same_latents_alone_and_among_others(
    tmp_path: Path, runner: Runner, whole: Path, images: Path, model: Path, key: str
) -> None:
    done = runner.run(encode_arguments(images / key, tmp_path / "latents", model))
    assert done.code == 0, done.stderr
    alone, among_others = (latents_of(open_latents(root), key) for root in (tmp_path / "latents", whole))
    assert alone.abs().max() > 0
    assert torch.equal(alone.view(torch.uint8), among_others.view(torch.uint8))


def test_a_finished_set_is_not_touched_again(
    tmp_path: Path, runner: Runner, whole: Path, images: Path, model: Path
) -> None:
    root = tmp_path / "latents"
    shutil.copytree(whole, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    done = runner.run(encode_arguments(images, root, model, "--workers", "2"))
    assert done.code == 0, done.stderr
    assert "40 of 40 images done before" in done.stderr
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before[path]} <= {"report.json"}
    assert contents(root) == contents(whole)


def test_latents_that_the_stored_dtype_cannot_hold_are_failures_and_the_set_is_finished(
    tmp_path: Path, runner: Runner, few_images: Path
) -> None:
    huge = tiny_model()
    huge.encoder.to_bottleneck.weight[:8] *= 1e6
    huge.save_pretrained(tmp_path / "model")
    arguments = encode_arguments(few_images, tmp_path / "latents", tmp_path / "model", "--store-dtype", "float16")
    done = runner.run(arguments)
    assert done.code == 3, done.stderr
    assert Manifest.read(tmp_path / "latents").num_failed == 7
    source = open_latents(tmp_path / "latents")
    assert all(source.read(stored).latents.isfinite().all() for stored in source.shards)


# --- SIGKILL --------------------------------------------------------------------------------------------------------


def test_the_real_command_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, whole: Path, images: Path, model: Path
) -> None:
    root, chance = tmp_path / "latents", random.Random(0)
    codes = []
    for target in count(4, 7):
        process = start(encode_arguments(images, root, model))
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


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(
    tmp_path: Path, runner: Runner, whole: Path, images: Path, model: Path, seed: int
) -> None:
    root, chance = tmp_path / "latents", random.Random(seed)
    arguments = encode_arguments(images, root, model)
    for _ in range(10):
        runner.run(arguments, after_s=chance.uniform(0.05, 0.3))
    done = runner.run(arguments)
    assert done.code == 0, done.stderr
    assert contents(root) == contents(whole)


EVERY = [pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", EVERY)
def test_an_encode_killed_before_any_of_its_file_operations_is_completed_to_the_same_bytes(
    tmp_path: Path, runner: Runner, few_images: Path, few_latents: Path, model: Path, step: int
) -> None:
    for operation in count(1, step):
        root = tmp_path / str(operation)
        arguments = encode_arguments(few_images, root, model, shard_images=1)
        if runner.run(arguments, before=(operation, root)).code != -signal.SIGKILL:
            break
        done = runner.run(arguments)
        assert done.code == 3, done.stderr
        assert contents(root) == contents(few_latents), f"killed before file operation {operation}"
    assert operation > 30


def test_an_encode_killed_one_file_operation_later_each_time_gets_there(
    tmp_path: Path, runner: Runner, few_images: Path, few_latents: Path, model: Path
) -> None:
    root = tmp_path / "latents"
    arguments = encode_arguments(few_images, root, model, shard_images=1)
    for operation in range(1, 60, 2):
        runner.run(arguments, before=(operation, root))
        if (root / "manifest.json").exists():
            break
    assert runner.run(arguments).code == 3
    assert contents(root) == contents(few_latents)


@pytest.mark.parametrize("step", EVERY)
def test_a_decode_killed_before_any_of_its_file_operations_is_completed_to_the_same_bytes(
    tmp_path: Path, runner: Runner, few_latents: Path, few_decoded: Path, step: int
) -> None:
    wrong = {}
    for operation in count(3, step):
        root = tmp_path / str(operation)
        if runner.run(decode_arguments(few_latents, root), before=(operation, root)).code != -signal.SIGKILL:
            break
        done = runner.run(decode_arguments(few_latents, root))
        if done.code != 0:
            wrong[operation] = done.stderr
        elif contents(root) != contents(few_decoded):
            wrong[operation] = f"left over: {temporaries(root)}"
    assert operation > 20
    assert wrong == {}


# --- SIGTERM and SIGINT ---------------------------------------------------------------------------------------------

STOPS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def last_words(number: signal.Signals) -> str:
    again = "run the same command again: encode, decode, export, import and train go on where they were"
    return f"semdis: stopped by {number.name}; {again}"


@pytest.mark.parametrize(("number", "code"), STOPS, ids=["SIGTERM", "SIGINT"])
def test_the_real_command_asked_to_stop_says_how_to_go_on(
    tmp_path: Path, runner: Runner, images: Path, model: Path, number: signal.Signals, code: int
) -> None:
    root = tmp_path / "latents"
    arguments = encode_arguments(images, root, model, "--size", "256", "--quiet")
    process = start(arguments)
    wait_for_shards(root, 1, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr == last_words(number) + "\n"
    assert stdout == ""
    assert temporaries(root) == []
    assert not (root / "manifest.json").exists()
    done = runner.run(arguments)
    assert (done.code, done.stderr) == (0, "")
    assert Manifest.read(root).num_ok == 40


@pytest.mark.parametrize("stop", STOPS, ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", [pytest.param(12, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_an_encode_asked_to_stop_before_any_file_operation_leaves_nothing_half_done(
    tmp_path: Path,
    runner: Runner,
    few_images: Path,
    few_latents: Path,
    model: Path,
    stop: tuple[signal.Signals, int],
    step: int,
) -> None:
    number, code = stop
    for operation in count(1, step):
        root = tmp_path / str(operation)
        arguments = encode_arguments(few_images, root, model, shard_images=1)
        stopped = runner.run(arguments, kill=number, before=(operation, root))
        if stopped.code == 3:
            break
        assert stopped.code == code, stopped.stderr
        assert stopped.stderr.splitlines()[-1] == last_words(number)
        assert "Traceback" not in stopped.stderr
        assert temporaries(root) == []
        assert runner.run(arguments).code == 3
        assert contents(root) == contents(few_latents), f"stopped before file operation {operation}"
    assert operation > 30


@pytest.mark.slow
def test_a_second_signal_ends_a_run_at_once(tmp_path: Path, images: Path, model: Path) -> None:
    root = tmp_path / "latents"
    process = start(encode_arguments(images, root, model, "--size", "256", "--quiet"))
    wait_for_shards(root, 1, process)
    for _ in range(20):
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in {143, -signal.SIGTERM}


# --- two at once ----------------------------------------------------------------------------------------------------


def wait_until_stopped(process: Started) -> None:
    """Until no thread of a process that was sent SIGSTOP is on its way through the kernel: it might still rename."""
    threads = Path(f"/proc/{process.forked_pid}/task")
    until = time.monotonic() + 30
    while threads.is_dir() and time.monotonic() < until:
        states = {(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads.iterdir()}
        if states == {"T"}:
            return
        time.sleep(0.01)
    time.sleep(0.5)  # no /proc


def test_a_second_run_is_refused_while_the_first_is_at_work(
    tmp_path: Path, runner: Runner, images: Path, model: Path
) -> None:
    root = tmp_path / "latents"
    arguments = encode_arguments(images, root, model, "--size", "256")
    first = start(arguments)
    wait_for_shards(root, 1, first)
    first.send_signal(signal.SIGSTOP)
    wait_until_stopped(first)
    try:
        before = all_contents(root)
        second = runner.run(arguments)
        assert second.code == 2
        assert second.stderr.endswith(f"{root}: another semdis run is writing there; wait for it to end\n")
        assert all_contents(root) == before
    finally:
        first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=60)
    assert first.returncode == 0, stderr
    assert Manifest.read(root).num_ok == 40


# --- full disks -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_refused_before_the_first_shard(
    tmp_path: Path, runner: Runner, images: Path, model: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=16k") as disk:
        done = runner.run(encode_arguments(images, disk / "latents", model))
        assert done.code == 5, done.stderr
        assert "make room or choose another -o" in done.stderr
        assert not list((disk / "latents" / "shards").iterdir())


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", os.fspath(disk)], check=True)


@pytest.mark.parametrize("step", EVERY)
def test_an_encode_on_a_disk_that_fills_up_anywhere_can_go_on(
    tmp_path: Path, runner: Runner, few_images: Path, few_latents: Path, model: Path, step: int
) -> None:
    for num_pages in count(2, step):
        with small_disk(tmp_path / "disk", f"size={num_pages * os.sysconf('SC_PAGESIZE')}") as disk:
            root = disk / "latents"
            arguments = encode_arguments(few_images, root, model, shard_images=1)
            stopped = runner.run(arguments)
            if stopped.code == 3:
                break
            assert stopped.code == 5, stopped.stderr
            assert "make room" in stopped.stderr.splitlines()[-1]
            assert temporaries(root) == []
            grow(disk)
            done = runner.run(arguments)
            assert done.code == 3, done.stderr
            assert contents(root) == contents(few_latents), f"{num_pages} pages"
    assert num_pages > 5


@pytest.mark.parametrize("step", EVERY)
def test_a_decode_on_a_disk_that_fills_up_anywhere_can_go_on(
    tmp_path: Path, runner: Runner, few_latents: Path, few_decoded: Path, step: int
) -> None:
    for num_pages in count(2, step):
        with small_disk(tmp_path / "disk", f"size={num_pages * os.sysconf('SC_PAGESIZE')}") as disk:
            root = disk / "decoded"
            stopped = runner.run(decode_arguments(few_latents, root))
            if stopped.code == 0:
                break
            assert stopped.code == 5, stopped.stderr
            assert "make room" in stopped.stderr.splitlines()[-1]
            assert temporaries(root) == []
            grow(disk)
            done = runner.run(decode_arguments(few_latents, root))
            assert done.code == 0, done.stderr
            assert contents(root) == contents(few_decoded), f"{num_pages} pages"
    assert num_pages > 5
