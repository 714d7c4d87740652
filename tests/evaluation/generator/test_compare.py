"""Whole comparisons, tiny ones: the same curves for the same latents, and for a run that was killed."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semdis_cli.errors import CheckpointError, DivergedError, StoreError, UsageError
from semdis_cli.evaluation.generator.compare import compare, prepare_generator
from semdis_cli.evaluation.generator.settings import GeneratorRunSettings, GeneratorSettings
from semdis_cli.evaluation.generator.train import LOG_FILE, STATE_FILE
from semdis_cli.events import Event, GeneratorMeasured, RunFinished, RunStarted, TrainingProgress
from tests.evaluation.generator.worlds import draw, keys_of, noise_like, save_made, save_set, smooth
from tests.extras import needs
from tests.forks import pid_of, python
from tests.store import contents

SETTINGS = GeneratorSettings(size="tiny", num_steps=6, batch_size=8, num_points=3, ema_decay=0.9)
PROJECT = Path(__file__).parents[3]
RUN = """
import sys
from pathlib import Path
from semdis_cli.evaluation.generator.compare import compare, prepare_generator
from semdis_cli.events import GeneratorMeasured
from tests.evaluation.generator.test_compare import asked
output, *sets = map(Path, sys.argv[1:])
for event in compare(sets, prepare_generator(asked(save_s=0, num_steps=10, num_points=10, num_seeds=2), output)):
    if isinstance(event, GeneratorMeasured):
        print(event.step, flush=True)
"""


@pytest.fixture(autouse=True)
def with_matplotlib() -> None:
    needs("matplotlib")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def asked(save_s: float = 300.0, **changes: Any) -> GeneratorRunSettings:
    """A run of six steps. With `save_s` 0 it saves after each."""
    fields = {**{name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__}, **changes}
    return GeneratorRunSettings(
        generator=GeneratorSettings(**fields), save_s=save_s, device="cpu", dtype="float32", num_threads=1
    )


def run(output: Path, *sets: Path, **changes: Any) -> list[Event]:
    return list(compare(sets, prepare_generator(asked(**changes), output)))


def report(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "report.json").read_text())
    return found


def made(folder: Path) -> dict[str, bytes | None]:
    """Every file of a comparison with its bytes; of the report all but its times and place."""
    found = contents(folder)
    fields = json.loads(found["report.json"] or b"")
    del fields["elapsed_s"], fields["output"]
    return {**found, "report.json": json.dumps(fields).encode()}


def losses(output: Path, number: int) -> list[float]:
    return [point["held_out_loss"]["mean"] for point in report(output)["sets"][number]["points"]]


def test_a_set_against_itself_has_the_same_curve(tmp_path: Path) -> None:
    root = save_made(tmp_path / "a", 100, noise_like)
    run(tmp_path / "out", root, root)
    assert (tmp_path / "out/1-seed0" / LOG_FILE).read_bytes() == (tmp_path / "out/2-seed0" / LOG_FILE).read_bytes()
    assert report(tmp_path / "out")["differences"][0]["relative_loss"]["mean"] == 0
    first, second = losses(tmp_path / "out", 0), losses(tmp_path / "out", 1)
    assert first == second
    assert len(set(first)) == len(first)  # something was learned


@pytest.mark.slow
def test_latents_that_were_scaled_and_shifted_have_the_same_curve(tmp_path: Path) -> None:
    a = save_made(tmp_path / "a", 100, noise_like)
    b = save_made(tmp_path / "b", 100, lambda key: noise_like(key) * 8 + 3)
    run(tmp_path / "out", a, b)
    assert losses(tmp_path / "out", 0) == pytest.approx(losses(tmp_path / "out", 1), rel=1e-4)


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    root = save_made(tmp_path / "a", 100, smooth)
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run(tmp_path / name, root, seed=seed, num_steps=2, num_points=1)
    assert made(tmp_path / "one") == made(tmp_path / "two")
    assert losses(tmp_path / "one", 0)[-1] != losses(tmp_path / "three", 0)[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A comparison that never stopped, and its two sets."""
    needs("matplotlib")
    folder = tmp_path_factory.mktemp("whole")
    roots = [save_made(folder / "a", 100, noise_like), save_made(folder / "b", 100, smooth)]
    run(folder / "out", *roots)
    return folder / "out", roots


@pytest.mark.slow
@pytest.mark.parametrize("num_points", [2, 4, 6])
def test_a_run_that_goes_on_gives_the_bytes_of_one_that_never_stopped(
    tmp_path: Path, whole: tuple[Path, list[Path]], num_points: int
) -> None:
    """It stops at a point of the first curve, at its end, before its state is gone, or in the second curve."""
    events = compare(whole[1], prepare_generator(asked(save_s=0), tmp_path / "stopped"))
    points = (event for event in events if isinstance(event, GeneratorMeasured))
    for _ in range(num_points):
        next(points)
    events.close()  # type: ignore[attr-defined]
    run(tmp_path / "stopped", *whole[1])
    assert made(tmp_path / "stopped") == made(whole[0])
    assert not list(tmp_path.rglob(STATE_FILE))


