"""Semantic alignment: its equations on numbers worked by hand, and the head that predicts features."""

import math

import pytest
import torch
from torch import Tensor

from semdis_cli.training.alignment import AlignmentHead, alignment_loss, draw_tau, noisy_latents, position_features


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def columns(*vectors: list[float]) -> Tensor:
    """One image [1,F,1,w] with these feature vectors side by side."""
    return torch.tensor(vectors).T[None, :, None, :]


# --- the noise level ------------------------------------------------------------------------------------------------


def test_tau_has_the_moments_and_the_distribution_of_beta_2_2() -> None:
    tau = draw_tau(200_000, seeded()).double()
    assert tau.mean() == pytest.approx(0.5, abs=0.002)  # its standard error is 0.0005
    assert tau.var() == pytest.approx(0.05, abs=0.001)
    for point in (0.1, 0.25, 0.5, 0.9):  # P(tau < x) = 3 x^2 - 2 x^3
        assert (tau < point).double().mean() == pytest.approx(3 * point**2 - 2 * point**3, abs=0.005)


def test_tau_comes_from_its_generator_alone() -> None:
    tau = draw_tau(5, seeded(1))
    assert tau.shape == (5,)
    assert tau.dtype == torch.float32
    assert torch.equal(tau, draw_tau(5, seeded(1)))
    assert not torch.equal(tau, draw_tau(5, seeded(2)))
    generator = seeded(1)
    assert not torch.equal(draw_tau(5, generator), draw_tau(5, generator))


# --- noisy latents --------------------------------------------------------------------------------------------------


def test_tau_0_leaves_the_latents_and_tau_1_leaves_the_noise() -> None:
    latents, eps = torch.randn(2, 3, 4, 5, generator=seeded(1)), torch.randn(2, 3, 4, 5, generator=seeded(2))
    noisy = noisy_latents(latents, eps, torch.tensor([0.0, 1.0]))
    assert torch.equal(noisy[0], latents[0])
    assert torch.equal(noisy[1], eps[1])


def test_in_between_latents_and_noise_are_mixed_image_by_image() -> None:
    latents, eps = torch.full((2, 1, 1, 1), 4.0), torch.full((2, 1, 1, 1), -8.0)
    noisy = noisy_latents(latents, eps, torch.tensor([0.25, 0.75]))
    assert noisy.flatten().tolist() == [1.0, -5.0]  # 3 - 2 and 1 - 6


def test_noisy_latents_are_float32_and_pass_gradients_to_the_latents() -> None:
    latents = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    noisy = noisy_latents(latents, torch.zeros(1, 1, 1, 1), torch.tensor([0.25]))
    assert noisy.dtype == torch.float32
    noisy.sum().backward()
    assert latents.grad is not None
    assert latents.grad.item() == 0.75


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicted", "cosine"),
    [([6.0, 8.0], 1.0), ([-4.0, 3.0], 0.0), ([-3.0, -4.0], -1.0), ([5.0, 0.0], 0.6), ([0.0, 0.0], 0.0)],
)
def test_the_loss_is_the_negative_cosine(predicted: list[float], cosine: float) -> None:
    loss = alignment_loss(columns(predicted), columns([3.0, 4.0]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-cosine, abs=1e-6)


def test_the_loss_is_averaged_over_positions_and_images() -> None:
    predicted = torch.cat([columns([1.0, 0.0], [0.0, 2.0]), columns([0.0, 3.0], [4.0, 0.0])])
    features = torch.cat([columns([1.0, 0.0], [0.0, 1.0]), columns([0.0, -1.0], [0.0, 1.0])])
    assert alignment_loss(predicted, features).item() == pytest.approx(-(1 + 1 - 1 + 0) / 4)


def test_the_loss_is_float32_and_its_gradient_goes_to_the_prediction_alone() -> None:
    predicted = torch.randn(2, 8, 3, 3, generator=seeded(1)).bfloat16().requires_grad_()
    features = torch.randn(2, 8, 3, 3, generator=seeded(2)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = alignment_loss(predicted, features)
    assert loss.dtype == torch.float32
    loss.backward()
    assert predicted.grad is not None
    assert features.grad is None


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(AssertionError, match="broadcast"):
        alignment_loss(torch.ones(2, 4, 3, 3), torch.ones(2, 4, 1, 1))
    with pytest.raises(AssertionError, match="noise for every latent"):
        noisy_latents(torch.ones(2, 4, 3, 3), torch.ones(1, 4, 3, 3), torch.zeros(2))


# --- positions ------------------------------------------------------------------------------------------------------


def test_positions_are_sines_and_cosines_of_y_then_of_x() -> None:
    features = position_features(2, 3, 8)  # two frequencies: 1 and 1 / 10000
    assert features.shape == (6, 8)
    y, x = 1, 2
    angles = [y, y / 10000], [x, x / 10000]
    expected = [function(angle) for axis in angles for function in (math.sin, math.cos) for angle in axis]
    torch.testing.assert_close(features[y * 3 + x], torch.tensor(expected))


def test_every_position_has_features_of_its_own() -> None:
    features = position_features(16, 24, 64)
    apart = torch.cdist(features, features) + 10 * torch.eye(len(features))
    assert apart.min() > 0.1


# --- the head -------------------------------------------------------------------------------------------------------


def tiny_head(seed: int = 0, *, num_registers: int = 4) -> AlignmentHead:
    head = AlignmentHead(6, 10, 32, head_dim=16, mlp_ratio=2.0, num_registers=num_registers)
    return head.initialise(seeded(seed))


def inputs(height: int = 4, width: int = 4, *, count: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 6, height, width, generator=seeded(7)), draw_tau(count, seeded(8))


@pytest.mark.parametrize("grid", [(4, 4), (1, 1), (3, 5), (16, 2)])
def test_the_head_predicts_features_on_any_grid(grid: tuple[int, int]) -> None:
    predicted = tiny_head()(*inputs(*grid))
    assert predicted.shape == (2, 10, *grid)
    assert predicted.dtype == torch.float32
    assert predicted.isfinite().all()


def test_the_head_has_the_published_size_by_default() -> None:
    with torch.device("meta"):
        head = AlignmentHead(128, 384)
    assert head.registers.shape == (4, 768)
    assert head.to_qkv.weight.shape == (3 * 768, 768)
    assert head.mlp_in.weight.shape == (4 * 768, 768)
    assert (head.head_dim, head.to_width.in_channels, head.to_features.out_channels) == (64, 128, 384)


def test_the_generator_decides_every_parameter() -> None:
    one, same, other = (tiny_head(seed).state_dict() for seed in (0, 0, 1))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name]), name
        assert torch.equal(tensor, other[name]) == name.endswith(("bias", "freqs")), name
    assert torch.equal(tiny_head()(*inputs()), tiny_head()(*inputs()))


