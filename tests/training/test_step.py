"""One training step: chance, what the decoder gets to see, path drop, and loss terms worked by hand."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.training.alignment import AlignmentHead
from semdis_cli.training.settings import LossSettings
from semdis_cli.training.step import Draws, align, draw, forward, generator_for
from tests.worlds import tiny_model

Array = npt.NDArray[np.float64]

SIDE_PX = 32
P32 = {"bottleneck_patchify_mode": "patch_2x2"}
# Terms at full weight, so that none hides behind another.
PLAIN = LossSettings(variance_expansion=1.0, latent_scale=1.0, path_drop=0.0)


def model_of(**changes: Any) -> FCDMDiffAE:
    """Ready to be trained."""
    return tiny_model(model_dim=16, **changes).requires_grad_().train()


def random_images(count: int = 4, *, seed: int = 1) -> Tensor:
    """[B,3,32,32] in [-1,1]."""
    return 2 * torch.rand(count, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(seed)) - 1


def draws_for(model: FCDMDiffAE, images: Tensor, settings: LossSettings = PLAIN, step: int = 0) -> Draws:
    return draw(model, images, settings, generator_for(0, "noise", step))


def in_order(draws: Draws) -> Draws:
    """The decoder sees the images as they come."""
    return dataclasses.replace(draws, order=torch.arange(len(draws.t)))


@dataclasses.dataclass(frozen=True)
class Call:
    """What the decoder was given once."""

    x_t: Tensor
    t: Tensor
    latents: Tensor
    is_dropped: bool


def listen(model: FCDMDiffAE) -> list[Call]:
    """A list to which every call of the decoder is going to be added."""
    calls: list[Call] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        x_t, t, latents = (tensor.detach().clone() for tensor in args)
        calls.append(Call(x_t, t, latents, kwargs.get("drop_middle_blocks", False)))

    model.decoder.register_forward_pre_hook(note, with_kwargs=True)
    return calls


def dropped_first(calls: list[Call]) -> list[Call]:
    return sorted(calls, key=lambda call: not call.is_dropped)


def alpha_sigma(t: Array) -> tuple[Array, Array]:
    """Cosine and sine of an angle that grows with t, from log-SNR 10 to -10."""
    b = np.arctan(np.exp(-5))
    angle = b + (np.arctan(np.exp(5)) - b) * t
    return np.cos(angle), np.sin(angle)


def sid2(t: Array, bias: float = -2.0) -> Array:
    """-1/2 dlogsnr/dt e^b sigmoid(logsnr - b), logsnr = 2 ln(alpha/sigma), of slope -2 a / (alpha sigma)."""
    alpha, sigma = alpha_sigma(t)
    a = np.arctan(np.exp(5)) - np.arctan(np.exp(-5))
    weight: Array = a / (alpha * sigma) * np.exp(bias) / (1 + np.exp(bias) * sigma**2 / alpha**2)
    return weight


# --- chance ---------------------------------------------------------------------------------------------------------


def numbers(seed: int, purpose: str, step: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=generator_for(seed, purpose, step)).tolist())


def test_chance_is_the_same_again_and_different_for_every_purpose_step_and_seed() -> None:
    cases = [(seed, purpose, step) for seed in (0, 1, 11) for purpose in ("noise", "crops") for step in (0, 1, 11, 111)]
    drawn = [numbers(*case) for case in cases]
    assert drawn == [numbers(*case) for case in cases]
    assert len(set(drawn)) == len(cases)


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_any_seed_and_step_make_a_generator(seed: int) -> None:
    assert len(set(numbers(seed, "noise", 10**9))) == 4


def test_the_generator_alone_decides_the_draws() -> None:
    model, settings = model_of(), LossSettings(one_step_share=0.25)
    first, same, next_step = (
        dataclasses.asdict(draws_for(model, random_images(8, seed=seed), settings, step))
        for seed, step in ((1, 0), (2, 0), (1, 1))
    )
    assert first.pop("num_one_step") == 2
    for name, tensor in first.items():
        assert torch.equal(tensor, same[name]), name
        assert not torch.equal(tensor, next_step[name]), name


@pytest.mark.parametrize(("changes", "latents"), [({}, (8, 2, 2)), (P32, (32, 1, 1))])
def test_draws_have_the_sizes_of_images_and_latents(changes: dict[str, Any], latents: tuple[int, ...]) -> None:
    draws = draws_for(model_of(**changes), random_images(5))
    assert draws.t.shape == (5,)
    assert draws.t.dtype == torch.float32
    assert ((draws.t >= 0) & (draws.t < 1)).all()
    assert draws.pixel_noise.shape == (5, 3, SIDE_PX, SIDE_PX)
    assert draws.latent_noise.shape == (5, *latents)
    assert sorted(draws.order.tolist()) == [0, 1, 2, 3, 4]


def test_draws_have_the_distributions_they_are_said_to_have() -> None:
    model = model_of(pixel_noise_std=0.3)
    draws = draws_for(model, torch.zeros(2000, 3, SIDE_PX, SIDE_PX))
    quarters = torch.histc(draws.t, 4, 0, 1) / 2000
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.04)
    assert draws.pixel_noise.std() == pytest.approx(0.3, abs=0.002)
    assert draws.latent_noise.std() == pytest.approx(1, abs=0.02)
    assert abs(draws.pixel_noise.mean()) < 0.002
    assert abs(draws.latent_noise.mean()) < 0.02


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_images_has_t_1_exactly(share: float, count: int) -> None:
    draws = draws_for(model_of(), random_images(8), LossSettings(one_step_share=share))
    assert draws.num_one_step == count
    assert (draws.t[:count] == 1).all()
    assert (draws.t[count:] < 1).all()


# --- terms by hand --------------------------------------------------------------------------------------------------


@torch.no_grad()
def constant_model(mean: float = 0.0, logsnr: float = 0.0, colour: float = 0.1, **changes: Any) -> FCDMDiffAE:
    """Whatever it sees: the posterior has this mean and log-SNR everywhere, and the prediction is all this colour."""
    model = model_of(**changes)
    head, out = model.encoder.to_bottleneck, model.decoder.out_proj
    assert head.bias is not None
    assert out.bias is not None
    for layer in (head, out):
        layer.weight.zero_()
    head.bias[:8] = mean
    head.bias[8:] = logsnr
    out.bias.fill_(colour)
    return model


def flat_images(*colours: float) -> Tensor:
    return torch.tensor(colours)[:, None, None, None].expand(-1, 3, SIDE_PX, SIDE_PX).contiguous()


def draws_by_hand(t: list[float], num_one_step: int, latent_noise: float = 0.0, latent_channels: int = 8) -> Draws:
    side = SIDE_PX // 16
    return Draws(
        t=torch.tensor(t),
        pixel_noise=torch.zeros(len(t), 3, SIDE_PX, SIDE_PX),
        latent_noise=torch.full((len(t), latent_channels, side, side), latent_noise),
        order=torch.arange(len(t)),
        num_one_step=num_one_step,
    )


HALF = 0.371275  # weight at t = 0.5, where alpha = sigma: 1/2 * 4 * 1.55732063673 e^-2 / (1 + e^-2)


@pytest.mark.parametrize(
    ("balance", "one_step"),
    [
        (0.0, (0.04 + 0.36) / 4),
        (0.5, (0.04 * math.sqrt(0.20 / 0.04) + 0.36 * math.sqrt(0.20 / 0.36)) / 4),
        (1.0, (0.20 + 0.20) / 4),
    ],
)
def test_all_terms_of_a_model_that_always_says_the_same(balance: float, one_step: float) -> None:
    settings = dataclasses.replace(PLAIN, balance=balance, variance_expansion=3.0, latent_scale=2.0)
    images = flat_images(0.3, -0.5, 0.2, 0.9)  # squared errors of 0.04, 0.36, 0.01 and 0.64
    result = forward(constant_model(mean=2.0), images, draws_by_hand([1, 1, 0.5, 0.5], 2), settings)
    expected = {
        "diffusion": HALF * (0.01 + 0.64) / 4,
        "one_step": one_step,
        "latent_scale": 2 * math.log(2.0) ** 2,  # the mode is 2 sqrt(1/2) everywhere, its square 2
        "variance_expansion": 3 * math.log(2.0),  # sigma^2 = 1/2
    }
    assert {name: term.item() for name, term in result.terms.items()} == pytest.approx(expected, rel=1e-4)
    assert result.loss.item() == pytest.approx(sum(expected.values()), rel=1e-4)
    assert result.loss.shape == ()
    assert result.loss.dtype == torch.float32


def test_the_latents_are_drawn_from_the_posterior() -> None:
    draws = draws_by_hand([0.5], 0, latent_noise=-3.0)
    result = forward(constant_model(mean=2.0, logsnr=math.log(3)), flat_images(0.1), draws, PLAIN)
    torch.testing.assert_close(result.latents, torch.full((1, 8, 2, 2), 2 * math.sqrt(0.75) - 3 * math.sqrt(0.25)))
    torch.testing.assert_close(result.posterior.mode(), torch.full((1, 8, 2, 2), 2 * math.sqrt(0.75)))


def test_without_a_one_step_share_every_image_has_its_weight() -> None:
    t = np.array([0.1, 0.25, 0.75, 0.9])
    images = flat_images(0.2, 0.3, 0.5, 1.1)  # squared errors of 0.01, 0.04, 0.16 and 1
    result = forward(constant_model(), images, draws_by_hand(t.tolist(), 0), dataclasses.replace(PLAIN, sid2_bias=1.0))
    expected = (sid2(t, 1.0) * np.array([0.01, 0.04, 0.16, 1.0])).sum() / 4
    assert "one_step" not in result.terms
    assert result.terms["diffusion"].item() == pytest.approx(expected, rel=1e-4)


def test_with_a_one_step_share_of_1_nothing_is_weighted() -> None:
    result = forward(constant_model(), flat_images(0.2, 0.3), draws_by_hand([1, 1], 2), PLAIN)
    assert result.terms["diffusion"].item() == 0
    assert result.terms["one_step"].item() == pytest.approx((0.01 + 0.04) / 2, rel=1e-5)
    result.loss.backward()


def test_the_weight_follows_the_models_own_limits() -> None:
    model = constant_model(logsnr_min=-4.0, logsnr_max=4.0)
    result = forward(model, flat_images(1.1), draws_by_hand([0.5], 0), PLAIN)
    a = math.atan(math.exp(2)) - math.atan(math.exp(-2))
    assert result.terms["diffusion"].item() == pytest.approx(2 * a / (1 + math.exp(2)), rel=1e-4)  # alpha = sigma


def test_a_deterministic_posterior_has_no_variance_to_expand() -> None:
    model = model_of(bottleneck_posterior_kind="deterministic")
    images = random_images()
    settings = dataclasses.replace(PLAIN, path_drop=0.5, one_step_share=0.25)
    result = forward(model, images, draws_for(model, images, settings), settings)
    assert set(result.terms) == {"diffusion", "one_step", "latent_scale"}
    assert torch.equal(result.latents, result.posterior.mode())
    result.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


# --- what the decoder sees ------------------------------------------------------------------------------------------


def test_at_t_1_the_decoder_sees_noise_alone_and_before_it_the_image_too() -> None:
    model = model_of()
    calls, settings = listen(model), dataclasses.replace(PLAIN, one_step_share=0.5)
    draws = in_order(draws_for(model, random_images(), settings))
    for seed in (1, 2):
        forward(model, random_images(seed=seed), draws, settings)
    one, other = calls
    noise = draws.pixel_noise.double().numpy()
    np.testing.assert_allclose(one.x_t[:2].numpy(), 0.99997730 * noise[:2], rtol=1e-6)  # sqrt(sigmoid(10))
    assert torch.equal(one.x_t[:2], other.x_t[:2])
    alpha, sigma = (value[:, None, None, None] for value in alpha_sigma(draws.t[2:].double().numpy()))
    for call, seed in ((one, 1), (other, 2)):
        x_t = alpha * random_images(seed=seed)[2:].double().numpy() + sigma * noise[2:]
        np.testing.assert_allclose(call.x_t[2:].numpy(), x_t, rtol=1e-4, atol=1e-5)
        assert torch.equal(call.t, draws.t)


def test_the_decoder_sees_the_sampled_latents() -> None:
    model = model_of()
    calls, images = listen(model), random_images()
    result = forward(model, images, in_order(draws_for(model, images)), PLAIN)
    assert torch.equal(calls[0].latents, result.latents)
    assert not torch.equal(result.latents, result.posterior.mode())


def test_of_p32_the_decoder_sees_the_latents_unfolded() -> None:
    model = model_of(**P32)
    calls, images = listen(model), random_images()
    settings = dataclasses.replace(PLAIN, one_step_share=0.25, path_drop=0.25)
    result = forward(model, images, in_order(draws_for(model, images, settings)), settings)
    assert result.latents.shape == (4, 32, 1, 1)
    seen = torch.cat([call.latents for call in dropped_first(calls)])
    assert seen.shape == (4, 8, 2, 2)
    for channel in range(8):  # c*4 + dy*2 + dx
        for dy in (0, 1):
            for dx in (0, 1):
                assert torch.equal(seen[:, channel, dy, dx], result.latents[:, 4 * channel + 2 * dy + dx, 0, 0])
    result.loss.backward()
    gradient = model.encoder.patchify.proj.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


# --- path drop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "num_dropped"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_dropped_images_do_without_the_middle_blocks_and_keep_their_place(share: float, num_dropped: int) -> None:
    model, images = model_of(), random_images()
    settings = dataclasses.replace(PLAIN, path_drop=share)
    draws = dataclasses.replace(draws_for(model, images), order=torch.tensor([2, 0, 3, 1]))
    result = forward(model, images, draws, settings)
    t = draws.t.double().numpy()
    alpha, sigma = (value[:, None, None, None] for value in alpha_sigma(t))
    x_t = torch.from_numpy(alpha * images.double().numpy() + sigma * draws.pixel_noise.double().numpy()).float()
    with torch.no_grad():
        full = model.decoder(x_t, draws.t, result.latents)
        dropped = model.decoder(x_t, draws.t, result.latents, drop_middle_blocks=True)
    assert (full - dropped).abs().mean() > 0.01
    x0_hat = full.clone()
    for i in (2, 0, 3, 1)[:num_dropped]:
        x0_hat[i] = dropped[i]
    errors = ((x0_hat - images).double().numpy() ** 2).mean(axis=(1, 2, 3))
    expected = (sid2(t) * errors).mean()
    assert result.terms["diffusion"].item() == pytest.approx(expected, rel=1e-4)


def test_what_is_dropped_is_a_share_of_the_batch_in_the_order_drawn() -> None:
    model = model_of()
    calls, images = listen(model), random_images(8)
    settings = dataclasses.replace(PLAIN, path_drop=0.375)
    draws = draws_for(model, images, settings)
    forward(model, images, draws, settings)
    assert [(len(call.t), call.is_dropped) for call in dropped_first(calls)] == [(3, True), (5, False)]
    for call, chosen in zip(dropped_first(calls), (draws.order[:3], draws.order[3:]), strict=True):
        assert torch.equal(call.t, draws.t[chosen])


def test_dropped_images_hear_the_learned_constant_and_not_the_middle_blocks() -> None:
    images = random_images()
    for share, has_gradient in ((1.0, True), (0.0, False)):
        model, settings = model_of(), dataclasses.replace(PLAIN, path_drop=share)
        forward(model, images, draws_for(model, images, settings), settings).loss.backward()
        assert (model.decoder.path_drop_mask_feature.grad is not None) == has_gradient
        assert (model.decoder.middle_blocks[0].get_parameter("pwconv1.weight").grad is None) == has_gradient


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, P32, {"bottleneck_norm_mode": "channel_wise"}], ids=["plain", "p32", "norm"])
def test_gradients_reach_every_parameter(changes: dict[str, Any]) -> None:
    model, images = model_of(**changes), random_images()
    settings = LossSettings(one_step_share=0.5, balance=0.5, path_drop=0.5)
    result = forward(model, images, draws_for(model, images, settings), settings)
    assert all(term.isfinite() for term in result.terms.values())
    result.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("logsnr", [-40.0, 40.0])
def test_gradients_are_finite_for_a_posterior_that_is_sure_or_knows_nothing(logsnr: float) -> None:
    model, images = model_of(), random_images()
    with torch.no_grad():
        model.get_parameter("encoder.to_bottleneck.bias")[8:] = logsnr
    forward(model, images, draws_for(model, images), PLAIN).loss.backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_in_bfloat16_the_terms_are_float32_and_nearly_the_same(layout: torch.memory_format) -> None:
    model = model_of().to(memory_format=layout)  # type: ignore[call-overload]
    images, settings = random_images(), LossSettings(one_step_share=0.5, path_drop=0.5)
    draws = draws_for(model, images, settings)
    exact = forward(model, images, draws, settings).terms
    with torch.autocast("cpu", torch.bfloat16):
        result = forward(model, images, draws, settings)
    for name, term in result.terms.items():
        assert term.dtype == torch.float32, name
        assert term.item() == pytest.approx(exact[name].item(), rel=0.03), name
    result.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name


def descend(loss_of: Callable[[], Tensor], parameters: list[Tensor], rate: float) -> None:
    gradients = torch.autograd.grad(loss_of(), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(rate * gradient)


def test_following_the_gradient_lowers_the_loss() -> None:
    model, images = model_of(), random_images()
    settings = LossSettings(one_step_share=0.5, path_drop=0.0)
    draws = draws_for(model, images, settings)
    parameters: list[Tensor] = [parameter for name, parameter in model.named_parameters() if "mask_feature" not in name]
    before = forward(model, images, draws, settings).loss.item()
    descend(lambda: forward(model, images, draws, settings).loss, parameters, rate=1e-3)
    assert forward(model, images, draws, settings).loss.item() < before


# --- alignment ------------------------------------------------------------------------------------------------------


def test_alignment_comes_from_its_generator_and_reaches_head_and_latents() -> None:
    head = AlignmentHead(8, 6, 16, head_dim=8, mlp_ratio=1.0).initialise(generator_for(0, "head", 0))
    features = torch.randn(2, 6, 3, 3, generator=generator_for(0, "features", 0))
    latents = torch.randn(2, 8, 3, 3, generator=generator_for(0, "latents", 0)).requires_grad_()
    loss, same, other = (align(head, features, latents, generator_for(0, "alignment", step)) for step in (0, 0, 1))
    assert loss.shape == ()
    assert -1 <= loss.item() <= 1
    assert torch.equal(loss, same)
    assert not torch.equal(loss, other)
    loss.backward()
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in head.parameters())
