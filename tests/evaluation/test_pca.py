"""Colours of latents: the basis of a set, fitted in a stream."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.evaluation.pca import BasisFit, LatentBasis
from semdis_cli.evaluation.position_sample import PositionSample
from semdis_cli.evaluation.spectrum import effective_rank, participation_ratio


def fitted(batches: Sequence[Tensor]) -> LatentBasis:
    fit = BasisFit(batches[0].shape[1])
    for batch in batches:
        fit.add(batch)
    return fit.basis()


def latents(*shape: int, seed: int = 0, scale: Sequence[float] = ()) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values * torch.tensor(scale)[:, None, None] if scale else values


def test_a_basis_is_that_of_the_singular_values_of_all_positions() -> None:
    batches = [latents(7, 6, 4, 5, scale=(5, 3, 2, 1, 0.5, 0.1)) + 10, latents(3, 6, 8, 2, seed=1)]
    basis = fitted(batches)
    positions = np.concatenate([batch.double().permute(0, 2, 3, 1).reshape(-1, 6).numpy() for batch in batches])
    _, singular, rows = np.linalg.svd(positions - positions.mean(0), full_matrices=False)
    assert basis.explained == pytest.approx((singular**2 / (singular**2).sum()).tolist(), abs=1e-12)
    assert np.abs(np.abs(basis.components @ rows[:3].T) - np.eye(3)).max() < 1e-9
    assert all(row[np.abs(row).argmax()] > 0 for row in basis.components)
    projected = (positions - positions.mean(0)) @ basis.components.T
    assert basis.low == pytest.approx(np.percentile(projected, 1, axis=0), abs=1e-5)
    assert basis.high == pytest.approx(np.percentile(projected, 99, axis=0), abs=1e-5)


def test_percentiles_of_the_whole_set_become_black_and_white() -> None:
    batch = latents(1, 3, 100, 100, scale=(3, 2, 1))
    picture = fitted([batch]).picture(batch[0])
    assert picture.dtype == np.uint8
    assert picture.shape == (3, 100, 100)
    for plane in picture:
        assert ((plane == 0).mean(), (plane == 255).mean()) == pytest.approx((0.01, 0.01), abs=0.004)
        assert np.median(plane) == pytest.approx(127, abs=6)


def test_one_colour_means_the_same_in_all_images_of_all_grids() -> None:
    batch = latents(2, 8, 6, 6)
    basis = fitted([batch, latents(1, 8, 3, 4, seed=2)])
    whole, part = basis.picture(batch[0]), basis.picture(batch[0, :, 2:4, 1:])
    assert (whole[:, 2:4, 1:] == part).all()


def test_what_is_stored_in_other_dtypes_is_coloured_alike() -> None:
    batch = latents(4, 8, 6, 6).to(torch.bfloat16)
    half, full = fitted([batch]), fitted([batch.float()])
    assert (half.picture(batch[1]) == full.picture(batch[1].float())).all()


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6])
def test_latents_that_do_not_vary_are_grey(value: float) -> None:
    batch = torch.full((2, 4, 3, 3), value)
    basis = fitted([batch])
    assert basis.explained == (0.0,) * 4
    assert (basis.picture(batch[0]) == 128).all()


def test_a_channel_that_follows_from_others_is_no_colour_of_rounding() -> None:
    batch = latents(2, 2, 8, 8)
    doubled = torch.cat([batch, batch], 1)
    basis = fitted([doubled])
    assert basis.explained[2:] == pytest.approx((0, 0), abs=1e-12)
    assert (basis.picture(doubled[0])[2] == 128).all()


def test_fewer_channels_than_colours_leave_the_others_grey() -> None:
    batch = latents(2, 2, 5, 5)
    picture = fitted([batch]).picture(batch[0])
    assert (picture[2] == 128).all()
    assert picture[0].std() > 20


def test_a_basis_of_nothing_makes_grey() -> None:
    basis = BasisFit(4).basis()
    assert basis.explained == (0.0,) * 4
    assert (basis.picture(torch.ones(4, 2, 2)) == 128).all()


def test_a_stream_keeps_memory_and_a_fair_sample() -> None:
    sample = PositionSample(2, num_kept=1000)
    for start in range(0, 200_000, 500):
        numbers = np.arange(start, start + 500, dtype=np.float32)
        sample.add(np.stack([numbers, -numbers], 1))
    kept = sample.positions()
    assert kept.shape == (1000, 2)
    assert (np.diff(kept[:, 0]) > 0).all()
    assert sample.percentiles(25, 50, 75)[:, 0] == pytest.approx([50_000, 100_000, 150_000], abs=10_000)


def test_a_small_stream_is_kept_whole_and_its_percentiles_are_exact() -> None:
    sample = PositionSample(1, num_kept=1000)
    sample.add(np.arange(101, dtype=np.float32)[:, None])
    assert sample.percentiles(1, 99)[:, 0].tolist() == [1.0, 99.0]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda values: sum(values) > 1e-3))
@settings(deadline=None)
def test_ranks_lie_between_one_and_the_number_of_channels(values: list[float]) -> None:
    shares = tuple(value / sum(values) for value in values)
    for rank in (effective_rank(shares), participation_ratio(shares)):
        assert 1 - 1e-9 <= rank <= len(values) + 1e-9


def test_equal_shares_have_a_full_rank() -> None:
    assert effective_rank((0.25,) * 4) == pytest.approx(4)
    assert participation_ratio((0.25,) * 4) == pytest.approx(4)
    assert participation_ratio((0.5, 0.5, 0.0)) == pytest.approx(2)
