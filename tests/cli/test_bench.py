"""`semdis bench`: all figures as JSON and as tables, a picture, nothing left behind, and what is refused."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from semdis_cli.images.synthetic import jpeg_of
from tests.cli.conftest import Outcome, Run, semdis
from tests.extras import needs
from tests.shims import Refuse, environment

SCHEMA = {
    "command",
    "machine",
    "settings",
    "images",
    "gemm",
    "own_gemm",
    "model_encode",
    "model_decode",
    "memory",
    "stages",
    "encode",
    "decode",
    "start_up",
    "peer",
    "elapsed_s",
}
QUICK = (
    "--quick",
    "--workers",
    "2",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--steps",
    "2",
    "--pdg",
    "--format",
    "jpg",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(96, 128), (128, 96), (96, 96)]):
        (folder / f"{number}.jpg").write_bytes(jpeg_of(size, seed=number))
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes put their temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def done(photos: Path, tiny: Path, temporary: Path) -> Outcome:
    """A run with small images, its figures as JSON, and a picture."""
    needs("matplotlib")
    options = ("--data", photos, "--model", tiny, "--size", "64", "--plot", "where.svg", "--json")
    return semdis("bench", *QUICK, *options, cwd=photos.parent, env={"TMPDIR": str(temporary)})


@pytest.fixture(scope="module")
def report(done: Outcome) -> dict[str, Any]:
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in JSON, with the path to each."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{name}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


@pytest.mark.slow
def test_the_json_is_one_object_with_every_figure_finite(report: dict[str, Any]) -> None:
    assert set(report) == SCHEMA
    assert report["command"] == "bench"
    wrong = [name for name, value in numbers(report) if not math.isfinite(value) or value < 0]
    assert wrong == []
    for part in ("model_encode", "model_decode", "encode", "decode"):
        assert report[part]["images_per_s"]["median"] > 0
        assert report[part]["megapixels_per_s"]["median"] > 0


@pytest.mark.slow
def test_the_json_says_what_was_measured_and_where(report: dict[str, Any], tiny: Path, photos: Path) -> None:
    assert report["settings"]["model"]["name"] == str(tiny)
    assert report["settings"]["sampling"]["num_steps"] == 2
    assert report["settings"]["geometry"]["size"] == 64
    assert report["machine"]["versions"]["torch"]
    assert report["machine"]["num_cores"] >= 1
    assert report["images"]["source"] == str(photos)
    assert (report["images"]["num_images"], report["images"]["num_unusable"]) == (3, 1)
    assert report["gemm"]["dtype"] == "float32"
    assert report["peer"] is None


@pytest.mark.slow
def test_the_shares_of_what_binds_add_up_and_the_limit_follows_from_the_stages(report: dict[str, Any]) -> None:
    for verb in ("encode", "decode"):
        limit, stages = report[verb]["limit"], report["stages"][verb]
        assert sum(limit["stages"].values()) == pytest.approx(1)
        on_disk = [one for one in stages if one["resource"] == "disk"]
        disk_s = sum(1 / one["images_per_s"] for one in on_disk)
        cores_s = sum(1 / one["images_per_s"] for one in stages if one["resource"] == "cores")
        cores_s += sum(one["cpu_s_per_image"] / 2 for one in on_disk)
        assert limit["images_per_s"] == pytest.approx(1 / max(cores_s, disk_s))
        assert limit["resource"] == ("cores" if cores_s >= disk_s else "disk")
        share = report[verb]["images_per_s"]["median"] / limit["images_per_s"]
        assert report[verb]["share_of_limit"]["median"] == pytest.approx(share)  # of one run, by the stages around it
        assert report[verb]["explanation"].startswith(f"{verb} is bound by {next(iter(limit['stages']))}: ")


@pytest.mark.slow
def test_the_picture_is_a_well_formed_svg(report: dict[str, Any], photos: Path) -> None:
    texts = [one.text or "" for one in ET.parse(photos.parent / "where.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert any(str(report["settings"]["model"]["name"]) in text for text in texts)
    first = next(iter(report["decode"]["limit"]["stages"]))
    assert any(text.startswith(f"{first} ") for text in texts)
    assert any(text.startswith("first image: ") for text in texts)


@pytest.mark.slow
def test_a_picture_that_the_disk_refuses_costs_no_figures(photos: Path, tiny: Path, tmp_path: Path) -> None:
    needs("matplotlib")
    refusal = environment(Refuse("create", errno.EACCES, tmp_path))
    options = ("--data", photos, "--model", tiny, "--size", "64", "--plot", tmp_path / "where.svg", "--json")
    outcome = semdis("bench", *QUICK, *options, cwd=photos.parent, env=refusal, fresh=True)
    assert outcome.code == 2
    assert set(json.loads(outcome.stdout)) == SCHEMA
    assert outcome.stderr.endswith("where.svg: cannot be written (Permission denied)\n")


@pytest.mark.slow
def test_progress_goes_to_stderr_and_no_file_is_left(done: Outcome, temporary: Path) -> None:
    assert "semdis: multiplying matrices\n" in done.stderr
    assert done.stdout.count("\n") == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_stopped_leaves_nothing_behind(number: int, tiny: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "semdis_cli", "bench", "--quick", "--model", str(tiny)],
        env=os.environ | {"TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as stderr:
        first = stderr.readline()
        until = time.monotonic() + 60
        while not list(temporary.glob("semdis-bench-*/images/*.jpg")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        said = first + stderr.read()
    assert process.wait(60) == 128 + number, said
    assert list(temporary.iterdir()) == []
    assert f"stopped by {signal.Signals(number).name}" in said


# ---- What is refused, before anything is measured ----


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--data", "missing"), "--data missing: no such file or folder"),
        (("--plot", "where.jpg"), "--plot where.jpg: the name must end in .png or .svg"),
        (("--plot", "missing/where.svg"), "--plot missing/where.svg: its folder does not exist"),
        (("--size", "100"), "--size must be a multiple of the model's patch of 16 px, not 100"),
        (("--size", "64", "--max-pixels", "999"), "give only one of --max-pixels, --size"),
        (("--model", "missing"), "missing"),
        (("--device", "abacus"), "--device abacus"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(options: tuple[str, ...], reason: str, run: Run) -> None:
    done = run("bench", "--quick", *options)
    assert done.code in {2, 4}
    assert done.stdout == ""
    assert reason in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "options", [("--num-images", "0"), ("--against", "jpeg"), ("--steps", "0"), ("--workers", "0")]
)
def test_values_out_of_range_are_refused(options: tuple[str, str], run: Run) -> None:
    assert run("bench", *options).code == 2


def test_a_folder_without_images_is_refused(run: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("bench", "--quick", "--data", "empty", "--model", tiny)
    assert done.code == 2
    assert done.stderr.splitlines()[-1] == "semdis: empty: no image that can be used (none was found)"


def test_a_plot_without_its_package_is_refused_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    done = run("bench", "--plot", "where.svg")
    assert done.code == 2
    assert "pip install 'semdis[plots]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_peer_that_is_not_installed_is_refused_first(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as if it were not installed
    done = run("bench", "--against", "flux2", "--model", tiny)
    assert done.code == 2
    assert "pip install 'semdis[peers]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
