"""Latents that are far from whitened are said at the end of a run: weights and code may not fit."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.conftest import PHOTOS, Run, semdis
from tests.cli.test_json_lines import WITH_MODEL, problems
from tests.worlds import tiny_model

SAYS = "semdis: warning: whitened latents are far off: the median channel has |mean|"


def model_with(folder: Path, *, mean: float = 0.0, std: float = 1.0) -> Path:
    """A tiny model whose latents of the photograph have this mean and standard deviation, nearly."""
    model = tiny_model()
    with Image.open(PHOTOS / "lake-sherburne.jpg") as photo:
        pixels = torch.frombuffer(bytearray(photo.resize((64, 64)).tobytes()), dtype=torch.uint8)
    raw = model.encode_posterior(pixels.view(1, 64, 64, 3).permute(0, 3, 1, 2) / 127.5 - 1).mode()
    model.latent_norm_running_var.copy_(raw.var((0, 2, 3)) / std**2 - model.config.latent_running_stats_eps)
    model.latent_norm_running_mean.copy_(raw.mean((0, 2, 3)) - mean * model.latent_norm_running_var.sqrt())
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    with Image.open(PHOTOS / "lake-sherburne.jpg") as photo:
        photo.resize((64, 64)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"mean": 1.2}, True), ({"std": 3.3}, True), ({"std": 0.2}, True), ({"mean": -0.9}, False), ({"std": 2.7}, False)],
    ids=str,
)
def test_a_set_far_from_mean_0_and_deviation_1_is_told_at_the_end_and_in_the_report(
    run: Run, tmp_path: Path, photo: Path, settings: dict[str, float], told: bool
) -> None:
    model = model_with(tmp_path / "model", **settings)
    done = run("encode", photo, "--model", model, "--json", "--dtype", "float32")
    assert done.code == 0
    assert (SAYS in done.stderr) is told
    assert problems(done.stdout, *WITH_MODEL, "encode") == []
    report = json.loads(done.stdout)
    assert json.loads((tmp_path / "latents" / "report.json").read_text()).get("far_off") == report.get("far_off")
    assert ("far_off" in report) is told
    if told:
        assert report["far_off"]["abs_mean"] == pytest.approx(abs(settings.get("mean", 0.0)), abs=0.1)
        assert report["far_off"]["std"] == pytest.approx(settings.get("std", 1.0), rel=0.1)


def test_latents_on_stdout_are_told_of_too_and_raw_ones_are_not(tmp_path: Path, photo: Path) -> None:
    model_with(tmp_path / "model", mean=5.0)
    done = semdis("encode", photo, "--model", "model", "-o", "-", "--json", cwd=tmp_path)
    assert SAYS in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["far_off"]["abs_mean"] > 4
    raw = tiny_model()
    raw.has_latent_stats = False
    raw.save_pretrained(tmp_path / "raw")
    assert SAYS not in semdis("encode", photo, "--model", "raw", "-o", "raw-latents", cwd=tmp_path).stderr


def test_the_bundled_model_s_latents_of_photographs_are_whitened(run: Run) -> None:
    done = run("encode", PHOTOS, "--size", "64", "--json", "-q")
    assert "far_off" not in json.loads(done.stdout)


@pytest.mark.parametrize("verb", ["encode", "roundtrip"])
def test_latents_too_large_for_their_dtype_cost_their_image_alone(
    run: Run, tmp_path: Path, photo: Path, verb: str
) -> None:
    model = tiny_model(latent_running_stats_eps=1e-12)
    model.latent_norm_running_var.zero_()
    model.save_pretrained(tmp_path / "model")
    done = run(verb, photo, "--model", tmp_path / "model", "--store-dtype", "float16", "-o", "out")
    assert done.code == 3
    assert "failed: a.png: its latents are too large for --store-dtype float16" in done.stderr
