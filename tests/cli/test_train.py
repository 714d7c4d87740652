"""`semdis train` as its users have it: real photographs, scaled down, and an architecture of every kind of block."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from semdis_cli import FCDMDiffAE
from semdis_cli.defaults import TRAIN_MARKER
from semdis_cli.model.checkpoint import FLOAT32_BUFFERS, read_tensors
from semdis_cli.model.config import FCDMDiffAEConfig
from tests.cli.conftest import PHOTOS, Outcome, Run, semdis
from tests.disks import remount, small_disk
from tests.forks import TRAINING, python
from tests.store import contents as all_contents
from tests.torture.harness import PROJECT, Runner, start, temporaries
from tests.training.test_teacher import save_dinov2
from tests.worlds import tiny_config, tiny_model

PATCH_PX = 8  # 192 values a patch: the closed form takes no time
SIZE = WIDTH, HEIGHT = 96, 64
NUM_PHOTOS = 7
MEASURED = [0, 2, 4, 6, 8]  # the steps at which the runs of `arguments` measure and save

# `semdis`, but the disk fills up right before the first file operation on a file of that name.
DISK_FILLER = """
import sys
from pathlib import Path
from tests.disks import fill_disk
from semdis_cli.cli import main

disk, operation, name = sys.argv[1:4]
is_full = False


def watch(event, arguments):
    global is_full
    if not is_full and event == operation and any(str(argument).endswith(name) for argument in arguments[:2]):
        is_full = True
        fill_disk(Path(disk))


sys.addaudithook(watch)
sys.argv = ["semdis", *sys.argv[4:]]
main()
"""


def arguments(world: Path, output: str | Path, *more: str | Path, source: str | Path | None = None) -> list[str]:
    """A run of eight steps, a few seconds in all. What is given after these options overrules them."""
    return [
        *("train", os.fspath(source or world / "photos"), "-o", os.fspath(output)),
        *("--config", os.fspath(world / "config.json"), "--steps", "8", "--batch-size", "2", "--crop", "32"),
        *("--log-every", "1", "--measure-every", "2", "--threads", "1", "--workers", "1", "--dtype", "float32"),
        *(os.fspath(argument) for argument in more),
    ]


def small_photo(photo: Path, path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as image:
        ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), size).save(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, seven small photographs, two of them in photos/birds/, and the config.json of a model."""
    folder = tmp_path_factory.mktemp("world")
    for photo in PHOTOS.rglob("*.jpg"):
        small_photo(photo, folder / "photos" / photo.relative_to(PHOTOS).with_suffix(".png"))
    tiny_config(patch_size=PATCH_PX).save(folder / "config.json")
    return folder


@pytest.fixture
def photos(tmp_path: Path, world: Path) -> Path:
    """A copy of the seven photographs, `photos` in the folder where `run` is, to be changed."""
    return Path(shutil.copytree(world / "photos", tmp_path / "photos"))


@dataclass(frozen=True)
class Trained:
    """A model's folder, and how the command ended that made it."""

    folder: Path
    done: Outcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Trained:
    """The run of `arguments` without a break, a real process."""
    folder = tmp_path_factory.mktemp("trained") / "whole"
    done = semdis(*arguments(world, folder), cwd=PROJECT)
    assert done.code == 0, done.stderr
    return Trained(folder, done)


