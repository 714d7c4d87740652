"""Plans carried out on a device, here the CPU: the pictures of `fit_pixels`, but for roundings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.images import resize_on_device
from semdis_cli.images.formats.exif import turned, turned_planes, upright_size
from semdis_cli.images.geometry import move_crop, plan_geometry
from semdis_cli.images.resize import Axis, fit_pixels
from semdis_cli.images.resize_on_device import fit_on_device
from semdis_cli.settings import GeometrySettings
from tests.images.test_resize import (
    KINDS,
    MODES,
    ORIENTATIONS,
    SIZES,
    furthest,
    knows_no_lanczos,
    picture,
    quick,
    torch_whose_resizing,
)

PHOTO = min((Path(__file__).parents[1] / "photos").rglob("*.jpg"))


def planes(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@quick
@given(SIZES, MODES, KINDS, ORIENTATIONS, st.booleans())
def test_it_is_the_picture_that_a_cpu_makes(
    stored: tuple[int, int], mode: GeometrySettings, kind: str, orientation: int, is_moved: bool
) -> None:
    plan = plan_geometry(upright_size(stored, orientation), mode, 16)
    if is_moved:
        plan = move_crop(plan, 3, "a.jpg", 1)
    pixels = picture(stored, kind)
    found = fit_on_device(planes(pixels), plan, orientation)
    assert found.dtype == torch.uint8
    assert found.shape == (3, *plan.bucket)
    assert furthest(found, fit_pixels(pixels, plan, orientation)) <= 2


@pytest.mark.parametrize("size", [64, 256, 512])
def test_of_a_photograph_hardly_a_sample_is_another_than_by_pillow(size: int) -> None:
    pixels = np.asarray(Image.open(PHOTO).convert("RGB"))
    plan = plan_geometry(pixels.shape[:2], GeometrySettings(size=size), 16)
    with torch_whose_resizing(knows_no_lanczos):
        by_pillow = fit_pixels(pixels, plan)
    differences = np.abs(fit_on_device(planes(pixels), plan).numpy().astype(int) - by_pillow.numpy())
    assert differences.max() <= 2
    assert differences.mean() < 0.02, "only values in the middle of two levels, of which halving makes many"


@quick
@given(SIZES, MODES, ORIENTATIONS, st.integers(200, 4000))
def test_in_parts_it_is_the_same_picture(
    stored: tuple[int, int], mode: GeometrySettings, orientation: int, most: int
) -> None:
    plan = plan_geometry(upright_size(stored, orientation), mode, 16)
    pixels = planes(picture(stored, "noise"))
    expected = fit_on_device(pixels, plan, orientation)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resize_on_device, "_MOST_WEIGHTS", most)
        patched.setattr(resize_on_device, "_MOST_VALUES", 100 * most)
        assert furthest(fit_on_device(pixels, plan, orientation), expected) <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70_000), st.integers(1, 70_000), st.integers(3, 30_000))
@example(65_500, 9_850, 3 * 2_700)
@example(20_000, 4_472, 3 * 1_000)
@example(1, 60_000, 3)
def test_no_matrix_is_large_whatever_the_picture(extent: int, resized: int, num_lines: int) -> None:
    axis = Axis(float(extent), resized, 0, min(resized, 2_000))
    num_positions = 0
    for weights, reach in resize_on_device._parts(axis, num_lines, axis.reach(extent), torch.device("cpu")):
        assert weights.shape[1] == reach.stop - reach.start
        assert weights.numel() <= 3 * resize_on_device._MOST_WEIGHTS
        least = 7 * max(1, extent / resized)  # taps of a single position
        assert num_lines * weights.shape[1] <= max(resize_on_device._MOST_VALUES, num_lines * least) * 1.5
        assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-5)
        num_positions += len(weights)
    assert num_positions == axis.length


@given(ORIENTATIONS)
def test_planes_are_turned_as_pictures_are(orientation: int) -> None:
    pixels = picture((5, 7), "noise")
    expected = turned(pixels, orientation).transpose(2, 0, 1)
    assert np.array_equal(turned_planes(planes(pixels), orientation).numpy(), expected)


def test_pixels_of_another_size_than_planned_are_refused() -> None:
    plan = plan_geometry((64, 48), GeometrySettings(size=32), 16)
    with pytest.raises(ValueError, match="do not fit"):
        fit_on_device(torch.zeros(3, 64, 47, dtype=torch.uint8), plan)
    with pytest.raises(ValueError, match="do not fit"):
        fit_on_device(torch.zeros(3, 64, 48, dtype=torch.uint8), plan, orientation=6)