def test_gradients_reach_every_parameter_and_the_latents_from_the_first_step() -> None:
    head, (noisy, tau) = tiny_head(), inputs()
    noisy.requires_grad_()
    target = torch.randn(2, 10, 4, 4, generator=seeded(9))
    alignment_loss(head(noisy, tau), target).backward()
    assert noisy.grad is not None
    assert (noisy.grad.abs().amax(dim=1) > 0).all()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_images_do_not_see_each_other_and_positions_do() -> None:
    head, (noisy, tau) = tiny_head(), inputs()
    before = head(noisy, tau)
    noisy[0, :, 0, 0] += 1
    change = (head(noisy, tau) - before).abs().amax(dim=1)
    assert (change[0] > 0).all()
    assert change[1].max() < 1e-6


def test_equal_latents_in_other_places_get_other_features() -> None:
    predicted = tiny_head()(torch.ones(1, 6, 3, 3), torch.tensor([0.5]))[0].flatten(1).T
    assert (torch.cdist(predicted, predicted) + torch.eye(9)).min() > 0.01


def test_the_noise_level_and_the_registers_are_heard() -> None:
    head, (noisy, _) = tiny_head(), inputs(count=1)
    low, high = head(noisy, torch.tensor([0.1])), head(noisy, torch.tensor([0.9]))
    assert (low - high).abs().max() > 0.01
    with torch.no_grad():
        head.registers.neg_()
    assert (head(noisy, torch.tensor([0.1])) - low).abs().max() > 1e-3
    assert tiny_head(num_registers=0)(noisy, torch.tensor([0.1])).shape == low.shape


def test_under_autocast_the_head_says_nearly_the_same_in_float32() -> None:
    head, (noisy, tau) = tiny_head(), inputs()
    exact = head(noisy, tau)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head(noisy, tau)
        loss = alignment_loss(rounded, exact)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1
    loss.backward()
    assert loss.item() < -0.999


def test_a_head_learns_features_that_the_latents_hold() -> None:
    head, latents = tiny_head(), torch.randn(8, 6, 4, 4, generator=seeded(1))
    mixing = torch.randn(10, 6, generator=seeded(2))
    features = torch.einsum("fz,bzhw->bfhw", mixing, latents)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    generator = seeded(3)
    losses = []
    for _ in range(80):
        tau = draw_tau(8, generator)
        eps = torch.randn(latents.shape, generator=generator)
        loss = alignment_loss(head(noisy_latents(latents, eps, tau), tau), features)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > -0.3
    assert sum(losses[-10:]) / 10 < -0.5  # where tau is near 1, nothing is left to be told
