"""Which images a page shows, and on what basis their latents are coloured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from semdis_cli.evaluation import report
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.measuring.figures import FigureRow
from semdis_cli.pipeline.measuring.kept_pictures import PictureChoice, PictureKeeper, Trial, kept_pictures

ALL = PictureChoice(1.0, 0)


def keep(folder: Path, *grids: tuple[int, int]) -> None:
    """Keep a picture for each grid of latents, whose keys are their numbers."""
    generator = np.random.default_rng(0)
    keeper = PictureKeeper(folder, ALL)
    for number, grid in enumerate(grids):
        pixels = np.zeros((3, 4, 4), np.uint8)
        latents = generator.standard_normal((4, *grid)).astype(np.float32)
        keeper.take([Trial(f"{number}", pixels, (Version(pixels, 1),), latents)], [30.0])


def test_an_image_that_was_kept_and_failed_since_is_not_shown(tmp_path: Path) -> None:
    keep(tmp_path, (2, 2), (2, 2))
    rows = [FigureRow("0", ({"psnr_db": 30.0},)), FigureRow("1", (), "cannot be read")]
    spool = SimpleNamespace(rows=lambda: iter(rows))
    measured: Any = SimpleNamespace(pictures=tmp_path, contenders=[("one", {})], rows=spool, choice=ALL)
    shown, failures = report._chosen(measured)
    assert [picture.key for picture, _ in shown] == ["0"]
    assert failures == [("1", "cannot be read")]


@pytest.mark.parametrize("most", [1, 5, 12, 1000])
def test_the_basis_is_that_of_all_latents_however_many_are_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    keep(tmp_path, (2, 2), (2, 2), (2, 3), (2, 3), (2, 2))
    monkeypatch.setattr(report, "_POSITIONS_AT_ONCE", most)
    pictures = sorted(kept_pictures(tmp_path, 1), key=lambda one: one.key)
    stacked = [tuple(latents.shape) for latents in report._stacked(pictures)]
    assert sum(shape[0] for shape in stacked) == 5
    assert all(shape[0] == 1 or shape[0] * shape[2] * shape[3] <= most for shape in stacked)
    found = report._fit(pictures)
    assert found is not None
    values = np.concatenate([one.latents.astype(np.float64).reshape(4, -1) for one in pictures], axis=1)
    shares = np.linalg.eigvalsh(np.cov(values, bias=True))[::-1]
    assert np.allclose(found.explained, shares / shares.sum())
    assert np.allclose(found.mean, values.mean(1))
