"""Probes: what can be found from what."""

import pytest
import torch
from torch import Tensor

from semdis_cli.training.probe import linear_probe_r2, neighbour_agreement


def samples(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_a_linear_function_is_found_whole() -> None:
    x = samples(400, 6, 0)
    assert linear_probe_r2(x, x @ samples(6, 9, 1) + 5.0) == pytest.approx(1.0, abs=1e-4)


def test_half_the_variance_is_half_the_score() -> None:
    x, noise = samples(20_000, 3, 0), samples(20_000, 3, 1)
    assert linear_probe_r2(x, x + noise) == pytest.approx(0.5, abs=0.02)


def test_nothing_in_common_scores_nothing() -> None:
    assert linear_probe_r2(samples(20_000, 3, 0), samples(20_000, 4, 1)) == pytest.approx(0.0, abs=0.01)


def test_what_is_only_learnt_by_heart_does_not_count() -> None:
    # As many inputs as samples to fit: exact on the first half, useless on the second.
    assert linear_probe_r2(samples(200, 99, 0), samples(200, 1, 1)) < 0


def test_neighbours_of_turned_and_scaled_samples_are_the_same() -> None:
    x = samples(100, 5, 0)
    q, _ = torch.linalg.qr(samples(5, 5, 1))
    assert neighbour_agreement(x, 3 * x @ q) == 1.0


def test_neighbours_by_hand() -> None:
    # Two pairs along two axes; in the features the pairs are exchanged, but for one sample.
    latents = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    same = neighbour_agreement(latents, latents, count=1)
    crossed = neighbour_agreement(latents, latents[:, :] * torch.tensor([0.01, 1.0]), count=1)
    assert (same, crossed) == (1.0, 0.0)


def test_unrelated_neighbours_agree_by_chance() -> None:
    agreement = neighbour_agreement(samples(500, 8, 0), samples(500, 8, 1), count=10)
    assert agreement == pytest.approx(10 / 499, abs=0.01)
