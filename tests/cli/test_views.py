"""`semdis encode` of several images of each file: sizes and crops in one set, which follows the files as any other."""

import io
import json
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.store.index import read_rows
from tests.cli.conftest import Run, semdis
from tests.cli.test_filters import encoder, outcomes, report, write_photos
from tests.cli.test_grow import stored
from tests.cli.test_what_is_encoded import manifest, write_image
from tests.torture.harness import wait_until_settled

SIZES = {"flat": (40, 90), "square": (64, 64), "tall": (150, 50)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", SIZES)


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    return encoder(photos, tiny, run)


def test_every_image_is_there_in_every_size_with_the_latents_of_a_set_of_that_size(
    tmp_path: Path, encode: Run, run: Run
) -> None:
    planned = report(encode("--size", "64,32", "--dry-run"))
    assert planned["images"]["inputs"] == 6
    assert planned["buckets"] == [{"image_px": [32, 32], "images": 3}, {"image_px": [64, 64], "images": 3}]
    assert report(encode("--size", "64,32"))["images"] == {"ok": 6, "failed": 0, "this_run": 6}
    both = stored(tmp_path / "latents")
    assert sorted(both) == sorted(f"{name}#{size}.png" for name in SIZES for size in (32, 64))
    for size in ("32", "64"):
        assert encode("--size", size, output=size).code == 0
        assert stored(tmp_path / size) == {f"{name}.png": both[f"{name}#{size}.png"] for name in SIZES}
    assert manifest(tmp_path / "latents")["provenance"]["preprocessing"]["geometry"]["size"] == [32, 64]
    assert report(encode("--size", "32,64"))["unchanged"] == 6
    assert "geometry.size: [32, 64] -> [32, 48]" in encode("--size", "32,48").stderr
    assert run("verify", "latents", "--data").code == 0


@pytest.mark.slow
def test_a_set_of_views_is_held_against_its_files(photos: Path, encode: Run, run: Run) -> None:
    assert encode("--size", "32,64", "--crops", "3").code == 0
    assert run("verify", "latents", "--data", "--against", photos).code == 0
    write_image(photos / "new.png", (70, 80))
    (photos / "tall.png").unlink()
    found = run("verify", "latents", "--against", photos)
    assert found.code == 4
    assert found.stderr.count("new: not in the index") == found.stderr.count("missing: in the index") == 6
    assert "new#32crop1.png" in found.stderr


@pytest.mark.slow
def test_a_set_of_views_follows_its_files(tmp_path: Path, photos: Path, encode: Run) -> None:
    options = ("--size", "32,64", "--crops", "2")
    assert report(encode(*options))["images"]["this_run"] == 12
    root = tmp_path / "latents"
    before = (root / "index.jsonl").read_bytes()
    again = report(encode(*options))
    assert (again["images"]["this_run"], again["unchanged"]) == (0, 12)
    write_image(photos / "new.png", (70, 80))
    write_image(photos / "flat.png", (33, 77))  # another picture
    (photos / "tall.png").unlink()
    os.utime(photos / "square.png", (time.time() - 99, time.time() - 99))  # touched: its content tells
    grown = report(encode(*options))
    assert (grown["images"]["this_run"], grown["unchanged"], grown["changed"], grown["removed"]) == (8, 4, 4, 4)
    assert encode(*options, output="anew").code == 0
    assert stored(root) == stored(tmp_path / "anew")
    write_image(photos / "flat.png", SIZES["flat"])
    write_image(photos / "tall.png", SIZES["tall"])
    (photos / "new.png").unlink()
    back = report(encode(*options))
    assert (back["images"]["this_run"], back["unchanged"]) == (4, 8)
    geometries = {row.key: row.record.geometry for row in read_rows(root / "index.jsonl") if row.is_ok and row.record}
    (tmp_path / "before.jsonl").write_bytes(before)
    first = {row.key: row.record.geometry for row in read_rows(tmp_path / "before.jsonl") if row.record}
    assert geometries == first


@pytest.mark.slow
def test_crops_are_added_and_taken_away_without_encoding_the_others_again(tmp_path: Path, encode: Run) -> None:
    root = tmp_path / "latents"
    assert report(encode("--size", "32", "--crops", "2"))["images"]["this_run"] == 6
    two = stored(root)
    assert sorted(two)[:2] == ["flat#crop1.png", "flat#crop2.png"]
    assert report(encode("--size", "32", "--crops", "3"))["images"]["this_run"] == 3
    assert two.items() <= stored(root).items()
    assert report(encode("--size", "32", "--crops", "1"))["images"]["this_run"] == 0
    assert sorted(stored(root)) == ["flat#crop1.png", "square#crop1.png", "tall#crop1.png"]
    for options in (("--size", "32"), ("--size", "32", "--crops", "2", "--seed", "1")):
        done = encode(*options)
        assert done.code == 2
        assert "preprocessing.geometry.crop_seed" in done.stderr


@pytest.mark.slow
def test_a_file_that_cannot_be_read_is_a_failure_in_every_view(tmp_path: Path, photos: Path, encode: Run) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    done = encode("--size", "32,64")
    assert (done.code, json.loads(done.stdout)["images"]["failed"]) == (3, 2)
    assert {key for key, outcome in outcomes(tmp_path / "latents").items() if outcome == "failed"} == {
        "bad#32.png", "bad#64.png"
    }  # fmt: skip


@pytest.mark.slow
def test_a_set_of_views_keeps_its_keys_when_sources_are_added(
    tmp_path: Path, photos: Path, tiny: Path, run: Run
) -> None:
    write_image(tmp_path / "more" / "flat.png", (64, 80))
    wait_until_settled(photos)
    common = ("-o", "latents", "--model", tiny, "--threads", "1", "--size", "32,64", "--json")
    assert run("encode", photos, *common).code == 0
    grown = report(run("encode", photos, tmp_path / "more", *common))
    assert (grown["images"]["this_run"], grown["unchanged"], grown["removed"]) == (2, 6, 0)
    assert {"flat#32.png", "more/flat#32.png"} <= set(stored(tmp_path / "latents"))


@pytest.mark.slow
def test_filters_judge_each_view_and_twins_are_files(tmp_path: Path, photos: Path, encode: Run) -> None:
    shutil.copy(photos / "flat.png", photos / "copy.png")
    done = report(encode("--size", "32,64", "--no-upscale", "--dedupe"))
    assert done["left_out"] == {"dedupe": 1, "no_upscale": 3}
    assert sorted(stored(tmp_path / "latents")) == ["copy#32.png", "square#32.png", "square#64.png", "tall#32.png"]
    again = report(encode("--size", "32,64", "--no-upscale", "--dedupe"))
    assert (again["images"]["this_run"], again["left_out"]) == (0, done["left_out"])


def test_an_image_on_stdin_becomes_a_tar_of_its_views(tmp_path: Path, photos: Path, tiny: Path) -> None:
    data = (photos / "flat.png").read_bytes()
    done = semdis("encode", "-", "-o", "-", "--model", tiny, "--size", "32", "--crops", "2", cwd=tmp_path, stdin=data)
    assert done.code == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(os.fsencode(done.stdout))) as tar:
        assert [name.rpartition("/")[2] for name in tar.getnames()] == [
            "stdin#crop1.png.safetensors", "stdin#crop2.png.safetensors"
        ]  # fmt: skip
    into_folder = semdis("encode", "-", "--model", tiny, "--size", "32,64", cwd=tmp_path, stdin=data)
    assert (into_folder.code, sorted(stored(tmp_path / "latents"))) == (0, ["stdin#32.png", "stdin#64.png"])


