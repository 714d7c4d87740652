"""`semdis attach --tensors` as people run it: real images, real files, real exit codes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from semdis_cli.dataset.latent_dataset import LatentDataset
from tests import forks
from tests.cli.conftest import PHOTOS, Outcome, Run
from tests.store import KEYS, contents, flip_last_bit, make_plan, problems, write_set

NAMES = ("a", "b", "c")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name, path in zip(NAMES, sorted(PHOTOS.rglob("*.jpg")), strict=False):
        with Image.open(path) as image:
            image.resize((32, 32)).save(tmp_path / "photos" / f"{name}.jpg")
    return tmp_path / "photos"


@pytest.fixture
def root(tmp_path: Path, photos: Path, tiny: Path, run: Run) -> Path:
    assert encode(run, photos, tiny).code == 0
    return tmp_path / "latents"


def encode(run: Run, photos: Path, tiny: Path) -> Outcome:
    return run("encode", photos, "--model", tiny, "--threads", "1")


def save_embeddings(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        np.save(folder / f"{name}.npy", np.full((number, 8), number, np.float16))
    return folder


def test_embeddings_are_attached_shown_verified_read_and_removed(root: Path, tmp_path: Path, run: Run) -> None:
    before = contents(root)
    done = run("attach", root, "--tensors", save_embeddings(tmp_path / "t5"), "--as", "t5", "--json")
    assert (done.code, json.loads(done.stdout)["tensors"]) == (0, {"t5": 3})
    assert f"semdis: {root}: t5 (3); 3 images changed" in done.stderr
    shown = run("inspect", root).stdout
    assert (
        "  name  dtype    shape     images  missing       size\n  t5    float16  1..3 x 8       3        0  " in shown
    )
    assert json.loads(run("inspect", root, "--json").stdout)["tensors"]["t5"]["lengths"] == [1, 3]
    assert run("verify", root, "--data").code == 0
    assert [item.columns["t5"].shape for item in LatentDataset(root, columns=["t5"])] == [(1, 8), (2, 8), (3, 8)]
    flip_last_bit(root / "columns" / "00000000-t5.safetensors")
    damaged = run("verify", root, "--data")
    assert damaged.code == 4
    assert "bad: columns/00000000-t5.safetensors: its bytes do not match the sha256" in damaged.stderr
    done = run("attach", root, "--remove", "t5")
    assert (done.code, contents(root).keys()) == (0, before.keys())
    assert "no columns; 3 images changed" in done.stderr


def test_troubles_are_lines_and_exit_code_3(root: Path, tmp_path: Path, run: Run) -> None:
    folder = save_embeddings(tmp_path / "t5", ("a", "b", "x"))
    (folder / "b.npy").write_bytes(b"half")
    done = run("attach", root, "--tensors", folder, "--as", "t5")
    assert done.code == 3
    assert [line for line in done.stderr.splitlines() if line.startswith("column: ")] == [
        f"column: {folder}/b.npy: cannot be used: is no array of NumPy",
        "column: b.jpg: has no tensor t5",
        "column: c.jpg: has no tensor t5",
        f"column: {folder}/x.npy: is about no image of the set: none is called 'x'",
    ]
    again = run("attach", root, "--tensors", save_embeddings(tmp_path / "again", ("c",)), "--as", "t5")
    assert again.code == 3
    assert "column: a.jpg: gets no new tensor t5; one that it has stays" in again.stderr.splitlines()
    done = run("attach", root, "--tensors", save_embeddings(tmp_path / "more", ("b",)), "--as", "t5", "--partial")
    assert (done.code, "t5 (3); 1 image changed" in done.stderr) == (0, True)


def test_one_shard_has_no_columns_and_gets_none(root: Path, tmp_path: Path, run: Run) -> None:
    shard = next((root / "shards").iterdir())
    done = run("attach", shard, "--tensors", save_embeddings(tmp_path / "t5", ("a",)), "--as", "t5")
    reason = "a file, not a set of latents; give the folder that semdis encode wrote"
    assert (done.code, done.stderr.splitlines()[-1]) == (4, f"semdis: {shard}: {reason}")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tensors", "t5"], "--as: is missing: it says which column arrays like t5/a.npy are for"),
        (["--as", "t5"], "--as: goes with --tensors"),
        (["t.jsonl", "--tensors", "t5", "--as", "t5"], "--tensors: goes without tables"),
        (["--tensors", "t5", "--as", "label"], "is no name of a column of tensors"),
        (["--tensors", "t5", "--as", "t5", "--columns", "a"], "--columns: says which tensors"),
        (["--tensors", "s3://bucket/t5", "--as", "t5"], "takes no URL"),
        (["--tensors", "-", "--as", "t5"], "encode and decode alone read and write pipes"),
        ([], "name a table, --tensors, or columns to --remove"),
    ],
)
def test_what_makes_no_sense_is_refused(
    root: Path, tmp_path: Path, run: Run, arguments: list[str], reason: str
) -> None:
    save_embeddings(tmp_path / "t5")
    (tmp_path / "t.jsonl").write_text('{"key": "a.jpg", "caption": "a"}\n')
    before = contents(root)
    done = run("attach", "latents", *arguments)
    assert done.code == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())
    assert contents(root) == before


def test_a_set_goes_on_growing_and_counts_who_lacks_the_tensor(
    root: Path, tmp_path: Path, photos: Path, tiny: Path, run: Run
) -> None:
    run("attach", root, "--tensors", save_embeddings(tmp_path / "t5"), "--as", "t5")
    Image.new("RGB", (32, 32), "red").save(photos / "d.jpg")
    Image.new("RGB", (32, 32), "blue").save(photos / "a.jpg")
    (photos / "c.jpg").unlink()
    assert encode(run, photos, tiny).code == 0
    facts = json.loads(run("inspect", root, "--json").stdout)["tensors"]["t5"]
    assert (facts["images"], facts["missing"]) == (1, 2)  # that of b.jpg, which is as it was
    assert run("verify", root, "--data").code == 0


@pytest.mark.parametrize("kind", ["webdataset", "safetensors", "parquet"])
def test_an_export_says_that_it_leaves_tensors_out(root: Path, tmp_path: Path, run: Run, kind: str) -> None:
    run("attach", root, "--tensors", save_embeddings(tmp_path / "t5"), "--as", "t5")
    done = run("export", root, "-o", tmp_path / "out", "--format", kind)
    assert done.code == 0
    assert "columns of tensors are not exported (t5): LatentDataset gives them" in done.stderr


def test_a_process_that_is_killed_leaves_the_set_as_it_was_and_the_next_one_finishes(tmp_path: Path) -> None:
    root, source = tmp_path / "set", tmp_path / "t5"
    write_set(root, make_plan())
    source.mkdir()
    good = [key for key in KEYS if "bad" not in key]
    for number, key in enumerate(good):
        path = source / f"{key}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({"t5": torch.full((1 << 22, 2), number, dtype=torch.int8)}, path)
    before = contents(root)
    process = subprocess.Popen(forks.semdis("attach", root, "--tensors", source), stderr=subprocess.PIPE, cwd=tmp_path)
    while not list(root.glob("journal/base-*/columns/*")):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(forks.pid_of(process), signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = contents(root)
    assert {name: left[name] for name in before} == before
    assert len(LatentDataset(root)) == len(good)
    done = subprocess.run(
        forks.semdis("attach", root, "--tensors", source), capture_output=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert problems(root) == []
    assert [int(item.columns["t5"][-1, 0]) for item in LatentDataset(root, columns=["t5"])] == list(range(len(good)))
    assert {path.name for path in root.iterdir()} == {*before_names(before), "columns"}


def before_names(before: dict[str, bytes | None]) -> set[str]:
    return {name.split("/")[0] for name in before}
