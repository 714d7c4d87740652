"""The Python examples of docs/, run as they stand, each by itself; and a figure that stands on two pages."""

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semdis_cli.model.noise import noise_of_images
from tests import forks
from tests.test_readme import PROJECT, Block, blocks, run, script

MARKDOWN = (PROJECT / "docs" / "dataset.md").read_text(encoding="utf-8")
SCRIPTS = [block for block in blocks(MARKDOWN) if block.language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sets: of two sizes with twins and posteriors, with captions, labels and tensors, and with masks."""
    folder = tmp_path_factory.mktemp("examples")
    photos = PROJECT / "tests" / "photos"
    options = "--flip", "both", "--posterior", "moments", "--quiet"
    subprocess.run(forks.semdis("encode", photos, "--max-pixels", "10000", *options), cwd=folder, check=True)
    for number, photo in enumerate(sorted(photos.rglob("*.jpg"))[:4]):
        copy = folder / "classes" / ("even", "odd")[number % 2] / photo.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(photo.read_bytes())
        copy.with_suffix(".txt").write_text(f"a photograph, number {number}\n", encoding="utf-8")
    options = "--size", "64", "--labels", "folders", "--quiet"
    subprocess.run(forks.semdis("encode", "classes", "-o", "captioned", *options), cwd=folder, check=True)
    masked = "--max-pixels", "10000", "--flip", "both", "--alpha", "mask", "--quiet"
    subprocess.run(forks.semdis("encode", photos, "-o", "masked", *masked), cwd=folder, check=True)
    for number, photo in enumerate(sorted((folder / "classes").rglob("*.jpg"))[1:]):
        np.save(photo.with_suffix(".npy"), np.ones((number, 768), np.float16))
    subprocess.run(
        forks.semdis("attach", "captioned", "--tensors", "classes", "--as", "t5", "--partial", "--quiet"),
        cwd=folder,
        check=True,
    )
    return folder


def missing_packages(block: Block) -> list[str]:
    names = re.findall(r"^(?:import|from) (\w+)", block.text, re.MULTILINE)
    return [name for name in names if importlib.util.find_spec(name) is None]


def test_the_readme_knows_how_many_odd_images_there_are() -> None:
    found = re.search(
        r"^(\d+) files in all", (PROJECT / "docs" / "images.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found
    assert f"what becomes of {found[1]} of them" in (PROJECT / "README.md").read_text(encoding="utf-8")
    assert f"What becomes of {found[1]} odd images" in (PROJECT / "docs/commands/encode.md").read_text(encoding="utf-8")


def test_each_kind_of_trainer_has_an_example() -> None:
    text = "".join(block.text for block in SCRIPTS)
    assert all(f"import {name}" in text for name in ("DataLoader", "Accelerator", "lightning", "Trainer"))
    assert not any(block.not_run for block in SCRIPTS)


def latents_block(word: str) -> Block:
    """The script of the page on latents that has a word in it."""
    page = (PROJECT / "docs" / "latents.md").read_text(encoding="utf-8")
    [block] = [block for block in blocks(page) if block.language == "python" and word in block.text]
    return block


def test_a_key_leads_to_its_name_as_the_page_on_latents_says(tmp_path: Path) -> None:
    assert run(script(latents_block("os.fsencode")), tmp_path) == ""


def test_noise_is_what_the_page_on_latents_says() -> None:
    page: dict[str, Any] = {}
    exec(latents_block("def noise").text, page)
    for shape in ((3, 64, 48), (5, 3, 7)):
        [expected] = noise_of_images("pixels", 3, ["a \udcff.jpg"], shape)
        assert np.array_equal(page["noise"]("pixels", 3, "a \udcff.jpg", shape), expected)


@pytest.mark.slow
@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: f"line {block.line}")
def test_the_examples_for_training_run(block: Block, folder: Path) -> None:
    missing = missing_packages(block)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    complaint = run(script(block), folder)
    if "operator torchvision::nms does not exist" in complaint:
        pytest.skip("transformers imports torchvision, whose build does not suit this torch")
    assert complaint == ""
