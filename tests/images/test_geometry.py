"""Geometry: every size in every mode, planned in whole numbers, and its padding undone."""

import json
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.images.geometry import aspect_buckets, check_geometry, fixed_bucket, plan_geometry, undo_padding
from semdis_cli.records import Geometry
from semdis_cli.settings import GeometrySettings

sides = st.one_of(st.integers(1, 80), st.integers(1, 20_000))
sizes = st.tuples(sides, sides)
multiples = st.sampled_from([1, 3, 8, 14, 16, 32])

modes = st.one_of(
    st.just(GeometrySettings()),
    st.integers(1, 10**7).map(lambda n: GeometrySettings(max_pixels=n)),
    st.integers(1, 40).map(lambda n: GeometrySettings(size=n * 672)),  # 672 = 2·3·7·16: a multiple of all the above
    st.integers(1, 4).map(lambda n: GeometrySettings(bucket_size=n * 1344)),
    st.integers(1, 4).map(lambda n: GeometrySettings(buckets=((n * 672, 1344), (2016, 672)))),
)


@given(sizes, modes, multiples)
def test_every_plan_holds_together(size: tuple[int, int], mode: GeometrySettings, multiple_px: int) -> None:
    geometry = plan_geometry(size, mode, multiple_px)
    assert geometry.source == size
    for axis in (0, 1):
        assert geometry.bucket[axis] % multiple_px == 0
        assert 0 < geometry.image[axis] <= geometry.bucket[axis]
        assert geometry.crop[axis] >= 0
        assert geometry.crop[axis] + geometry.image[axis] <= geometry.resized[axis]
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


@given(sizes, multiples)
def test_by_default_an_image_keeps_its_size(size: tuple[int, int], multiple_px: int) -> None:
    geometry = plan_geometry(size, GeometrySettings(), multiple_px)
    assert geometry.resized == geometry.image == size
    assert all(0 <= side - image < multiple_px for side, image in zip(geometry.bucket, size, strict=True))


@given(sizes, st.integers(1, 10**7), multiples)
def test_max_pixels_scales_down_only_and_keeps_the_aspect(
    size: tuple[int, int], max_pixels: int, multiple_px: int
) -> None:
    height, width = plan_geometry(size, GeometrySettings(max_pixels=max_pixels), multiple_px).image
    if size[0] * size[1] <= max_pixels:
        assert (height, width) == size
        return
    assert height * width <= max_pixels
    assert height <= size[0]
    assert width <= size[1]
    if min(height, width) > 1:
        # One pixel of the short side is as exact as whole numbers get; and no more is thrown away than that costs.
        assert abs(height * size[1] - width * size[0]) <= max(size)
        assert (height + 2) * (width + 2 * max(size) / min(size)) > max_pixels


@given(sizes, st.sampled_from([16, 256, 1024]))
def test_size_resizes_the_short_side_and_cuts_the_middle(size: tuple[int, int], side: int) -> None:
    geometry = plan_geometry(size, GeometrySettings(size=side), 16)
    assert geometry.image == geometry.bucket == (side, side)
    assert min(geometry.resized) == side
    exact_long = max(size) * side / min(size)
    assert abs(max(geometry.resized) - exact_long) <= 0.5
    for axis in (0, 1):
        before = geometry.crop[axis]
        after = geometry.resized[axis] - side - before
        assert after - before in (0, 1)  # the odd one goes at the bottom or right


@given(sizes, st.sampled_from([256, 512, 1024]))
def test_the_bucket_is_the_nearest_in_aspect_ratio(size: tuple[int, int], bucket_size: int) -> None:
    geometry = plan_geometry(size, GeometrySettings(bucket_size=bucket_size), 16)
    buckets = aspect_buckets(bucket_size, 16)
    assert geometry.bucket in buckets

    def distance(bucket: tuple[int, int]) -> float:
        return abs(log(size[0] / size[1]) - log(bucket[0] / bucket[1]))

    assert distance(geometry.bucket) <= min(map(distance, buckets)) + 1e-9
    assert geometry.resized[0] == geometry.bucket[0] or geometry.resized[1] == geometry.bucket[1]


@given(st.integers(1, 40), multiples)
def test_buckets_have_at_most_the_area_and_the_aspect(steps: int, multiple_px: int) -> None:
    step = int(np.lcm(64, multiple_px))
    buckets = aspect_buckets(steps * step, multiple_px)
    assert (steps * step, steps * step) in buckets
    assert len(set(buckets)) == len(buckets)
    for height, width in buckets:
        assert (width, height) in buckets
        assert height % step == width % step == 0
        assert height * width <= (steps * step) ** 2
        assert max(height, width) <= 4 * min(height, width)