@pytest.fixture
def copy(whole: Trained, tmp_path: Path) -> Path:
    """A copy of that run's folder, to be spoilt or gone on in."""
    return Path(shutil.copytree(whole.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random DINOv2."""
    folder = tmp_path_factory.mktemp("teachers") / "dinov2"
    save_dinov2(folder)
    return folder


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runner"), tiny, TRAINING)
    yield runner
    runner.close()


def contents(model: Path) -> dict[str, bytes | None]:
    """Every file below a model's folder with its bytes, but the log without its rates: they are times."""
    found = all_contents(model)
    log = found.get("log.jsonl")
    if log is not None:
        found["log.jsonl"] = re.sub(rb', "images_per_s": [^,}]+', b"", log)
    return found


def log_of(model: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model / "log.jsonl").read_text().splitlines()]


def scores(stdout: str) -> dict[int, float]:
    """What was measured: held-out PSNR in dB by step."""
    rows = [line.split("\t") for line in stdout.splitlines()]
    return {int(step): float(psnr) for step, psnr in rows}


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def saved_step(model: Path) -> int:
    step: int = read_tensors(model / "training.safetensors")[1]["step"]
    return step


def assert_one_line(done: Outcome, code: int, *words: str) -> str:
    """The command, which was told to be --quiet, ended with `code` and a line in which all `words` are; that line."""
    assert done.code == code, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("semdis: ")
    missing = [word for word in words if word not in line]
    assert not missing, line
    return line


# --- a run ----------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_model_its_log_pictures_and_the_state(whole: Trained) -> None:
    pictures = {f"pictures/step-{step:07d}.png" for step in MEASURED}
    files = {"config.json", "log.jsonl", "model.safetensors", TRAIN_MARKER, "training.safetensors"}
    assert set(all_contents(whole.folder)) == {"pictures", *pictures, *files}
    assert FCDMDiffAEConfig.load(whole.folder / "config.json") == tiny_config(patch_size=PATCH_PX)
    assert json.loads((whole.folder / TRAIN_MARKER).read_bytes())["settings"]["num_steps"] == 8
    assert saved_step(whole.folder) == 8


def test_stdout_has_step_and_psnr_as_logged(whole: Trained) -> None:
    assert re.fullmatch(r"(\d+\t\d+\.\d\d\n)+", whole.done.stdout)
    shown = scores(whole.done.stdout)
    logged = {line["step"]: line["held_out_psnr_db"] for line in log_of(whole.folder) if "held_out_psnr_db" in line}
    assert list(shown) == list(logged) == MEASURED
    assert shown == pytest.approx(logged, abs=0.0051)
    assert all(15 < psnr < 50 for psnr in shown.values())


def test_the_log_has_every_term_of_the_loss_which_is_their_sum(whole: Trained) -> None:
    lines = [line for line in log_of(whole.folder) if "loss" in line]
    terms = {"diffusion", "latent_scale", "variance_expansion"}
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line in lines:
        assert set(line) == {"step", *terms, "loss", "gradient_norm", "rate", "images_per_s"}
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-4)
        assert all(math.isfinite(value) for value in line.values())


def test_stderr_says_what_is_trained_and_that_no_teacher_is_there(whole: Trained) -> None:
    lines = whole.done.stderr.splitlines()
    told = [line for line in lines if "preparing the model" not in line]  # said where that takes a while
    settings, model, *_, summary = told[next(n for n, line in enumerate(told) if "training in" in line) :]
    assert settings == "semdis: training in float32 on cpu, without a teacher: the alignment term is off"
    assert re.search(r"parameters; 6 images to learn from .*, 1 to measure with$", model)
    assert f"8 steps -> {whole.folder}; " in summary


def test_pictures_show_the_held_out_photograph_beside_what_became_of_it(whole: Trained, world: Path) -> None:
    photos = [np.asarray(Image.open(path)) for path in (world / "photos").rglob("*.png")]
    for step, score in scores(whole.done.stdout).items():
        with Image.open(whole.folder / "pictures" / f"step-{step:07d}.png") as picture:
            assert picture.size == (3 * WIDTH, HEIGHT)  # the third is of the latents
            left, right, _ = np.split(np.asarray(picture), 3, axis=1)
        assert any(np.array_equal(left, photo) for photo in photos)
        mse = np.square(left.astype(float) - right).mean()
        assert 10 * math.log10(255**2 / mse) == pytest.approx(score, abs=0.0051)


def test_the_model_encodes_and_makes_the_round_trip(run: Run, whole: Trained, world: Path) -> None:
    encoded = run("encode", world / "photos", "-o", "latents", "--model", whole.folder)
    assert encoded.code == 0, encoded.stderr
    assert "raw" not in encoded.stderr  # the latents are whitened
    done = run("roundtrip", world / "photos", "-o", "out", "--model", whole.folder)
    assert done.code == 0, done.stderr
    assert 15 < float(done.stdout.splitlines()[-1].removeprefix("mean\t")) < 50


def test_json_is_one_object_with_the_figures_of_the_run_and_quiet_leaves_stderr_empty(run: Run, world: Path) -> None:
    done = run(*arguments(world, "m", "--json", "--quiet", "--steps", "3"))
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert report["command"] == "train"
    assert report["images"] == {"ok": NUM_PHOTOS, "failed": 0, "held_out": 1, "unread": 0}
    assert (report["steps"], report["output"]) == (3, "m")
    assert report["parameters"] == sum(p.numel() for p in FCDMDiffAE.from_pretrained("m").parameters())
    assert report["held_out_psnr_db"] == pytest.approx(log_of(Path("m"))[-1]["held_out_psnr_db"], rel=1e-5)
    assert min(report["images_per_s"], report["peak_memory_mib"]) > 0
    figures = {"held_out_psnr_db", "images_per_s", "peak_memory_mib", "elapsed_s"}
    assert set(report) == {"command", "images", "steps", "parameters", "output", *figures}