def test_a_finished_comparison_is_told_again_without_training(whole: tuple[Path, list[Path]]) -> None:
    before = made(whole[0])
    events = run(whole[0], *whole[1])
    assert not [event for event in events if isinstance(event, TrainingProgress)]
    assert made(whole[0]) == before


@pytest.mark.slow
def test_seeds_may_be_added_later(tmp_path: Path, whole: tuple[Path, list[Path]]) -> None:
    root = whole[1][0]
    run(tmp_path / "both", root, num_steps=2, num_points=1, num_seeds=2)
    run(tmp_path / "later", root, num_steps=2, num_points=1, seed=1)
    events = run(tmp_path / "later", root, num_steps=2, num_points=1, num_seeds=2)
    assert [event.seed for event in events if isinstance(event, GeneratorMeasured)] == [0, 0, 1]
    assert made(tmp_path / "later") == made(tmp_path / "both")


def start(output: Path, *sets: Path) -> "subprocess.Popen[str]":
    """A process that takes 10 steps a curve, saves after each, and says each point."""
    command = [*python(), "-c", RUN, *map(os.fspath, (output, *sets))]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def finish(output: Path, *sets: Path) -> None:
    with start(output, *sets) as process:
        process.communicate(timeout=300)
    assert process.returncode == 0


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_the_same_command_finishes(tmp_path: Path) -> None:
    roots = [save_made(tmp_path / "a", 100, noise_like), save_made(tmp_path / "b", 100, smooth)]
    finish(tmp_path / "whole", *roots)
    num_killed = 0
    for num_lines in (3, 6, 12, 4):  # one a point, those before the kill again: in the first curve, and in the next
        with start(tmp_path / "killed", *roots) as process:
            assert process.stdout is not None
            for _ in range(num_lines):
                process.stdout.readline()
            os.kill(pid_of(process), signal.SIGKILL)
        num_killed += process.returncode != 0
    assert num_killed == 4
    finish(tmp_path / "killed", *roots)
    assert made(tmp_path / "killed") == made(tmp_path / "whole")


@pytest.mark.slow
def test_latents_with_a_pattern_are_learned_faster_than_noise(tmp_path: Path) -> None:
    def low_rank(key: str) -> torch.Tensor:
        """Two numbers times fixed patterns, and a tenth of noise."""
        patterns = draw("patterns", (2, 4, 4, 4))
        return torch.einsum("r,rzhw->zhw", draw(key, (2,)), patterns) + 0.1 * draw(f"{key} noise", (4, 4, 4))

    easy, hard = save_made(tmp_path / "easy", 400, low_rank), save_made(tmp_path / "hard", 400, noise_like)
    run(tmp_path / "out", easy, hard, num_steps=120, batch_size=32, num_seeds=2)
    found = report(tmp_path / "out")
    first, second = (one["points"][-1]["relative_loss"] for one in found["sets"])
    assert first["mean"] < 0.85
    assert 0.97 < second["mean"] < 1.2  # nothing beats the linear prediction there
    lower = found["differences"][0]
    assert lower["relative_loss"]["high"] < 0
    assert lower["steps_to_its_last_loss"]["mean"] < 120
    assert found["differences"][1]["steps_to_its_last_loss"] is None


@pytest.mark.slow
def test_the_report_says_what_was_run(tmp_path: Path) -> None:
    labels = {key: number % 3 for number, key in enumerate(keys_of(100))}
    a = save_made(tmp_path / "a", 100, noise_like, labels=labels, classes=("x", "y", "z"))
    b = save_made(tmp_path / "b", 100, lambda key: draw(key, (2, 8, 8)))
    events = run(tmp_path / "out", a, b)
    found = report(tmp_path / "out")
    assert isinstance(events[-1], RunFinished)
    assert json.loads(json.dumps(events[-1].report)) == found
    num_held_out = found["images"]["held_out"]
    assert found["images"] == {
        "common": 100,
        "learned": 100 - num_held_out,
        "in_no_batch": 0,
        "held_out": num_held_out,
        "measured": num_held_out,
        "seen": 48,
        "epochs": round(48 / (100 - num_held_out), 3),
    }
    assert (found["classes"], found["labels_from"]) == (3, str(a))
    assert found["settings"]["rate"] == 1e-3
    for one, channels, patch in zip(found["sets"], (4, 2), (1, 2), strict=True):
        assert (one["channels"], one["patch"], one["tokens_per_image"]) == (channels, patch, [16])
        assert one["values_per_token"] == channels * patch**2
    first, second = found["sets"]
    # Weights to and from a token of 4 or 8 values, and the bias of the last layer
    assert second["parameters"] - first["parameters"] == 4 * (2 * 128 + 1)
    notes = "\n".join(found["notes"])
    started = next(event for event in events if isinstance(event, RunStarted))
    assert started.note.splitlines() == found["notes"][:-1]
    for what in ("different shapes (4 x 4x4 and 2 x 8x8)", "different sizes", "one seed", "a rehearsal", "is no FID"):
        assert what in notes
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("1-seed0", "2-seed0", "curves.png", "curves.svg", "report.json", "semdis-generator.json")
    }


