"""Figures of steps that are looked at late: as on CUDA, where looking at once would wait for the device."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from semdis_cli.errors import DivergedError
from semdis_cli.training.loop import LOG_FILE, Trainer, TrainingImages
from semdis_cli.training.pool import CropSampler, ImagePool
from semdis_cli.training.readings import Reading, Readings
from semdis_cli.training.settings import OptimizerSettings, Rhythm, TrainingSettings
from semdis_cli.training.state import TrainingState
from tests.worlds import tiny_model

CPU = torch.device("cpu")


def test_figures_come_in_their_order_once() -> None:
    readings = Readings()
    readings.put(1, {"loss": torch.tensor(0.5), "norm": torch.tensor(2.0)})
    readings.put(2, {"loss": torch.tensor(math.inf), "norm": torch.tensor(3.0)})
    assert list(readings.take()) == [
        Reading(1, {"loss": 0.5, "norm": 2.0}),
        Reading(2, {"loss": math.inf, "norm": 3.0}),
    ]
    assert list(readings.take()) == []


def trainer(folder: Path, settings: TrainingSettings, *, is_late: bool) -> Trainer:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 40, 48), generator=generator, dtype=torch.uint8) for _ in range(3)]
    state = TrainingState(tiny_model(patch_size=4).float(), None, settings)
    held_out = ImagePool(["a"], images[:1])
    rhythm = Rhythm(log_steps=3, measure_steps=5, save_s=math.inf)
    found = Trainer(state, settings, TrainingImages(CropSampler(images, 16, CPU), held_out), folder, rhythm=rhythm)
    found._waits_for_figures = not is_late
    return found


def settings_of(num_steps: int, rate: float) -> TrainingSettings:
    optimizer = OptimizerSettings(muon_rate=rate, adamw_rate=rate, linear_rate_factor=1, clip_norm=1e9, warmup_steps=0)
    return TrainingSettings(num_steps=num_steps, batch_size=2, crop_px=16, dtype="float32", optimizer=optimizer)


def without_speed(log: Path) -> list[str]:
    return [line.partition(', "images_per_s"')[0] for line in log.read_text().splitlines()]


def test_looking_late_changes_no_byte_of_a_run(tmp_path: Path) -> None:
    for name, is_late in (("at-once", False), ("late", True)):
        list(trainer(tmp_path / name, settings_of(10, 1e-3), is_late=is_late).run())
    at_once, late = tmp_path / "at-once", tmp_path / "late"
    for file in ("model.safetensors", "training.safetensors"):
        assert (late / file).read_bytes() == (at_once / file).read_bytes()
    assert without_speed(late / LOG_FILE) == without_speed(at_once / LOG_FILE)


def test_a_run_that_diverges_is_told_of_a_step_later_and_saves_the_weights_before_it(tmp_path: Path) -> None:
    errors = []
    for name, is_late in (("at-once", False), ("late", True)):
        run = trainer(tmp_path / name, settings_of(1000, 10.0), is_late=is_late)
        with pytest.raises(DivergedError) as caught:
            list(run.run())
        errors.append(caught.value.reason)
        assert run.state.step >= 1
    assert errors[0] == errors[1]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("at-once", "late")]
    assert all(tensor.isfinite().all() for tensor in weights[0].values())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
