"""Weights are known by their sha256: a model that moved goes on, another one under the same name does not."""

import json
import shutil
from pathlib import Path

import pytest

from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.model.checkpoint import resolve_model
from tests.cli.conftest import Outcome, Run
from tests.worlds import save_noise, save_tiny_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(2):
        save_noise(tmp_path / "photos" / f"{seed}.png", seed)
    save_tiny_model(tmp_path / "model")
    return tmp_path / "photos"


def refusal(outcome: Outcome) -> str:
    """The one line that says why."""
    assert outcome.code == 2, outcome.stderr
    assert "sha256:" not in outcome.stderr
    return outcome.stderr.splitlines()[-1]


def move(tmp_path: Path) -> str:
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    return str(tmp_path / "elsewhere")


def test_a_set_grows_under_the_name_that_its_model_had(run: Run, tmp_path: Path, photos: Path) -> None:
    assert run("encode", photos, "-o", "latents", "--model", "model", "--threads", "1").code == 0
    moved = move(tmp_path)
    save_noise(photos / "2.png", 2)
    assert run("encode", photos, "-o", "latents", "--model", moved, "--threads", "1", "--dry-run").code == 0
    assert run("encode", photos, "-o", "latents", "--model", moved, "--threads", "1").code == 0
    manifest = json.loads((tmp_path / "latents" / "manifest.json").read_bytes())
    assert (manifest["provenance"]["model"]["name"], manifest["totals"]["ok"]) == ("model", 3)
    assert "later_versions" not in manifest
    assert run("verify", "latents", "--data").code == 0


def test_another_model_is_refused_by_both_names(run: Run, tmp_path: Path, photos: Path) -> None:
    assert run("encode", photos, "-o", "latents", "--model", "model", "--threads", "1").code == 0
    save_tiny_model(tmp_path / "other", seed=1)
    said = refusal(run("encode", photos, "-o", "latents", "--model", "other", "--threads", "1", "--mix-versions"))
    assert "begun with other settings (model: model (weights " in said
    assert " -> other (weights " in said


def test_a_copy_of_the_bundled_model_that_is_gone_is_not_missed(run: Run, tmp_path: Path, photos: Path) -> None:
    bundled = resolve_model(BUNDLED_MODEL).folder
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(bundled, tmp_path / "model")
    assert run("encode", photos, "-o", "latents", "--model", "model", "--threads", "1").code == 0
    shutil.rmtree(tmp_path / "model")
    assert run("decode", "latents", "-o", "decoded", "--threads", "1").code == 0
    assert run("encode", photos, "-o", "latents", "--threads", "1").code == 0


def test_folders_of_pictures_go_on_under_any_name_of_the_model(run: Run, tmp_path: Path, photos: Path) -> None:
    how = ["--threads", "1", "--quiet"]
    assert run("encode", photos, "-o", "latents", "--model", "model", *how).code == 0
    assert run("decode", "latents", "-o", "decoded", *how).code == 0
    assert run("roundtrip", photos, "-o", "rt", "--model", "model", *how).code == 0
    moved = ["--model", move(tmp_path), *how]
    assert run("decode", "latents", "-o", "decoded", *moved).code == 0
    assert run("roundtrip", photos, "-o", "rt", *moved).code == 0

    said = refusal(run("roundtrip", photos, "-o", "rt", *moved, "--steps", "2"))
    assert "made with other settings (sampling.num_steps: 1 -> 2)" in said
    save_noise(photos / "2.png", 2)
    assert "rt: made from other images" in refusal(run("roundtrip", photos, "-o", "rt", *moved))
    assert run("encode", photos, "-o", "latents", *moved).code == 0
    assert "the latents have changed since, or are others" in refusal(run("decode", "latents", "-o", "decoded", *moved))


@pytest.mark.slow
def test_training_goes_on_from_a_model_that_moved_and_not_from_another(run: Run, tmp_path: Path, photos: Path) -> None:
    how = ["--steps", "1", "--batch-size", "1", "--crop", "32", "--quiet"]
    assert run("train", photos, "-o", "mine", "--init", "model", *how).code == 0
    moved = move(tmp_path)
    assert run("train", photos, "-o", "mine", "--init", moved, *how).code == 0
    save_tiny_model(tmp_path / "model", seed=1)
    assert "init: model (weights" in refusal(run("train", photos, "-o", "mine", "--init", "model", *how))
    save_noise(photos / "2.png", 2)
    assert "made from other images" in refusal(run("train", photos, "-o", "mine", "--init", moved, *how))
