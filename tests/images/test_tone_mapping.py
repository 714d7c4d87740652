"""Tone mapping: the curve's fixed points, and greys as a browser shows them."""

import numpy as np
import pytest

from semdis_cli.images.colour.code_points import HLG, PQ, PRIMARIES, to_xyz
from semdis_cli.images.colour.tone_mapping import HighRange, curve, gain, tone_mapped

_BT2020 = tuple(map(tuple, to_xyz(PRIMARIES[9]).tolist()))
_GREYS = np.arange(0, 256, 16, dtype=np.uint8)[None, :, None].repeat(3, axis=2)


# Read from Chromium 156, of PNGs with cICP 9/16 and 9/18.
@pytest.mark.parametrize(
    ("transfer", "shown"),
    [
        (PQ, [0, 1, 5, 15, 30, 48, 70, 98, 132, 175, 213, 237, 255, 255, 255, 255]),
        (HLG, [0, 3, 14, 29, 43, 57, 71, 84, 99, 115, 135, 160, 189, 212, 228, 243]),
    ],
)
def test_greys_are_shown_as_in_a_browser(transfer: int, shown: list[int]) -> None:
    pixels = tone_mapped(_GREYS, HighRange(transfer, _BT2020)).astype(int)
    assert np.abs(pixels[0] - np.array(shown)[:, None]).max() <= 1


@pytest.mark.parametrize("peak", [204.0, 300.0, 1000.0, 4000.0, 20_000.0, 429_496.0])
def test_the_curve_dims_what_is_below_white_and_ends_at_white_where_the_content_does(peak: float) -> None:
    light, log_gain, _ = curve(peak)
    assert light[[0, -1]] == pytest.approx([1, peak / 203])
    assert light[-1] * 2 ** log_gain[-1] == pytest.approx(1)
    white = max(0.5, 1 - 0.5 * np.log(peak / 203) / np.log(1000 / 203))
    inputs = np.array([0.0, 0.5, 1.0, peak / 203, 2 * peak / 203], np.float32)
    assert inputs * gain(inputs, peak) == pytest.approx([0, white / 2, white, 1, 1], rel=1e-4)
    every = np.linspace(0, peak / 203, 5000).astype(np.float32)
    assert (every * gain(every, peak)).max() <= (1.001 if peak <= 10_000 else 4)  # beyond, eight points do not do


@pytest.mark.parametrize("peak", [0.0001, 100.0, 203.0, 203.1])
def test_content_no_brighter_than_white_keeps_its_light(peak: float) -> None:
    assert (gain(np.array([0, 0.5, 1, 3], np.float32), peak) == 1).all()


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_samples_of_16_bits_come_out_as_those_of_8_and_finer(transfer: int) -> None:
    meaning = HighRange(transfer, _BT2020)
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)  # more than are mapped at once
    assert np.array_equal(tone_mapped(stored.astype(np.uint16) * 257, meaning), tone_mapped(stored, meaning))
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16)[None, :, None].repeat(3, axis=2)
    assert len(np.unique(tone_mapped(ramp, meaning))) > 250


def test_pixels_do_not_depend_on_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    meaning = HighRange(HLG, _BT2020, 4000.0)
    alone = np.stack([tone_mapped(row[None], meaning)[0] for row in stored])
    assert np.array_equal(tone_mapped(stored, meaning), alone)