def test_a_finished_run_is_not_touched_again(run: Run, whole: Trained, world: Path, copy: Path) -> None:
    done = run(*arguments(world, copy))
    assert (done.code, done.stdout) == (0, "")
    assert contents(copy) == contents(whole.folder)


# --- the same bytes again -------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(run: Run, whole: Trained, world: Path) -> None:
    assert run(*arguments(world, "again")).code == 0
    assert contents(Path("again")) == contents(whole.folder)


def test_workers_and_how_often_it_measures_change_no_weight(run: Run, whole: Trained, world: Path) -> None:
    done = run(*arguments(world, "m", "--workers", "3", "--measure-every", "5", "--log-every", "3"))
    assert list(scores(done.stdout)) == [0, 5, 8]
    assert weights(Path("m")) == weights(whole.folder)


def test_weights_can_be_stored_in_bfloat16_which_training_does_not_notice(
    run: Run, whole: Trained, world: Path
) -> None:
    assert run(*arguments(world, "m", "--weights-dtype", "bfloat16")).code == 0
    stored, exact = load_file("m/model.safetensors"), load_file(whole.folder / "model.safetensors")
    assert {name for name, tensor in stored.items() if tensor.dtype != torch.bfloat16} == set(FLOAT32_BUFFERS)
    assert all(torch.equal(stored[name], exact[name].to(stored[name].dtype)) for name in exact)
    assert contents(Path("m"))["training.safetensors"] == contents(whole.folder)["training.safetensors"]


def test_another_seed_gives_other_bytes(run: Run, whole: Trained, world: Path) -> None:
    assert run(*arguments(world, "other", "--seed", "1")).code == 0
    assert weights(Path("other")) != weights(whole.folder)


# --- stopped, and gone on -------------------------------------------------------------------------------------------

