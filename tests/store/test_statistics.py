"""Channel sums against NumPy, and the same digits however a run was interrupted."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.store.statistics import ChannelSums

quick = settings(deadline=None)


def random_latents(num_images: int, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> list[Tensor]:
    """Latents [Z=4,h,w] of different grids, each channel with its own mean and spread."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift = (
        torch.tensor([1.0, 0.01, 30.0, 0.0])[:, None, None],
        torch.tensor([0.0, 5.0, -3.0, 2.5])[:, None, None],
    )
    return [
        (torch.randn((4, 1 + number % 3, 2 + number % 5), generator=generator) * scale + shift).to(dtype)
        for number in range(num_images)
    ]


def total(parts: list[Tensor]) -> ChannelSums:
    sums = ChannelSums.zero(4)
    for latents in parts:
        sums = sums + ChannelSums.of(latents)
    return sums


@quick
@given(cuts=st.sets(st.integers(1, 49)), dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_sums_are_the_same_digits_however_many_latents_come_at_once(cuts: set[int], dtype: torch.dtype) -> None:
    latents = (100 * torch.randn((50, 4, 5, 7), generator=torch.Generator().manual_seed(1))).to(dtype)
    before, sums = latents.clone(), ChannelSums.zero(4)
    for first, end in pairwise([0, *sorted(cuts), 50]):
        sums = sums.plus_all(latents[first:end])
    assert sums == ChannelSums.of_all(latents.to(memory_format=torch.channels_last)) == total([*latents])
    assert torch.equal(latents, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_mean_and_std_are_those_of_numpy_to_six_digits(dtype: torch.dtype) -> None:
    parts = random_latents(50, dtype=dtype)
    flat = np.concatenate([part.double().numpy().reshape(4, -1) for part in parts], axis=1)
    mean, std = total(parts).mean_std()
    np.testing.assert_allclose(mean, flat.mean(axis=1), rtol=0, atol=6e-7)
    np.testing.assert_allclose(std, flat.std(axis=1), rtol=0, atol=6e-7)
    assert total(parts).count == flat.shape[1]


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.0, 1.0, None),
        (1.0, 3.0, None),
        (-1.0, 0.3, None),
        (1.01, 1.0, {"abs_mean": 1.01, "std": 1.0}),
        (-1.01, 1.0, {"abs_mean": 1.01, "std": 1.0}),
        (0.0, 3.01, {"abs_mean": 0.0, "std": 3.01}),
        (0.0, 0.29, {"abs_mean": 0.0, "std": 0.29}),
    ],
)
def test_what_is_far_off_is_told_by_the_median_channel(
    mean: float, std: float, expected: dict[str, float] | None
) -> None:
    values = [(mean - std, mean + std)] * 3 + [(500.0, 900.0)] * 2  # a few channels may be what they are
    assert (
        ChannelSums(2, tuple(a + b for a, b in values), tuple(a * a + b * b for a, b in values)).far_off() == expected
    )
    assert ChannelSums.zero(3).far_off() is None


def test_sums_of_one_image_are_numpy_s() -> None:
    (latents,) = random_latents(1, dtype=torch.float32)
    flat = latents.double().numpy().reshape(4, -1)
    sums = ChannelSums.of(latents)
    assert sums.count == flat.shape[1]
    np.testing.assert_allclose(sums.total, flat.sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(sums.squares, (flat**2).sum(axis=1), rtol=1e-14)


def test_a_channel_that_never_changes_has_no_spread() -> None:
    _, std = total([torch.full((4, 3, 3), value) for value in [0.1] * 1000]).mean_std()
    assert all(value == pytest.approx(0.0, abs=1e-6) for value in std)


def test_nothing_has_mean_and_std_of_zero() -> None:
    assert ChannelSums.zero(3).mean_std() == ([0.0] * 3, [0.0] * 3)


def test_large_values_do_not_cost_the_small_ones_their_digits() -> None:
    big, small = torch.full((1, 1, 1), 2.0**20), torch.full((1, 1, 1), 2.0**-20)
    sums = ChannelSums.of(big) + ChannelSums.of(small)
    assert sums.total == (2.0**20 + 2.0**-20,)


@quick
@given(cuts=st.sets(st.integers(0, 30)), seed=st.integers(0, 99))
def test_sums_that_went_through_the_journal_have_the_same_digits(cuts: set[int], seed: int) -> None:
    sums = ChannelSums.zero(4)
    for number, latents in enumerate(random_latents(30, seed=seed)):
        if number in cuts:
            sums = ChannelSums.from_json(json.loads(json.dumps(sums.to_json())))
        sums = sums + ChannelSums.of(latents)
    assert sums == total(random_latents(30, seed=seed))


@quick
@given(values=st.lists(st.floats(-1e99, 1e99), min_size=1, max_size=4))
def test_any_sums_survive_json(values: list[float]) -> None:
    sums = ChannelSums(7, tuple(values), tuple(map(abs, values)))
    assert ChannelSums.from_json(json.loads(json.dumps(sums.to_json()))) == sums


def test_sums_do_not_depend_on_how_latents_lie_in_memory() -> None:
    (latents,) = random_latents(1, dtype=torch.float32)
    turned = latents.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not turned.is_contiguous()
    assert ChannelSums.of(turned) == ChannelSums.of(latents)


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    latents = torch.randn((8, 128, 128), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ChannelSums.of(latents)
        torch.set_num_threads(2)
        assert ChannelSums.of(latents) == one
    finally:
        torch.set_num_threads(before)


def test_sums_of_different_channels_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        ChannelSums.zero(3) + ChannelSums.zero(4)


def test_infinite_latents_are_seen_in_the_sums() -> None:
    assert ChannelSums.of(torch.full((1, 1, 1), math.inf)).total == (math.inf,)