def test_what_needs_no_network_is_where_the_curve_begins(tmp_path: Path) -> None:
    """At first nothing is predicted: the loss is the variance of v, and each bin has that of its times."""
    root = save_made(tmp_path / "a", 100, noise_like)
    run(tmp_path / "out", root, num_steps=1, num_points=1)
    one = report(tmp_path / "out")["sets"][0]
    assert one["points"][0]["share_of_variance"]["mean"] == pytest.approx(1, abs=0.05)
    for number, bin_ in enumerate(one["by_time"]):
        t = (number + 0.5) / 10
        assert bin_["linear_loss"] == pytest.approx(1 / (t**2 + (1 - t) ** 2), rel=0.15)
        assert bin_["relative_loss"]["mean"] == pytest.approx(2 * (t**2 + (1 - t) ** 2), rel=0.2)


def test_other_latents_or_settings_are_refused_in_the_same_folder(tmp_path: Path) -> None:
    a, b = save_made(tmp_path / "a", 100, noise_like), save_made(tmp_path / "b", 100, smooth)
    run(tmp_path / "out", a, num_steps=1, num_points=1)
    with pytest.raises(UsageError, match="the latents have changed since, or are others"):
        run(tmp_path / "out", b, num_steps=1, num_points=1)
    with pytest.raises(UsageError, match=r"made with other settings .*batch_size"):
        run(tmp_path / "out", a, num_steps=1, num_points=1, batch_size=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty, and not from an earlier run of this command"):
        run(tmp_path / "mine", a)


BINS = "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"
SPOILT = {
    "torn": "{",
    "no losses": '{"step": 0}\n',
    "no number": f'{{"step": 0, "train_loss": "x", "by_time": {BINS}}}\n',
    "not ten": '{"step": 0, "train_loss": null, "by_time": [1]}\n',
    "another step": f'{{"step": 3, "train_loss": null, "by_time": {BINS}}}\n',
    "beyond numbers": '{"step": 0, "train_loss": 1e999, "by_time": []}\n',
    "a list": "[]\n",
    "a pit": "[" * 100_000,
    "no text": "\udcff\n",
}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name.replace(" ", "-"), marks=[] if number < 2 else pytest.mark.slow)
        for number, (name, text) in enumerate(SPOILT.items())
    ],
)
def test_a_spoilt_log_is_said_in_a_line(tmp_path: Path, text: str) -> None:
    root = save_made(tmp_path / "a", 100, noise_like)
    run(tmp_path / "out", root, num_steps=1, num_points=1)
    (tmp_path / "out/1-seed0" / LOG_FILE).write_bytes(os.fsencode(text))
    with pytest.raises(CheckpointError, match=r"log\.jsonl: not the .* of a curve .*; remove it to start this over"):
        run(tmp_path / "out", root, num_steps=1, num_points=1)


def test_a_spoilt_state_is_said_in_a_line(tmp_path: Path) -> None:
    root = save_made(tmp_path / "a", 100, noise_like)
    events = compare([root], prepare_generator(asked(save_s=0), tmp_path / "out"))
    while not (tmp_path / "out/1-seed0" / STATE_FILE).exists():
        next(events)
    events.close()  # type: ignore[attr-defined]
    state = tmp_path / "out/1-seed0" / STATE_FILE
    data = state.read_bytes()
    state.write_bytes(data[:-4] + b"\1\2\3\4")
    with pytest.raises(CheckpointError, match=r"training\.safetensors: damaged"):
        run(tmp_path / "out", root)
    state.write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match=r"training\.safetensors: not a whole file"):
        run(tmp_path / "out", root)


def test_a_rate_that_is_too_large_is_said(tmp_path: Path) -> None:
    root = save_made(tmp_path / "a", 100, noise_like)
    with pytest.raises(DivergedError, match=r"the loss became .* by step .*; try a smaller --generator-rate"):
        run(tmp_path / "out", root, rate=10.0, num_steps=60, num_points=30)


def test_latents_that_are_not_finite_are_named(tmp_path: Path) -> None:
    latents = {key: noise_like(key) for key in keys_of(100)}
    latents["0042.png"][0, 0, 0] = torch.nan
    root = save_set(tmp_path / "a", latents)
    with pytest.raises(StoreError, match=r"a: .*NaN or infinite values"):
        run(tmp_path / "out", root)
