"""A folder of odd files: one bad image never stops a run, and the good ones come out right."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.store.index import IndexRow, read_rows
from tests.cli.conftest import Outcome, semdis
from tests.odd_images import OddImage, build_odd_images

# The bundled model keeps flat patches to within a few levels; a wrong colour space or depth is off by far more.
MODEL_TOLERANCE = 6


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def odd(cwd: Path) -> dict[str, OddImage]:
    return {image.key: image for image in build_odd_images(cwd / "photos") if image.is_found}


@pytest.fixture(scope="module")
def encoded(cwd: Path, odd: dict[str, OddImage]) -> Outcome:
    assert odd
    return semdis("encode", "photos", cwd=cwd)


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
        if path.is_file()
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
    assert len(failed) >= 6
    for image in failed:
        assert image.reason in (rows[image.key].error or ""), image.key
    assert encoded.stderr.count("failed: ") == min(len(failed), 20)
    assert f"{len(failed)} failed" in encoded.stderr


def test_good_images_keep_their_upright_size(
    rows: dict[str, IndexRow], odd: dict[str, OddImage], names: dict[str, Path]
) -> None:
    for key, row in rows.items():
        if row.is_ok:
            height, width = odd[key].size or (0, 0)
            assert row.geometry is not None
            assert row.geometry.source == (height, width), key
            assert pixels(names[key]).shape == (height, width, 3), key


def test_good_images_are_decoded_in_the_right_colours(odd: dict[str, OddImage], names: dict[str, Path]) -> None:
    assert set(names) == {key for key, image in odd.items() if image.is_readable}
    for key, path in names.items():
        picture = pixels(path)
        for (row, column), colour in odd[key].colours:
            off = np.abs(picture[row, column] - colour).max()
            assert off <= odd[key].tolerance + MODEL_TOLERANCE, f"{key} at {row},{column}: {picture[row, column]}"