def columns_of(root: Path) -> dict[str, dict[str, Any]]:
    rows = read_rows(root / "index.jsonl")
    return {row.key: dict(row.record.columns) for row in rows if row.record is not None and row.is_ok}


def test_all_views_of_a_file_have_its_columns(tmp_path: Path, photos: Path, encode: Run) -> None:
    for name in SIZES:
        (photos / f"{name}.txt").write_text(f"a {name} picture")
    (tmp_path / "scores.csv").write_text("key,score\nflat.png,1\ntall.png,2\nsquare.png,3\n")
    options = ("--size", "32,64", "--table", "scores.csv", "--captions", "txt", "--labels", "none")
    assert encode(*options, "--crops", "2").code == 0
    found = columns_of(tmp_path / "latents")
    assert len(found) == 12
    for key, columns in found.items():
        name = key.partition("#")[0]
        score = {"flat": "1", "tall": "2", "square": "3"}[name]
        assert columns == {"caption": f"a {name} picture", "score": score}
    (photos / "tall.txt").unlink()
    grown = encode(*options, "--crops", "3")
    assert (grown.code, json.loads(grown.stdout)["images"]["this_run"]) == (3, 6)
    assert json.loads(grown.stdout)["column_troubles"] == 1
    assert columns_of(tmp_path / "latents")["flat#64crop3.png"] == {"caption": "a flat picture", "score": "1"}


@pytest.mark.slow
def test_trouble_with_the_columns_of_a_file_is_told_once(photos: Path, encode: Run) -> None:
    for name in ("flat", "square"):
        (photos / f"{name}.txt").write_text(f"a {name} picture")
    done = encode("--size", "32,64", "--crops", "2", "--captions", "txt")
    assert (done.code, json.loads(done.stdout)["column_troubles"]) == (3, 1)
    assert done.stderr.count("tall.png: has no caption") == 1


def test_roundtrip_measures_every_view(photos: Path, tiny: Path, run: Run) -> None:
    done = run("roundtrip", photos, "--model", tiny, "--size", "32", "--crops", "2", "-q")
    assert done.code == 0
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()[:2]] == ["flat#crop1.png", "flat#crop2.png"]
    assert (Path("roundtrip") / "flat#crop1.png").exists()


def test_datasets_give_every_view(tmp_path: Path, encode: Run) -> None:
    assert encode("--size", "32,64").code == 0
    dataset = LatentDataset(tmp_path / "latents")
    assert {item.key: item.image_size.tolist() for item in dataset} == {
        f"{name}#{size}.png": [size, size] for name in SIZES for size in (32, 64)
    }


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--size", "32,"), "'32,' is no size; write 256, or 256,512 for several"),
        (("--size", "32,32"), "several sizes from 1 px on, each once"),
        (("--size", "32,40"), "multiple of the model's patch of 16 px, not 40"),
        (("--crops", "2"), "goes with --size, --bucket-size or --bucket"),
        (("--crops", "0", "--size", "32"), "greater than or equal to 1"),
    ],
)
def test_views_that_cannot_be_are_refused(encode: Run, options: tuple[str, ...], complaint: str) -> None:
    done = encode(*options)
    assert done.code == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())


def test_the_bench_takes_one_size(tiny: Path, run: Run) -> None:
    done = run("bench", "--model", tiny, "--size", "32,64")
    assert done.code == 2
    assert "one size here" in done.stderr
