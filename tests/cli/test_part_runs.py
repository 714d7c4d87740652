"""`semdis encode --part`: processes that write one set, each by itself, as people and launchers start them."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import forks
from tests.cli.conftest import Outcome, Run
from tests.store import lasting
from tests.worlds import save_noise

NUM_PHOTOS = 14
LONG_AGO_S = time.time() - 3600


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(NUM_PHOTOS):
        path = save_noise(tmp_path / "photos" / f"{seed}.png", seed, (32, 48) if seed % 3 else (48, 32))
        path.with_suffix(".txt").write_text(f"picture {seed}")
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    os.utime(tmp_path / "photos" / "broken.png", (LONG_AGO_S, LONG_AGO_S))
    return tmp_path / "photos"


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    """Encodes the photos; three to a shard."""

    def call(*options: str | Path, output: str = "latents") -> Outcome:
        return run("encode", photos, "-o", output, "--model", tiny, "--threads", "1", "--shard-images", "3", *options)

    return call


@pytest.fixture
def whole(encode: Run, tmp_path: Path) -> Path:
    """The set as one process writes it."""
    assert encode(output="whole").code == 3
    return tmp_path / "whole"


def test_three_parts_make_the_set_that_one_run_makes(encode: Run, whole: Path, tmp_path: Path) -> None:
    codes = [encode("--part", part).code for part in ("2/3", "0/3", "1/3")]
    assert codes == [0, 3, 3]  # the first part tells of what cannot be used, the last one of the set
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_a_part_says_what_is_missing_and_the_last_one_what_there_is(encode: Run, tmp_path: Path) -> None:
    first = encode("--part", "0/2", "--json")
    report = json.loads(first.stdout)
    assert "part 0/2; " in first.stderr
    assert "missing yet: part 1/2" in first.stderr
    assert (report["part"], report["parts_missing"]) == ("0/2", ["1/2"])
    assert json.loads((tmp_path / "latents/journal/0-of-2.report.json").read_bytes()) == report
    last = json.loads(encode("--part", "1/2", "--json").stdout)
    assert (last["part"], last["parts_missing"], last["images"]["ok"]) == ("1/2", [], NUM_PHOTOS)
    assert report["part_images"]["ok"] + last["part_images"]["ok"] == NUM_PHOTOS
    assert json.loads((tmp_path / "latents/report.json").read_bytes()) == last


def test_a_part_that_is_run_again_has_nothing_to_do(encode: Run, whole: Path, tmp_path: Path) -> None:
    encode("--part", "0/2")
    assert json.loads(encode("--part", "0/2", "--json").stdout)["images"]["this_run"] == 0
    encode("--part", "1/2")
    for part in ("0/2", "1/2", "5/7"):
        again = encode("--part", part, "--json")
        assert (again.code, json.loads(again.stdout)["images"]["this_run"]) == (3, 0)
    assert lasting(tmp_path / "latents") == lasting(whole)


LAUNCHERS = {
    "a job array": ({"SLURM_ARRAY_TASK_COUNT": "2"}, "SLURM_ARRAY_TASK_ID"),
    "srun": ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}, "SLURM_PROCID"),
    "torchrun": ({"WORLD_SIZE": "2"}, "RANK"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_deals_out_the_parts(
    encode: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    fixed, number = LAUNCHERS[launcher]
    for name, value in fixed.items():
        monkeypatch.setenv(name, value)
    for index in range(2):
        monkeypatch.setenv(number, str(index))
        assert f"semdis: part {index}/2, as {number}={index}, " in encode().stderr
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_none_has_one_process_do_all_whatever_a_launcher_says(
    encode: Run, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    encode("--part", "none")
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_a_set_is_finished_by_hand(encode: Run, run: Run, whole: Path, tmp_path: Path) -> None:
    encode("--part", "0/2")
    refused = run("finish", "latents")
    assert (refused.code, refused.stdout) == (2, "")
    assert "shards are not there; run again semdis encode with --part 1/2" in refused.stderr
    encode("--part", "1/2")
    done = run("finish", "latents")
    assert done.code == 3, done.stderr
    assert lasting(tmp_path / "latents") == lasting(whole)


WRONG = {
    "no part": (("--part", "2"), "a part is written i/n, as 0/8 to 7/8, or none"),
    "one too many": (("--part", "2/2"), "parts of 2 are numbered from 0 to 1"),
    "a stream": (("--part", "0/2", "-o", "-"), "goes with a folder"),
    "a dry run": (("--part", "0/2", "--dry-run"), "tells of all parts together"),
    "a list on stdin": (("--part", "0/2", "--files-from", "-"), "which stdin is not"),
    "a store": (("--part", "0/2", "-o", "memory://latents"), "parts need a folder that all of them see"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_part_that_cannot_be_is_refused_before_work(encode: Run, tmp_path: Path, case: str) -> None:
    options, why = WRONG[case]
    refused = encode(*options)
    assert refused.code == 2
    assert why in " ".join(refused.stderr.replace("│", " ").split())
    assert not (tmp_path / "latents").exists()


def test_a_part_with_other_settings_is_refused_by_name(encode: Run, whole: Path, tmp_path: Path) -> None:
    encode("--part", "0/2")
    refused = encode("--part", "1/2", "--size", "32")
    assert refused.code == 2
    assert "size" in refused.stderr
    encode("--part", "1/2")
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_a_part_with_other_inputs_is_refused(encode: Run, photos: Path, whole: Path, tmp_path: Path) -> None:
    encode("--part", "0/2")
    shutil.copy(photos / "1.png", photos / "more.png")
    refused = encode("--part", "1/2")
    assert refused.code == 2
    assert "other inputs" in refused.stderr
    assert "once without --part" in refused.stderr
    (photos / "more.png").unlink()
    encode("--part", "1/2")
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_parts_started_at_once_make_the_same_set(photos: Path, tiny: Path, whole: Path, tmp_path: Path) -> None:
    options = ["encode", photos, "-o", "latents", "--model", tiny, "--threads", "1", "--shard-images", "3", "-q"]
    command = [*map(str, options), "--workers", "1", "--part"]
    started = [
        subprocess.Popen(forks.semdis(*command, f"{index}/3"), cwd=tmp_path, stderr=subprocess.PIPE)
        for index in range(3)
    ]
    errors = [process.communicate()[1] for process in started]
    assert {process.returncode for process in started} <= {0, 3}, errors
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_verify_and_inspect_know_an_unfinished_set_by_its_parts(encode: Run, run: Run, tmp_path: Path) -> None:
    encode("--part", "1/2")
    found = run("verify", "latents")
    assert found.code == 4
    assert "unfinished" in found.stderr
    assert "damaged" not in found.stderr
    assert (tmp_path / "latents/journal/1-of-2.jsonl").exists()


@pytest.mark.slow
def test_parts_of_a_plan_by_several_processes_each_make_the_set_that_one_run_makes(
    encode: Run, run: Run, photos: Path, whole: Path, tiny: Path, tmp_path: Path
) -> None:
    planned = run("plan", photos, "-o", "latents", "--model", tiny, "--threads", "1", "--shard-images", "3")
    assert planned.code in {0, 3}, planned.stderr
    assert encode("--part", "1/2", "--processes", "2", "--device", "cpu").code == 0
    assert encode("--part", "0/2", "--processes", "3", "--device", "cpu", "--json").code == 3
    assert lasting(tmp_path / "latents") == lasting(whole)
    assert json.loads((tmp_path / "latents/report.json").read_bytes())["processes"] == 3


# --- all kinds of sets ----------------------------------------------------------------------------------------------


def folders_of_one_name(photos: Path) -> list[str | Path]:
    """Two folders that have the same name, and images of the same names, of other contents."""
    other = photos.parent / "other" / "photos"
    for seed in range(4):
        path = save_noise(other / f"{seed}.png", 100 + seed, (32, 32))
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return [photos, other]


KINDS: dict[str, tuple[str, ...]] = {
    "views": ("--size", "16,32"),
    "crops": ("--size", "32", "--crops", "2"),
    "samples and twins": ("--posterior", "sample", "--seed", "3", "--flip", "both"),
    "filters": ("--min-size", "32", "--max-aspect", "1.4", "--dedupe"),
    "folders of one name": ("--shard-images", "30"),  # so that the first part has those of one folder alone
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_make_sets_of_all_kinds_as_one_run_does(
    photos: Path, tiny: Path, run: Run, tmp_path: Path, kind: str
) -> None:
    sources = folders_of_one_name(photos) if "folders" in kind else [photos]
    shutil.copy2(photos / "1.png", photos / "twin of 1.png")
    options = ["--model", tiny, "--threads", "1", "--shard-images", "3", *KINDS[kind]]
    assert run("encode", *sources, "-o", "whole", *options).code == 3
    codes = [run("encode", *sources, "-o", "latents", *options, "--part", part).code for part in ("0/3", "2/3", "1/3")]
    assert codes[-1] == 3, codes
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "whole")


def test_a_set_with_tensors_grows_by_parts_as_by_one_run(
    encode: Run, run: Run, photos: Path, whole: Path, tmp_path: Path
) -> None:
    save_file({f"{seed}.png": torch.full((3,), float(seed)) for seed in range(9)}, tmp_path / "embeddings.safetensors")
    attached = run("attach", "whole", "--tensors", "embeddings.safetensors", "--as", "t5", "--partial")
    assert attached.code == 0, attached.stderr
    shutil.copytree(whole, tmp_path / "latents")
    (photos / "2.png").unlink()
    for seed in (50, 51, 52, 53):
        os.utime(save_noise(photos / f"{seed}.png", seed, (32, 48)), (LONG_AGO_S, LONG_AGO_S))
    assert encode(output="whole").code == 3
    codes = [encode("--part", part).code for part in ("1/2", "0/2")]
    assert codes[-1] == 3
    assert lasting(tmp_path / "latents") == lasting(whole)
    assert run("verify", "latents", "--data").code == 0


def test_nothing_is_attached_to_what_parts_have_begun(encode: Run, run: Run, tmp_path: Path) -> None:
    encode("--part", "0/2")
    (tmp_path / "table.jsonl").write_text('{"key": "1.png", "caption": "one"}\n')
    before = lasting(tmp_path / "latents")
    refused = run("attach", "latents", "table.jsonl")
    assert refused.code in {2, 4}
    assert lasting(tmp_path / "latents") == before


@pytest.mark.parametrize("verb", ["export", "decode", "inspect"])
def test_what_parts_have_begun_is_no_set_yet(encode: Run, run: Run, tmp_path: Path, verb: str) -> None:
    encode("--part", "0/2")
    before = lasting(tmp_path / "latents")
    refused = run(verb, "latents", *(() if verb == "inspect" else ("-o", "out")))
    assert refused.code in {2, 4}
    assert "Traceback" not in refused.stderr
    assert "unfinished" in refused.stderr or "not finished" in refused.stderr or "semdis encode" in refused.stderr
    assert lasting(tmp_path / "latents") == before
