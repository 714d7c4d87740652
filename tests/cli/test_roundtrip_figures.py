"""What `roundtrip` says of images: tables, summaries, the worst; and a run that was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semdis_cli.metrics.psnr import psnr_db
from tests import forks
from tests.cli.conftest import PHOTOS, Run, semdis
from tests.extras import needs
from tests.worlds import save_noise

NUM_IMAGES = 1100  # more than are done at once


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of several sizes, and a file that is none."""
    (tmp_path / "photos").mkdir()
    with Image.open(PHOTOS / "lake-sherburne.jpg") as photo:
        for number in range(3):
            photo.resize((200 + 7 * number, 190)).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/bad.png").write_bytes(b"no image")
    return tmp_path / "photos"


def test_figures_are_those_of_the_files_that_were_written(run: Run, tiny: Path, photos: Path) -> None:
    report = json.loads(run("roundtrip", photos, "--model", tiny, "--json", "-q").stdout)
    rows = lines_of(Path("roundtrip/figures.jsonl"))
    assert [row["key"] for row in rows] == ["0.png", "1.png", "2.png", "bad.png"]
    assert "error" in rows[-1]
    for row in rows[:-1]:
        pixels = [np.asarray(Image.open(folder / str(row["key"]))) for folder in (photos, Path("roundtrip"))]
        assert row["psnr_db"] == pytest.approx(psnr_db(*map(as_tensor, pixels)), abs=1e-5)
    values = [row["psnr_db"] for row in rows[:-1]]
    assert report["psnr_db"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert (report["psnr_db"]["min"], report["psnr_db"]["num"]) == (pytest.approx(min(values), abs=1e-5), 3)
    assert [row["key"] for row in report["worst"]] == [rows[number]["key"] for number in np.argsort(values)]


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def test_bits_per_pixel_are_those_of_the_latents_over_the_picture_without_padding(
    run: Run, tiny: Path, photos: Path
) -> None:
    channels = json.loads((tiny / "config.json").read_bytes())["bottleneck_dim"]
    for dtype, num_bits in (("float32", 32), ("bfloat16", 16)):
        run("roundtrip", photos, "--model", tiny, "--store-dtype", dtype, "-q", "-o", dtype)
        row = lines_of(Path(dtype) / "figures.jsonl")[0]  # 200x190 px: 13x12 positions
        assert row["bits_per_pixel"] == pytest.approx(channels * num_bits * 12 * 13 / (200 * 190), abs=1e-5)


def test_tables_in_all_formats_have_the_same_figures(run: Run, tiny: Path, photos: Path) -> None:
    needs("pyarrow")
    import pyarrow.parquet as pq

    formats = [flag for one in ("jsonl", "csv", "parquet") for flag in ("--figures", one)]
    run("roundtrip", photos, "--model", tiny, "-q", *formats)
    rows = lines_of(Path("roundtrip/figures.jsonl"))
    with Path("roundtrip/figures.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    parquet = pq.read_table("roundtrip/figures.parquet").to_pylist()
    assert len(rows) == len(table) == len(parquet) == 4
    for row, cells, values in zip(rows, table, parquet, strict=True):
        assert row["key"] == cells["key"] == values["key"]
        assert row.get("error", "") == cells["error"] == (values["error"] or "")
        for name in row.keys() - {"key", "error"}:
            assert row[name] == float(cells[name]) == pytest.approx(values[name], abs=1e-6)


@pytest.mark.parametrize("verb", ["eval", "roundtrip"])
def test_without_pyarrow_parquet_is_refused_before_work(
    run: Run, tiny: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = run(verb, photos, "--model", tiny, "--figures", "parquet")
    assert done.code == 2
    assert "pip install 'semdis[parquet]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path(verb).exists()


def test_no_table_of_an_earlier_run_is_left_beside_those_of_another(run: Run, tiny: Path, photos: Path) -> None:
    run("eval", photos, "--model", tiny, "-q", "--figures", "csv", "--compare", "jpeg")
    assert {path.name for path in Path("eval").glob("figures.*")} == {"figures.csv"}
    run("eval", photos, "--model", tiny, "-q", "--compare", "webp")
    assert {path.name for path in Path("eval").glob("figures.*")} == {"figures.jsonl"}


def test_a_format_that_there_is_not_is_refused_in_a_line(run: Run, tiny: Path, photos: Path) -> None:
    done = run("roundtrip", photos, "--model", tiny, "--figures", "xlsx")
    assert done.code == 2
    assert "jsonl, csv, parquet" in done.stderr
    assert not Path("roundtrip").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_is_gone_on_with_to_the_same_figures(tmp_path: Path, tiny: Path) -> None:
    for number in range(NUM_IMAGES):
        save_noise(tmp_path / f"photos/{number:04}.png", number, (16, 16))
    (tmp_path / "photos/0007.png").write_bytes(b"no image")
    arguments = ("roundtrip", "photos", "--model", str(tiny), "--quiet", "--json")
    whole = semdis(*arguments, "-o", "whole", cwd=tmp_path)
    with subprocess.Popen([*forks.FRESH, *arguments, "-o", "cut"], cwd=tmp_path, env=os.environ) as first:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("cut/.semdis-figures/*-0.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
    assert not (tmp_path / "cut/report.json").exists(), "it was done before it was killed"
    again = semdis(*arguments, "-o", "cut", cwd=tmp_path)
    assert (whole.code, again.code) == (3, 3)
    reports = [json.loads(one.stdout) for one in (whole, again)]
    assert reports[0]["images"] == {"ok": NUM_IMAGES - 1, "failed": 1, "this_run": NUM_IMAGES - 1}
    assert reports[1]["images"]["ok"] == NUM_IMAGES - 1
    assert reports[1]["images"]["this_run"] < NUM_IMAGES - 500
    assert reports[0]["psnr_db"] == reports[1]["psnr_db"]
    for name in ("figures.jsonl", "0000.png", "1099.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert not list((tmp_path / "cut").glob(".semdis-*"))


@pytest.mark.slow
def test_other_processes_measure_the_same(run: Run, tiny: Path, photos: Path) -> None:
    run("roundtrip", photos, "--model", tiny, "-q", "-o", "one")
    run("roundtrip", photos, "--model", tiny, "-q", "-o", "two", "--processes", "2", "--device", "cpu")
    assert Path("one/figures.jsonl").read_bytes() == Path("two/figures.jsonl").read_bytes()