STOPS = [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.mark.parametrize(("number", "code"), STOPS, ids=["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_real_command_stopped_after_its_first_save_goes_on_to_the_same_bytes(
    tmp_path: Path, runner: Runner, whole: Trained, world: Path, number: signal.Signals, code: int
) -> None:
    root = tmp_path / "m"
    process = start(arguments(world, root, "--quiet"))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("0\t")  # measured and saved
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    if number != signal.SIGKILL:
        assert temporaries(root) == []
        line = assert_one_line(Outcome(code, "", stderr), code, f"stopped by {number.name}; run the same command again")
        assert "encode" not in line or "train" in line
    assert saved_step(root) < 8
    done = runner.run(arguments(world, root))
    assert done.code == 0, done.stderr
    assert contents(root) == contents(whole.folder)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(
    tmp_path: Path, runner: Runner, whole: Trained, world: Path, seed: int
) -> None:
    root, chance = tmp_path / "m", random.Random(seed)
    for _ in range(6):
        runner.run(arguments(world, root), after_s=chance.uniform(0.1, 0.8))
    done = runner.run(arguments(world, root))
    assert done.code == 0, done.stderr
    assert contents(root) == contents(whole.folder)


EVERY = [pytest.param(37, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", EVERY)
def test_a_run_killed_before_any_of_its_file_operations_is_completed_to_the_same_bytes(
    tmp_path: Path, runner: Runner, whole: Trained, world: Path, step: int
) -> None:
    for operation in count(3, step):
        root = tmp_path / str(operation)
        if runner.run(arguments(world, root), before=(operation, root)).code != -signal.SIGKILL:
            break
        done = runner.run(arguments(world, root))
        assert done.code == 0, done.stderr
        assert contents(root) == contents(whole.folder), f"killed before file operation {operation}"
    assert operation > 60


@pytest.mark.parametrize("step", [pytest.param(61, id="some"), pytest.param(4, id="many", marks=pytest.mark.slow)])
def test_a_run_asked_to_stop_before_any_file_operation_leaves_nothing_half_done(
    tmp_path: Path, runner: Runner, whole: Trained, world: Path, step: int
) -> None:
    for operation in count(5, step):
        root = tmp_path / str(operation)
        stopped = runner.run(arguments(world, root, "--quiet"), kill=signal.SIGTERM, before=(operation, root))
        if stopped.code == 0:
            break
        assert_one_line(stopped, 143, "stopped by SIGTERM; run the same command again")
        assert temporaries(root) == []
        assert runner.run(arguments(world, root)).code == 0
        assert contents(root) == contents(whole.folder), f"stopped before file operation {operation}"
    assert operation > 60


@pytest.mark.parametrize(
    "more",
    [
        ("--dtype", "bfloat16"),
        ("--optimizer", "adamw", "--weight-decay", "0.1"),
        ("--init", "random", "--log-every", "3", "--one-step-share", "0.5", "--balance", "0.5"),
    ],
    ids=" ".join,
)
def test_runs_of_every_kind_go_on_to_the_same_bytes(
    tmp_path: Path, runner: Runner, world: Path, more: tuple[str, ...]
) -> None:
    assert_goes_on_to_the_same_bytes(tmp_path, runner, world, more)


@pytest.mark.slow
def test_a_run_with_a_teacher_goes_on_to_the_same_bytes(
    tmp_path: Path, runner: Runner, world: Path, dinov2: Path
) -> None:
    assert_goes_on_to_the_same_bytes(tmp_path, runner, world, ("--teacher", os.fspath(dinov2)))


def assert_goes_on_to_the_same_bytes(tmp_path: Path, runner: Runner, world: Path, more: tuple[str, ...]) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    done = runner.run(arguments(world, unbroken, *more))
    assert done.code == 0, done.stderr
    assert runner.run(arguments(world, broken, *more), before=(60, broken)).code == -signal.SIGKILL
    assert 0 < saved_step(broken) < 8
    done = runner.run(arguments(world, broken, *more))
    assert done.code == 0, done.stderr
    assert contents(broken) == contents(unbroken)


def test_a_second_run_is_refused_while_the_first_is_at_work(
    tmp_path: Path, runner: Runner, whole: Trained, world: Path
) -> None:
    root = tmp_path / "m"
    first = start(arguments(world, root))
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    try:
        before = all_contents(root)
        second = runner.run(arguments(world, root, "--quiet"))
        assert_one_line(second, 7, f"{root}: another semdis run is writing there; wait for it to end")
        assert all_contents(root) == before
    finally:
        first.send_signal(signal.SIGCONT)
        _, stderr = first.communicate(timeout=120)
    assert first.returncode == 0, stderr
    assert contents(root) == contents(whole.folder)


def test_half_a_line_past_the_last_save_is_dropped(tmp_path: Path, runner: Runner, whole: Trained, world: Path) -> None:
    """A disk that is full in the middle of a line, or a power cut, leaves such a log."""
    root = tmp_path / "m"
    runner.run(arguments(world, root), before=(60, root))
    assert saved_step(root) < 7
    with (root / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "diffu')
    done = runner.run(arguments(world, root))
    assert done.code == 0, done.stderr
    assert contents(root) == contents(whole.folder)


# --- full disks -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_refused_and_the_run_goes_on_once_there_is_room(
    tmp_path: Path, run: Run, whole: Trained, world: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=256k") as disk:
        refused = run(*arguments(world, disk / "m", "--quiet"))
        assert_one_line(refused, 5, str(disk / "m"), "make room", "MiB")
        assert not list((disk / "m").glob("*.safetensors"))
        remount(disk, "size=64m")
        done = run(*arguments(world, disk / "m"))
        assert done.code == 0, done.stderr
        assert contents(disk / "m") == contents(whole.folder)


@pytest.mark.parametrize(
    ("operation", "name", "step"),
    [
        pytest.param("open", "log.jsonl", None, id="before the first line of the log"),
        pytest.param("os.rename", "step-0000004.png", 2, id="before the state of step 4"),
        pytest.param(
            "os.rename", "pictures/step-0000000.png", None, id="before the first state", marks=pytest.mark.slow
        ),
        pytest.param("os.rename", "training.safetensors", 0, id="before the model of step 2", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up_ends_the_run_which_goes_on_once_there_is_room(
    tmp_path: Path, run: Run, whole: Trained, world: Path, operation: str, name: str, step: int | None
) -> None:
    with small_disk(tmp_path / "disk", "size=64m") as disk:
        root = disk / "m"
        filler = [*python(*TRAINING), "-c", DISK_FILLER, os.fspath(disk), operation, name]
        stopped = subprocess.run(
            [*filler, *arguments(world, root, "--quiet")], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        assert_one_line(Outcome(stopped.returncode, stopped.stdout, stopped.stderr), 5, str(root), "make room")
        assert temporaries(root) == []
        assert (saved_step(root) if (root / "training.safetensors").exists() else None) == step
        assert all(tensor.isfinite().all() for tensor in load_file(root / "model.safetensors").values())
        (disk / "padding").unlink()
        done = run(*arguments(world, root))
        assert done.code == 0, done.stderr
        assert contents(root) == contents(whole.folder)


# --- what cannot be trained on --------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_photos", [0, 1])
def test_too_few_images_are_refused(run: Run, world: Path, photos: Path, num_photos: int) -> None:
    for photo in sorted(photos.rglob("*.png"))[num_photos:]:
        photo.unlink()
    done = run(*arguments(world, "m", "--quiet", source="photos"))
    assert_one_line(done, 2, "1 image is too few" if num_photos else "no images found in photos: nothing is there")
    assert not Path("m").exists()


def test_images_that_are_all_smaller_than_a_crop_are_listed_and_refused(run: Run, world: Path) -> None:
    done = run(*arguments(world, "m", "--crop", "72", "--quiet"))
    assert done.code == 2
    *failures, line = done.stderr.splitlines()
    assert len(failures) == NUM_PHOTOS
    assert "failed: birds/canyon-wren.png: smaller than a crop: 96x64 px, --crop is 72" in failures
    assert "too few images" in line
    assert "--crop 72" in line


def test_images_that_are_smaller_than_a_crop_cost_themselves_alone(run: Run, world: Path, photos: Path) -> None:
    for name in ("birds/perched-osprey", "roman-colosseum"):
        small_photo(PHOTOS / f"{name}.jpg", photos / f"{name}.png", (40, 24))
    done = run(
        *arguments(world, "m", "--quiet", "--steps", "1", "--held-out", "photos/lake-sherburne.png", source=photos)
    )
    assert done.code == 3
    assert sorted(done.stderr.splitlines()) == [
        "failed: birds/perched-osprey.png: smaller than a crop: 40x24 px, --crop is 32",
        "failed: roman-colosseum.png: smaller than a crop: 40x24 px, --crop is 32",
    ]


def test_an_unreadable_image_is_listed_and_costs_itself_alone_whichever_it_is(
    run: Run, world: Path, photos: Path
) -> None:
    """Whichever: the one that would have been held out, too."""
    codes = {}
    for photo in sorted(photos.rglob("*.png")):
        key, data = photo.relative_to(photos).as_posix(), photo.read_bytes()
        photo.write_bytes(data[: len(data) // 2])
        done = run(*arguments(world, f"m-{photo.stem}", "--quiet", "--steps", "1", "--json", source="photos"))
        assert done.stderr.startswith(f"failed: {key}: ")
        codes[key] = done.code
        photo.write_bytes(data)
    assert codes == dict.fromkeys(codes, 3)
    assert len(codes) == NUM_PHOTOS


def test_images_that_the_memory_does_not_hold_are_not_left_out_in_silence(
    run: Run, world: Path, tmp_path: Path
) -> None:
    for name in ("lake-sherburne", "singaporean-cityscape", "the-spices-of-life"):
        small_photo(PHOTOS / f"{name}.jpg", tmp_path / "large" / f"{name}.png", (600, 400))  # 0.7 MiB each
    done = run(*arguments(world, "m", "--memory", "0.0015", "--steps", "1", "--json", source="large"))
    assert done.code == 0, done.stderr
    assert "1 more do not fit in --memory" in done.stderr
    assert json.loads(done.stdout)["images"] == {"ok": 2, "failed": 0, "held_out": 1, "unread": 1}


def test_pictures_of_another_run_are_no_photographs(run: Run, world: Path, photos: Path, whole: Trained) -> None:
    shutil.copytree(whole.folder, photos / "earlier")
    done = run(*arguments(world, "m", "--steps", "1", "--json", source="photos"))
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["images"]["ok"] == NUM_PHOTOS


# --- what cannot be done --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--crop", "36"), 2, ["--crop 36", "multiple of the patch, 8 px"]),
        (("--init", "nowhere", "--config", "{config}"), 2, ["--config", "--init"]),
        (("--held-out", "nowhere"), 2, ["nowhere: no such file or folder"]),
        (("--teacher", "nobody"), 4, ["nobody: no such teacher", "DINOv2"]),
        (("--balance", "2"), 2, ["--balance must be in 0..1, not 2"]),
        (("--muon-rate", "nan"), 2, ["--muon-rate must be in 0..10, not nan"]),
        (("--sid2-bias", "1000"), 2, ["--sid2-bias"]),
        (("--device", "abacus"), 2, ["abacus"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_request_that_cannot_be_carried_out_is_one_line(
    run: Run, world: Path, more: tuple[str, ...], code: int, words: list[str]
) -> None:
    options = [option.format(config=world / "config.json") for option in more]
    assert_one_line(run(*arguments(world, "m", "--quiet", *options)), code, *words)
    assert not Path("m").exists()


def test_an_unknown_init_is_one_line(run: Run, world: Path) -> None:
    done = run("train", world / "photos", "-o", "m", "--init", "nowhere", "--quiet")
    assert_one_line(done, 4, "nowhere: no such model", "config.json")
    assert not Path("m").exists()


@pytest.mark.parametrize("wrong", [("--crop", "72"), ("--teacher", "nobody"), ("--held-out", "{small}")], ids=" ".join)
def test_a_refusal_leaves_the_folder_to_the_corrected_command(
    run: Run, world: Path, tmp_path: Path, wrong: tuple[str, ...]
) -> None:
    small_photo(PHOTOS / "lake-sherburne.jpg", tmp_path / "small" / "lake.png", (16, 16))
    refused = run(*arguments(world, "m", *(option.format(small="small") for option in wrong)))
    assert refused.code in {2, 4}, refused.stderr
    assert not Path("m").exists()
    done = run(*arguments(world, "m", "--steps", "1"))
    assert done.code == 0, done.stderr


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(run: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine")
    assert_one_line(run(*arguments(world, "m", "--quiet")), 2, "m: not empty", "-o a new folder")
    assert all_contents(tmp_path / "m") == {"notes.txt": b"mine"}


def test_changed_settings_are_refused_with_both_values(run: Run, whole: Trained, world: Path, copy: Path) -> None:
    done = run(*arguments(world, copy, "--quiet", "--muon-rate", "0.001", "--steps", "9"))
    assert_one_line(done, 2, str(copy), "muon_rate: 0.002 -> 0.001", "num_steps: 8 -> 9", "-o a new folder")
    assert all_contents(copy) == all_contents(whole.folder)


@pytest.mark.parametrize("change", ["more", "fewer", "other"])
def test_changed_images_are_refused(
    run: Run, whole: Trained, world: Path, copy: Path, photos: Path, change: str
) -> None:
    wren = photos / "birds" / "canyon-wren.png"
    if change == "more":
        small_photo(PHOTOS / "birds" / "canyon-wren.jpg", photos / "added.png")
    elif change == "fewer":
        wren.unlink()
    else:
        small_photo(PHOTOS / "lake-sherburne.jpg", wren)
    done = run(*arguments(world, copy, "--quiet", source="photos"))
    assert_one_line(done, 2, str(copy), "images", "-o a new folder")
    assert all_contents(copy) == all_contents(whole.folder)


# --- damaged files --------------------------------------------------------------------------------------------------


def spoilt(kind: str, folder: Path) -> bytes:
    """What is in the place of the state in `folder`."""
    data = bytearray((folder / "training.safetensors").read_bytes())
    if kind == "a flipped bit":
        data[len(data) // 2] ^= 0x40
        return bytes(data)
    others = {"cut short": data[: len(data) // 2], "empty": b"", "a model": (folder / "model.safetensors").read_bytes()}
    return bytes(others[kind])


@pytest.mark.parametrize("kind", ["cut short", "empty", "a flipped bit", "a model"])
def test_a_damaged_state_is_refused_with_advice_and_left_alone(run: Run, world: Path, copy: Path, kind: str) -> None:
    (copy / "training.safetensors").write_bytes(spoilt(kind, copy))
    before = all_contents(copy)
    line = assert_one_line(run(*arguments(world, copy, "--quiet")), 4, str(copy / "training.safetensors"))
    assert "remove" in line or "-o" in line
    assert all_contents(copy) == before


# --- divergence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["decoder.out_proj", "encoder.to_bottleneck", "encoder.patchify.proj"])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_finite_weights(
    run: Run, world: Path, tmp_path: Path, layer: str
) -> None:
    huge = tiny_model(patch_size=PATCH_PX)
    huge.get_parameter(f"{layer}.weight").mul_(1e38)
    huge.save_pretrained(tmp_path / "huge")
    done = run("train", world / "photos", "-o", "m", "--init", "huge", "--crop", "32", "--threads", "1", "--quiet")
    line = assert_one_line(done, 4, "m: ", "in step 1; ", "--init")
    assert re.search("became (inf|nan)", line)
    assert all(tensor.isfinite().all() for tensor in load_file("m/model.safetensors").values())


def test_rates_that_are_far_too_large_end_in_a_line_and_finite_weights(run: Run, world: Path) -> None:
    rates = ["--muon-rate", "10", "--adamw-rate", "10", "--linear-rate-factor", "1", "--clip-norm", "1e9"]
    command = arguments(world, "m", "--quiet", "--init", "random", "--steps", "200", *rates)
    line = assert_one_line(run(*command), 4, "became", "step")
    step = int(re.findall(r"in step (\d+);", line)[0])
    assert 1 < step <= 200
    assert all(tensor.isfinite().all() for tensor in load_file("m/model.safetensors").values())
    assert max(entry["step"] for entry in log_of(Path("m"))) == step - 1
    again = run(*command)
    assert (again.code, again.stderr) == (4, f"{line}\n")


# --- compiling ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_cannot_be_compiled_says_so_and_gives_the_bytes_of_one_that_is_not(
    tmp_path: Path, whole: Trained, world: Path
) -> None:
    without_compiler = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CXX": "/nonexistent/c++", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "semdis_cli", *arguments(world, tmp_path / "m", "--compile", "on")],
        env={**os.environ, **without_compiler},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^semdis: not compiled: .+$", done.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in done.stderr
    assert contents(tmp_path / "m") == contents(whole.folder)


# --- tars -----------------------------------------------------------------------------------------------------------


def pack(path: Path, images: list[Path]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for image in images:
            archive.add(image, image.name)
    return path


@pytest.fixture
def tars(tmp_path: Path, photos: Path) -> Path:
    """`tars` in the folder where `run` is: the photographs in two tars."""
    images = sorted(photos.rglob("*.png"))
    pack(tmp_path / "tars" / "a.tar", images[:4])
    pack(tmp_path / "tars" / "b.tar", images[4:])
    return tmp_path / "tars"


def test_a_folder_of_tars_is_the_same_as_the_tars_in_it(run: Run, world: Path, tars: Path) -> None:
    assert run(*arguments(world, "folder", source=tars)).code == 0
    done = run(*arguments(world, "named", tars / "a.tar", source=tars / "b.tar"))
    assert done.code == 0, done.stderr
    assert "6 images to learn from" in done.stderr
    assert contents(Path("folder")) == contents(Path("named"))


def test_tars_and_folders_can_be_mixed(run: Run, world: Path, photos: Path, tars: Path) -> None:
    done = run(*arguments(world, "m", photos / "birds", "--steps", "1", "--json", source=tars / "b.tar"))
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["images"]["ok"] == 3 + 2


def test_an_unreadable_image_in_a_tar_is_listed(run: Run, world: Path, tmp_path: Path, tars: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pack(tars / "c.tar", [tmp_path / "broken.png"])
    held_out = pack(tmp_path / "held.tar", [tmp_path / "photos" / "lake-sherburne.png"])
    done = run(*arguments(world, "m", "--quiet", "--steps", "1", "--held-out", held_out, source=tars))
    assert done.code == 3
    assert done.stderr.startswith("failed: c/broken.png: ")


@pytest.mark.parametrize("kind", ["cut short", "no tar"])
def test_a_tar_that_cannot_be_read_is_listed_and_costs_what_is_broken(
    run: Run, world: Path, tars: Path, kind: str
) -> None:
    path = tars / "a.tar"
    if kind == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.write_bytes(b"no archive" * 1000)
    if kind == "no tar":
        assert_one_line(run(*arguments(world, "m", "--quiet", source=path)), 2, str(path), "cannot be read")
    done = run(*arguments(world, "n", "--quiet", "--steps", "1", tars / "b.tar", source=path))
    assert (done.code, done.stderr.startswith("failed: a.tar: cannot be read")) == (3, True)


def test_a_tar_that_is_missing_is_refused_by_name(run: Run, world: Path, tars: Path) -> None:
    (tars / "a.tar").unlink()
    done = run(*arguments(world, "m", "--quiet", tars / "b.tar", source=tars / "a.tar"))
    assert_one_line(done, 2, str(tars / "a.tar"), "no such file")
    assert not Path("m").exists()


def test_a_tar_without_images_is_refused_by_what_is_wrong(run: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    path = pack(tmp_path / "texts.tar", [tmp_path / "notes.txt"])
    assert_one_line(run(*arguments(world, "m", "--quiet", source=path)), 2, "images")


def test_two_tars_of_one_name_are_told_apart(run: Run, world: Path, tars: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = Path(shutil.copy(tars / "a.tar", tmp_path / "more" / "a.tar"))
    done = run(*arguments(world, "m", "--steps", "1", "--json", other, source=tars / "a.tar"))
    assert (done.code, json.loads(done.stdout.splitlines()[-1])["images"]["ok"]) == (0, 8)


# --- what is held out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held_out", ["held", "photos/lake-sherburne.png", "{folder}/photos/lake-sherburne.png", "photos/birds"]
)
def test_held_out_images_are_never_learned_from(
    run: Run, world: Path, tmp_path: Path, photos: Path, held_out: str
) -> None:
    """However they are named: other pixels in them change what is measured and no weight."""
    shutil.copytree(photos / "birds", tmp_path / "held")
    source = Path(held_out.format(folder=tmp_path))
    command: list[str | Path] = ["--steps", "2", "--held-out", source]
    first = run(*arguments(world, "first", *command, source="photos"))
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for path in source.rglob("*.png") if source.is_dir() else [source]:
        Image.fromarray(noise).save(path)
    second = run(*arguments(world, "second", *command, source="photos"))
    assert (first.code, second.code) == (0, 0), second.stderr
    assert scores(first.stdout)[0] > scores(second.stdout)[0] + 3
    assert weights(Path("first")) == weights(Path("second"))


def test_held_out_images_that_are_not_there_are_not_replaced_by_others(run: Run, world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(run(*arguments(world, "m", "--quiet", "--held-out", "empty")), 2, "empty")


# --- where to start -------------------------------------------------------------------------------------------------


def test_fine_tuning_starts_at_the_models_own_psnr(run: Run, world: Path, photos: Path, tiny: Path) -> None:
    trained = run(
        *("train", world / "photos", "-o", "m", "--init", tiny, "--held-out", photos / "birds", "--crop", "32"),
        *("--steps", "2", "--batch-size", "2", "--threads", "1", "--dtype", "float32"),
    )
    assert trained.code == 0, trained.stderr
    assert FCDMDiffAEConfig.load("m/config.json") == FCDMDiffAEConfig.load(tiny / "config.json")
    assert weights(Path("m")) != weights(tiny)
    exact = ("--dtype", "float32", "--store-dtype", "float32")
    before = run("roundtrip", photos / "birds", "-o", "before", "--model", tiny, *exact, "--json", "--quiet")
    after = run("roundtrip", photos / "birds", "-o", "after", "--model", "m", *exact, "--json", "--quiet")
    means = [json.loads(done.stdout)["psnr_db"]["mean"] for done in (before, after)]
    # The noise of a roundtrip is another: over 40 draws of it this mean has a deviation of 0.025 dB.
    assert list(scores(trained.stdout).values()) == pytest.approx(means, abs=0.15)


def test_training_starts_from_random_weights_too(run: Run, world: Path) -> None:
    done = run(*arguments(world, "m", "--init", "random", "--steps", "2"))
    assert done.code == 0, done.stderr
    assert 0 < scores(done.stdout)[0] < 15
    assert all(tensor.isfinite().all() for tensor in load_file("m/model.safetensors").values())


@pytest.mark.slow
def test_a_teacher_adds_a_term_and_leaves_nothing_in_the_model(run: Run, world: Path, dinov2: Path) -> None:
    done = run(*arguments(world, "m", "--steps", "2", "--teacher", dinov2, "--alignment", "0.5"))
    assert done.code == 0, done.stderr
    assert f"aligned with {dinov2}" in done.stderr
    terms = [line["alignment"] for line in log_of(Path("m")) if "loss" in line]
    assert len(terms) == 2
    assert all(0 < abs(term) <= 0.5 for term in terms)
    expected = FCDMDiffAE(tiny_config(patch_size=PATCH_PX)).state_dict()
    assert set(load_file("m/model.safetensors")) == set(expected)
    assert any(name.startswith("head:") for name in load_file("m/training.safetensors"))


# --- training does train --------------------------------------------------------------------------------------------


def test_a_few_steps_from_the_closed_form_do_no_harm(run: Run, world: Path) -> None:
    done = run(*arguments(world, "m", "--one-step-share", "1", "--balance", "0.5", "--batch-size", "8"))
    assert done.code == 0, done.stderr
    assert scores(done.stdout)[8] > scores(done.stdout)[0] - 0.1  # the difference is below 0.01


@pytest.mark.slow
def test_training_beats_the_closed_form_on_the_photographs_it_learns_from(
    run: Run, world: Path, tmp_path: Path
) -> None:
    for name in ("lake-sherburne", "oakland-zoo-otters"):
        for folder in ("learned", "copies"):
            small_photo(PHOTOS / f"{name}.jpg", tmp_path / folder / f"{name}.png")
    settings = ["--steps", "60", "--batch-size", "8", "--crop", "64", "--one-step-share", "1", "--path-drop", "0"]
    rates = ["--muon-rate", "0.03", "--adamw-rate", "0.005"]
    done = run(
        *arguments(world, "m", "--held-out", "copies", *settings, *rates, "--measure-every", "60", source="learned")
    )
    assert done.code == 0, done.stderr
    assert scores(done.stdout)[60] > scores(done.stdout)[0] + 0.6  # 1.2 measured
