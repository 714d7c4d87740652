"""`semdis encode` with the options that say which pixels of which images are encoded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.store.index import read_rows
from tests.cli.conftest import Outcome, Run


def write_image(path: Path, size: tuple[int, int]) -> None:
    """A PNG of noise, `size` (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, size in {"flat": (40, 90), "small": (20, 30), "square": (64, 64), "tall": (150, 50)}.items():
        write_image(tmp_path / "photos" / f"{name}.png", size)
    return tmp_path / "photos"


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    def call(*options: str | Path, output: str = "latents") -> Outcome:
        return run("encode", photos, "-o", output, "--model", tiny, "--threads", "1", *options)

    return call


def manifest(root: Path) -> dict[str, Any]:
    fields = json.loads((root / "manifest.json").read_bytes())
    assert isinstance(fields, dict)
    return fields


def test_adms_crop_is_on_record_and_goes_with_no_other_resize(tmp_path: Path, encode: Run) -> None:
    assert encode("--size", "32", "--resize", "adm").code == 0
    preprocessing = manifest(tmp_path / "latents")["provenance"]["preprocessing"]
    assert preprocessing["resize"] == "pillow box, bicubic"
    assert preprocessing["geometry"] == {"size": 32, "max_pixels": None, "bucket_size": None, "resize": "adm"}
    other = encode("--size", "32", "--mix-versions")
    assert other.code == 2
    assert "--mix-versions does not go as far as preprocessing.geometry.resize" in other.stderr


def test_buckets_are_given_as_width_by_height_and_counted_beforehand(tmp_path: Path, encode: Run) -> None:
    options = ("--bucket", "96x48", "--bucket", "32x64", "--bucket", "64x64")
    planned = encode(*options, "--dry-run", "--json")
    counts = [
        {"image_px": [48, 96], "images": 2},
        {"image_px": [64, 32], "images": 1},
        {"image_px": [64, 64], "images": 1},
    ]
    assert json.loads(planned.stdout)["buckets"] == counts
    lines = encode(*options, "--dry-run").stdout.splitlines()
    assert lines[1:] == ["bucket 96x48: 2 images", "bucket 32x64: 1 image", "bucket 64x64: 1 image"]
    assert encode(*options).code == 0
    record = manifest(tmp_path / "latents")
    assert record["provenance"]["preprocessing"]["geometry"]["buckets"] == [[48, 96], [64, 32], [64, 64]]
    grids = [shard["name"].partition("-")[2] for shard in record["shards"]]
    assert grids == ["3x6.safetensors", "4x2.safetensors", "4x4.safetensors"]
    again = encode("--bucket", "64x64", *options, "--json")  # in another order, and one of them twice
    assert json.loads(again.stdout)["unchanged"] == 4


def test_bucket_sizes_are_counted_beforehand_too(encode: Run) -> None:
    lines = encode("--bucket-size", "64", "--dry-run").stdout.splitlines()
    assert lines[1:] == ["bucket 64x64: 4 images"]
    assert len(encode("--size", "32", "--dry-run").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--max-pixels", "1000"),
        ("--size", "32"),
        ("--size", "48", "--resize", "adm"),
        ("--size", "32,48", "--crops", "2"),
        ("--bucket", "96x48", "--bucket", "32x64", "--crops", "2"),
        ("--bucket-size", "64"),
    ],
    ids="".join,
)
def test_what_was_cut_out_where_is_given_with_the_latents(
    tmp_path: Path, encode: Run, options: tuple[str, ...]
) -> None:
    assert encode(*options).code == 0
    rows = {row.key: row.record.geometry for row in read_rows(tmp_path / "latents" / "index.jsonl") if row.record}
    dataset = LatentDataset(tmp_path / "latents")
    assert len(dataset) == len(rows) >= 4
    for item in dataset:
        geometry = rows[item.key]
        assert item.source_size.tolist() == list(geometry.source)
        assert item.resized_size.tolist() == list(geometry.resized)
        assert item.crop.tolist() == list(geometry.crop)
        assert item.image_size.tolist() == list(geometry.image)
    if options == ("--size", "32"):  # the wide one is cut at its sides, the tall one above and below
        assert {item.key: item.crop.tolist() for item in dataset} == {
            "flat.png": [0, 20], "small.png": [0, 8], "square.png": [0, 0], "tall.png": [32, 0]
        }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--bucket", "512"), "'512' is no bucket; write width and height like 512x288"),
        (("--bucket", "500x288"), "multiples of the model's patch of 16 px, not 500x288"),
        (("--bucket", "64x64", "--size", "32"), "give only one of --size, --bucket"),
        (("--resize", "adm"), "adm goes with --size alone"),
        (("--resize", "adm", "--bucket-size", "64"), "adm goes with --size alone"),
        (("--resize", "adm", "--size", "32", "--jpeg-scaling"), "does not go with --resize adm"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_done(
    tmp_path: Path, encode: Run, options: tuple[str, ...], complaint: str
) -> None:
    done = encode(*options)
    assert done.code == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "latents").exists()
