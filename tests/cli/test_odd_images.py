"""Folders of odd files: one bad image never stops a run, and the good ones come out right."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from semdis_cli.store.index import IndexRow, read_rows
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import Outcome, Run, semdis
from tests.forks import Started
from tests.image_bytes import png
from tests.odd_images import OddImage, build_odd_images
from tests.odd_images.changing import CHANGES
from tests.odd_images.picture import PICTURE, WHITE
from tests.odd_images.places import build_named
from tests.odd_images.table import build_table
from tests.worlds import tiny_model

PROJECT = Path(__file__).parents[2]

# The bundled model keeps flat patches to within a few levels, by the noise that it starts from: one colour in 4,500 is
# off by 7. A wrong colour space or depth is off by far more.
MODEL_TOLERANCE = 8
# Of a single patch, without any neighbours, it makes other colours; that such images are read right is for the reader's
# own tests.
ONE_PATCH_PX = 16

# What follows `-c` is run by a user whom files can be closed to: the superuser gives up the two capabilities that open
# them all (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, in force from the next program on).
AS_ORDINARY_USER = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def as_ordinary_user(*arguments: str, cwd: Path) -> Outcome:
    """Run Python with `arguments` as a user without special rights."""
    command = [sys.executable, "-c", AS_ORDINARY_USER, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    return Outcome(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def odd(cwd: Path) -> dict[str, OddImage]:
    """All that is to have a row in the index: what a scan of `photos` finds, and what is listed in `list`."""
    named = build_named(cwd / "named")
    (cwd / "list").write_bytes(b"\0".join(os.fsencode(image.key) for image in named))
    images = {image.key: image for image in [*build_odd_images(cwd / "photos"), *named] if image.is_input}
    probe = as_ordinary_user("-c", "open('photos/places/denied.png')", cwd=cwd)
    if "PermissionError" not in probe.stderr:  # capabilities cannot be given up here
        images = {key: image for key, image in images.items() if "denied" not in image.reason}
    return images


@pytest.fixture(scope="module")
def encoded(cwd: Path, odd: dict[str, OddImage]) -> Outcome:
    assert odd
    return as_ordinary_user("-m", "semdis_cli", "encode", "photos", "--files-from", "list", "-0", cwd=cwd)


@pytest.fixture(scope="module")
def rows(cwd: Path, encoded: Outcome) -> dict[str, IndexRow]:
    assert encoded.code == 3, encoded.stderr
    return {row.key: row for row in read_rows(cwd / "latents" / "index.jsonl")}


@pytest.fixture(scope="module")
def names(cwd: Path, rows: dict[str, IndexRow]) -> dict[str, Path]:
    """Where the image of each key was decoded to: its suffix replaced unless two keys would share the name."""
    assert rows
    done = semdis("decode", cwd=cwd)
    assert done.code == 0, done.stderr
    decoded = cwd / "decoded"
    return {
        key: path
        for key in rows
        for path in (decoded / f"{key}.png", (decoded / key).with_suffix(".png"))
        if len(os.fsencode(path.name)) <= 255 and path.is_file()
    }


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def test_every_input_is_in_the_index_with_its_outcome(rows: dict[str, IndexRow], odd: dict[str, OddImage]) -> None:
    assert set(rows) == set(odd)
    assert {key for key, row in rows.items() if row.is_ok} == {key for key, image in odd.items() if image.is_readable}


def test_every_failure_has_its_reason_in_the_index_and_on_stderr(
    rows: dict[str, IndexRow], odd: dict[str, OddImage], encoded: Outcome
) -> None:
    failed = [image for image in odd.values() if not image.is_readable]
    assert len(failed) >= 60
    for image in failed:
        assert image.reason, image.key
        assert image.reason in (rows[image.key].error or ""), image.key
    assert encoded.stderr.count("failed: ") == min(len(failed), 20)
    assert f"{len(failed)} failed" in encoded.stderr


def test_what_could_not_be_used_of_a_good_image_is_noted(rows: dict[str, IndexRow], odd: dict[str, OddImage]) -> None:
    noted = {key for key, row in rows.items() if row.record is not None and row.record.notes}
    assert noted == {key for key, image in odd.items() if image.has_note}


def test_good_images_keep_their_upright_size(
    rows: dict[str, IndexRow], odd: dict[str, OddImage], names: dict[str, Path]
) -> None:
    for key, row in rows.items():
        if row.is_ok:
            height, width = odd[key].size or (0, 0)
            assert row.record is not None
            assert row.record.geometry.source == (height, width), key
            assert pixels(names[key]).shape == (height, width, 3), key


def test_good_images_are_decoded_in_the_right_colours(odd: dict[str, OddImage], names: dict[str, Path]) -> None:
    assert set(names) == {key for key, image in odd.items() if image.is_readable}
    for key, path in names.items():
        picture = pixels(path)
        if max(picture.shape[:2]) <= ONE_PATCH_PX:
            continue
        for (row, column), colour in odd[key].colours:
            off = np.abs(picture[row, column] - colour).max()
            assert off <= odd[key].tolerance + MODEL_TOLERANCE, f"{key} at {row},{column}: {picture[row, column]}"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF, and the page tells of some")
def test_the_page_about_odd_files_is_what_the_generator_writes() -> None:
    page = (PROJECT / "docs" / "images.md").read_text(encoding="utf-8")
    assert page == build_table(), "run `python -m tests.odd_images`"


# --- files that change while a run is going on ----------------------------------------------------------------------


def test_files_that_change_after_the_run_was_planned_are_failures(tmp_path: Path, tiny: Path) -> None:
    for number in range(20):  # what is read first, while the others change
        path = tmp_path / f"photos/a/{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(PICTURE))
    for odd, _ in CHANGES:
        path = tmp_path / "photos" / odd.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(PICTURE))
    process = Started(["encode", "photos", "--model", str(tiny), "--shard-images", "1", "--threads", "1"], cwd=tmp_path)
    while process.poll() is None and not list(tmp_path.glob("latents/shards/*.safetensors")):
        time.sleep(0.001)
    for odd, change in CHANGES:
        change(tmp_path / "photos" / odd.key)
    assert process.poll() is None, "it was over before the files changed"
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    rows = {row.key: row for row in read_rows(tmp_path / "latents" / "index.jsonl")}
    assert len(rows) == 20 + len(CHANGES)
    for odd, _ in CHANGES:
        assert rows[odd.key].is_ok == odd.is_readable, odd.key
        assert odd.reason in (rows[odd.key].error or ""), odd.key


# --- latents that are not finite ------------------------------------------------------------------------------------


def test_an_image_whose_latents_are_not_finite_fails_and_its_neighbours_do_not_notice(
    run: Run, tmp_path: Path, tiny: Path
) -> None:
    for name, colour in {"black": (0, 0, 0), "green": (40, 160, 40), "red": (255, 0, 0), "white": WHITE}.items():
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{name}.png")
    arguments = ["black.png", "green.png", "red.png", "white.png", "--store-dtype", "float32", "--threads", "1"]
    assert run("encode", *arguments, "-o", "finite", "--model", tiny).code == 0
    # The model answers white more strongly than anything else: the others' latents stay within float32, if scarcely.
    largest = {key: float(latents.abs().max()) for key, latents in stored_latents(tmp_path / "finite").items()}
    white, black = largest.pop("white.png"), max(largest.values())
    assert white > 2 * black
    sharp = tiny_model()
    sharp.encoder.to_bottleneck.weight[:8] *= torch.finfo(torch.float32).max / (white * black) ** 0.5
    sharp.save_pretrained(tmp_path / "sharp")
    done = run("encode", *arguments, "-o", "latents", "--model", "sharp")
    assert done.code == 3, done.stderr
    assert "failed: white.png: its latents are not finite (NaN or infinity)" in done.stderr
    failed = [row.key for row in read_rows(tmp_path / "latents" / "index.jsonl") if not row.is_ok]
    assert failed == ["white.png"]
    among_others = stored_latents(tmp_path / "latents")
    assert set(among_others) == {"black.png", "green.png", "red.png"}
    assert run("encode", "black.png", *arguments[4:], "-o", "alone", "--model", "sharp").code == 0
    assert torch.equal(stored_latents(tmp_path / "alone")["black.png"], among_others["black.png"])


def stored_latents(root: Path) -> dict[str, torch.Tensor]:
    """The latents of every image of a set."""
    source = open_latents(root)
    shards = [source.read(stored) for stored in source.shards]
    return {key: shard.latents[row] for shard in shards for row, key in enumerate(shard.keys)}
