"""`--max-errors` as a user meets it: an early end, everything that is done kept, and the same bytes in the end."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.store.manifest import Manifest
from tests.cli.conftest import Outcome, Run
from tests.store import contents
from tests.torture.harness import wait_until_settled

# By key: good, and four kinds of bad ones, of which all but the last look good to who reads their headers alone.
NUM_IMAGES = 24
BAD = (5, 6, 13, 20)
UNPLANNABLE = 23


@pytest.fixture(scope="module")
def settled_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        path = folder / f"{number:02d}.png"
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        if number in BAD:
            path.write_bytes(path.read_bytes()[:-50])
        if number == UNPLANNABLE:
            path.write_bytes(b"no image")
    return wait_until_settled(folder)  # a time of just now is not put on record


@pytest.fixture
def photos(tmp_path: Path, settled_photos: Path) -> Path:
    (tmp_path / "photos").symlink_to(settled_photos)
    return tmp_path / "photos"


def encode(run: Run, tiny: Path, *more: str) -> Outcome:
    """Native size, so that a file without a header is known beforehand; four images a shard, one thread."""
    fixed = ["--model", str(tiny), "--shard-images", "4", "--threads", "1", "--workers", "1"]
    return run("encode", "photos", *fixed, *more)


def without_report(root: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in contents(root).items() if name != "report.json"}


def test_a_run_stops_at_the_failure_that_is_one_too_many_and_says_how_to_go_on(
    run: Run, tmp_path: Path, tiny: Path, photos: Path
) -> None:
    assert photos.is_dir()
    done = encode(run, tiny, "-o", "latents", "--max-errors", "3")
    assert done.code == 3
    assert done.stderr.splitlines()[-1] == (
        "semdis: 4 of 24 inputs failed, more than --max-errors 3 allows; what is done is kept: "
        "the same command with a larger --max-errors goes on"
    )
    assert done.stderr.count("failed: ") == 4
    names = sorted(path.name for path in (tmp_path / "latents" / "shards").iterdir())
    assert names == [f"0000000{number}-1x1.safetensors" for number in range(4)]  # that of the last failure is full
    assert not (tmp_path / "latents" / "manifest.json").exists()


def test_the_same_command_with_a_larger_limit_ends_with_the_bytes_of_an_unbroken_run(
    run: Run, tmp_path: Path, tiny: Path, photos: Path
) -> None:
    assert photos.is_dir()
    for limit, code in (("0", 3), ("2", 3), ("10%", 3), ("19%", 3), ("4", 3), ("5", 3)):
        assert encode(run, tiny, "-o", "latents", "--max-errors", limit).code == code
        is_finished = (tmp_path / "latents" / "manifest.json").exists()
        assert is_finished == (limit == "5")
    assert encode(run, tiny, "-o", "whole").code == 3
    assert without_report(tmp_path / "latents") == without_report(tmp_path / "whole")
    assert Manifest.read(tmp_path / "latents").num_failed == 5


def test_failures_of_the_run_before_count_again(run: Run, tmp_path: Path, tiny: Path, photos: Path) -> None:
    assert photos.is_dir()
    first = encode(run, tiny, "-o", "latents", "--max-errors", "3")
    assert "4 of 24 inputs failed" in first.stderr
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents" / "shards").iterdir()}
    again = encode(run, tiny, "-o", "latents", "--max-errors", "3")
    assert "4 of 24 inputs failed" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "latents" / "shards").iterdir()} == shards


def test_what_is_known_beforehand_stops_the_run_before_anything_is_encoded(
    run: Run, tmp_path: Path, tiny: Path, photos: Path
) -> None:
    assert photos.is_dir()
    done = encode(run, tiny, "-o", "latents", "--max-errors", "0")
    assert done.code == 3
    assert "1 of 24 inputs failed" in done.stderr
    assert not list((tmp_path / "latents" / "shards").iterdir())


@pytest.mark.parametrize(("limit", "is_finished"), [("5", True), ("21%", True), ("4", False), ("20%", False)])
def test_as_many_failures_as_allowed_stop_nothing(
    run: Run, tmp_path: Path, tiny: Path, photos: Path, limit: str, is_finished: bool
) -> None:
    assert photos.is_dir()
    assert encode(run, tiny, "-o", "latents", "--max-errors", limit).code == 3
    assert (tmp_path / "latents" / "manifest.json").exists() == is_finished


def test_a_finished_set_is_left_alone(run: Run, tmp_path: Path, tiny: Path, photos: Path) -> None:
    shared = photos.resolve()
    photos.unlink()
    shutil.copytree(shared, photos)
    for number in (*BAD, UNPLANNABLE):
        (photos / f"{number:02d}.png").unlink()
    wait_until_settled(photos)
    assert encode(run, tiny, "-o", "latents").code == 0
    before = without_report(tmp_path / "latents")
    assert encode(run, tiny, "-o", "latents", "--max-errors", "0").code == 0
    assert without_report(tmp_path / "latents") == before


def test_roundtrip_has_the_same_limit(run: Run, tmp_path: Path, tiny: Path, photos: Path) -> None:
    assert photos.is_dir()
    arguments = ["roundtrip", "photos", "--model", tiny, "--threads", "1", "--workers", "1", "--batch-size", "4"]
    stopped = run(*arguments, "--max-errors", "10%")
    assert stopped.code == 3
    assert "3 of 24 inputs failed, more than --max-errors 10% allows" in stopped.stderr
    assert not (tmp_path / "roundtrip" / "report.json").exists()
    done = run(*arguments, "--max-errors", "50%")
    assert done.code == 3
    assert len(list((tmp_path / "roundtrip").glob("*.png"))) == NUM_IMAGES - 5


@pytest.mark.parametrize("command", ["encode", "roundtrip"])
@pytest.mark.parametrize("limit", ["-1", "many", "101%", "1.5", ""])
def test_a_limit_that_is_none_is_a_usage_error(run: Run, photos: Path, command: str, limit: str) -> None:
    done = run(command, photos, f"--max-errors={limit}")
    assert done.code == 2
    assert done.stderr.startswith("semdis: --max-errors is a number like 10, or a share up to 100%")
