"""The way from a set to what REPA reads, as the page on exports shows it: latents and pictures, pair by pair."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cli.conftest import Run
from tests.store.labelled import raw_in
from tests.test_readme import PROJECT, blocks, script
from tests.test_readme import run as run_example
from tests.worlds import save_noise

pytestmark = pytest.mark.slow

# Pictures have other suffixes, after which they sort in another order; two share all but theirs.
DECODED = {
    "cat/a.jpg": "cat/a.png",
    "cat/a.k.jpg": "cat/a.k.png",
    "dog/b.jpg": "dog/b.jpg.png",
    "dog/b.png": "dog/b.png.png",
    "dog/c.jpg": "dog/c.png",
}


def repa_items(root: Path) -> list[tuple[str, NDArray[np.uint8], NDArray[Any], int]]:
    """Path of the picture, picture, moments and label of each: both folders sorted, and paired by their places."""

    def names(folder: Path, suffix: str) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}"))

    pictures, features = root / "images", root / "vae-sd"
    labels = dict(json.loads((features / "dataset.json").read_text())["labels"])
    items = []
    for picture, moments in zip(names(pictures, ".png"), names(features, ".npy"), strict=True):
        pixels = np.array(Image.open(pictures / picture)).transpose(2, 0, 1)
        array = np.load(features / moments, allow_pickle=False)  # noqa: TID251 # as that does
        items.append((picture, pixels, array, labels[moments]))
    return items


def test_pictures_that_decode_makes_are_paired_with_their_latents(tiny: Path, run: Run, tmp_path: Path) -> None:
    for seed, key in enumerate([*DECODED, "a.jpg"]):  # the last has no label, so no latents leave, but a picture does
        save_noise(tmp_path / "photos" / key, seed, (32, 32))
    options = "--labels", "folders", "--posterior", "moments", "--threads", "1"
    assert run("encode", "photos", "-o", "latents", "--model", tiny, *options).code in {0, 3}
    assert run("export", "latents", "-o", "repa/vae-sd", "--format", "edm2").code == 3
    assert run("decode", "latents", "-o", "decoded").code == 0
    page = (PROJECT / "docs" / "commands" / "export.md").read_text(encoding="utf-8")
    [block] = [block for block in blocks(page) if "repa/images" in block.text]
    assert run_example(script(block), tmp_path) == ""

    items, raw = repa_items(tmp_path / "repa"), raw_in(tmp_path / "latents")
    assert len(items) == len(DECODED)
    for (name, pixels, moments, label), (key, decoded) in zip(items, DECODED.items(), strict=True):
        number = sorted(raw).index(key)
        assert name == f"00000/img{number:08d}.png"
        assert np.array_equal(pixels, np.array(Image.open(tmp_path / "decoded" / decoded)).transpose(2, 0, 1))
        assert np.array_equal(moments[: len(raw[key])], raw[key].numpy())
        assert label == key.startswith("dog")