def test_the_buckets_of_1024_are_those_of_sdxl() -> None:
    """Podell et al. 2023, appendix I; the table lists a few more of less area."""
    sdxl = {(512, 2048), (512, 1856), (576, 1792), (640, 1536), (768, 1344), (832, 1216), (896, 1152), (1024, 1024)}
    assert sdxl <= set(aspect_buckets(1024, 16))


def test_undo_padding_takes_either_order_of_axes() -> None:
    geometry = plan_geometry((20, 30), GeometrySettings(), 16)
    assert undo_padding(np.zeros((3, 32, 32)), geometry).shape == (3, 20, 30)
    assert undo_padding(np.zeros((32, 32, 3)), geometry).shape == (20, 30, 3)
    with pytest.raises(ValueError, match="do not fill"):
        undo_padding(np.zeros((3, 20, 30)), geometry)


def test_only_a_size_fixes_the_bucket_beforehand() -> None:
    assert fixed_bucket(GeometrySettings(size=256), 16) == (256, 256)
    for mode in (GeometrySettings(), GeometrySettings(max_pixels=9), GeometrySettings(bucket_size=256)):
        assert fixed_bucket(mode, 16) is None


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"size": 256, "max_pixels": 9}, "only one of --max-pixels, --size"),
        ({"size": 0}, "--size must be at least 1"),
        ({"max_pixels": -1}, "--max-pixels must be at least 1"),
        ({"size": 250}, "--size must be a multiple of the model's patch of 16"),
        ({"bucket_size": 500}, "--bucket-size must be a multiple of 64"),
        ({"bucket_size": 32}, "--bucket-size must be a multiple of 64"),
        (
            {"buckets": ((288, 500),)},
            "--bucket must have sides that are multiples of the model's patch of 16 px, not 500x",
        ),
        ({"buckets": ((32, 32),), "bucket_size": 64}, "only one of --bucket-size, --bucket"),
    ],
)
def test_settings_that_cannot_be_are_a_usage_error(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_geometry(GeometrySettings(**fields), 16)


GOOD = {"source": [20, 30], "resized": [20, 30], "crop": [0, 0], "image": [20, 30], "bucket": [32, 32]}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "has the fields"),
        ([], "has the fields"),
        ({}, "has the fields"),
        ({**GOOD, "more": [1, 1]}, "has the fields"),
        ({key: GOOD[key] for key in GOOD if key != "crop"}, "has the fields"),
        ({**GOOD, "source": [20.0, 30]}, "source must be two integers"),
        ({**GOOD, "source": [True, 30]}, "source must be two integers"),
        ({**GOOD, "source": "ab"}, "source must be two integers"),
        ({**GOOD, "image": [20, 30, 3]}, "image must be two integers"),
        ({**GOOD, "crop": [-1, 0]}, "crop is out of range"),
        ({**GOOD, "bucket": [0, 32]}, "bucket is out of range"),
        ({**GOOD, "source": [2**31, 30]}, "source is out of range"),
        ({**GOOD, "crop": [1, 0]}, "leaves"),
        ({**GOOD, "bucket": [16, 32]}, "does not fit its bucket"),
    ],
)
def test_a_geometry_from_json_is_checked(value: object, complaint: str) -> None:
    assert Geometry.from_json(GOOD).to_json() == GOOD
    with pytest.raises(ValueError, match=complaint):
        Geometry.from_json(value)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda shape: (16 * shape[0], 16 * shape[1]))


@given(sizes, st.lists(shapes, min_size=1, max_size=6))
def test_of_given_buckets_the_nearest_in_aspect_ratio_is_filled(
    size: tuple[int, int], buckets: list[tuple[int, int]]
) -> None:
    settings = GeometrySettings(buckets=tuple(buckets))
    geometry = plan_geometry(size, settings, 16)
    assert geometry == plan_geometry(size, GeometrySettings(buckets=tuple(reversed(buckets))), 16)
    assert geometry.image == geometry.bucket
    assert geometry.bucket in buckets
    assert fixed_bucket(settings, 16) == (geometry.bucket if len(set(buckets)) == 1 else None)
    distances = {bucket: abs(log(bucket[0] / bucket[1]) - log(size[0] / size[1])) for bucket in buckets}
    assert distances[geometry.bucket] <= min(distances.values()) + 1e-9
    alike = [one for one in buckets if one[0] * geometry.bucket[1] == one[1] * geometry.bucket[0]]
    covered = [one for one in alike if one[0] <= size[0] and one[1] <= size[1]]
    assert geometry.bucket == (max(covered) if covered else min(alike))
