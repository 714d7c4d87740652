"""The running statistics of latents against weighted averages in NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from semdis_cli.training.latent_stats import RunningLatentStats

CPU = torch.device("cpu")
RTOL = 1e-4  # a variance is the difference of two float32 means


def random_batches(count: int = 6) -> list[Tensor]:
    """Latents [B,3,h,w] of several sizes, each batch and channel with a mean and scale of its own."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for i in range(count):
        z = torch.randn(1 + i % 3, 3, 2 + i % 2, 4, generator=generator)
        scale, offset = torch.rand(3, 1, 1, generator=generator) + 0.2, torch.randn(3, 1, 1, generator=generator)
        batches.append(z * scale + offset)
    return batches


def mean_and_var(stats: RunningLatentStats) -> tuple[Tensor, Tensor]:
    measured = stats.mean_and_var()
    assert measured is not None
    return measured


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_mean_and_variance_are_those_of_exponentially_weighted_batches(decay: float) -> None:
    stats, batches = RunningLatentStats(3, CPU, decay), random_batches()
    for z in batches:
        stats.add(z)
    weights = decay ** np.arange(len(batches))[::-1]  # the last batch counts most
    arrays = [z.double().numpy() for z in batches]
    expected_mean = np.average([z.mean(axis=(0, 2, 3)) for z in arrays], axis=0, weights=weights)
    apart = [((z - expected_mean[:, None, None]) ** 2).mean(axis=(0, 2, 3)) for z in arrays]
    mean, var = mean_and_var(stats)
    assert mean.dtype == var.dtype == torch.float32
    np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var.numpy(), np.average(apart, axis=0, weights=weights), rtol=RTOL)


def test_there_are_no_statistics_before_the_first_batch() -> None:
    assert RunningLatentStats(3, CPU).mean_and_var() is None


def test_the_first_batch_counts_in_full() -> None:
    stats = RunningLatentStats(3, CPU)
    (z,) = random_batches(1)
    stats.add(z)
    mean, var = mean_and_var(stats)
    np.testing.assert_allclose(mean.numpy(), z.double().numpy().mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(var.numpy(), z.double().numpy().var(axis=(0, 2, 3)), rtol=RTOL)


def test_after_many_batches_only_the_late_ones_are_left() -> None:
    stats = RunningLatentStats(1, CPU, decay=0.9)
    early, late = torch.full((1, 1, 1, 2), 50.0), torch.tensor([3.0, 5.0]).view(1, 1, 1, 2)
    for z in [early] * 20 + [late] * 300:
        stats.add(z)
    mean, var = mean_and_var(stats)
    assert mean.item() == pytest.approx(4)
    assert var.item() == pytest.approx(1, rel=1e-5)


def test_constant_latents_have_no_negative_variance() -> None:
    stats = RunningLatentStats(2, CPU)
    for _ in range(5):
        stats.add(torch.full((2, 2, 3, 3), 3.3))
    mean, var = mean_and_var(stats)
    torch.testing.assert_close(mean, torch.full((2,), 3.3))
    assert (var >= 0).all()
    assert var.max() < 1e-5


def test_latents_come_with_gradients_or_in_bfloat16_and_neither_is_kept() -> None:
    (z,) = random_batches(1)
    plain, stats = RunningLatentStats(3, CPU), RunningLatentStats(3, CPU)
    rounded = z.bfloat16().requires_grad_()
    stats.add(rounded)
    plain.add(rounded.detach().float())
    assert not any(tensor.requires_grad for tensor in stats.tensors.values())
    for ours, theirs in zip(mean_and_var(stats), mean_and_var(plain), strict=True):
        assert torch.equal(ours, theirs)


def test_the_tensors_are_all_that_has_to_be_remembered() -> None:
    batches = random_batches()
    unbroken, first, second = (RunningLatentStats(3, CPU, 0.9) for _ in range(3))
    for z in batches:
        unbroken.add(z)
    for z in batches[:2]:
        first.add(z)
    for name, tensor in second.tensors.items():
        tensor.copy_(first.tensors[name])
    for z in batches[2:]:
        second.add(z)
    for ours, theirs in zip(mean_and_var(second), mean_and_var(unbroken), strict=True):
        assert torch.equal(ours, theirs)
