"""Who moves which tensor how far: the schedule, Muon beside AdamW, clipping, what is remembered, and the average."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.layers import FCDMBlock
from semdis_cli.training.optimizer import Optimizer, rate_factor, update_average
from semdis_cli.training.settings import OptimizerName, OptimizerSettings
from tests.worlds import tiny_model

quick = settings(max_examples=100, deadline=None)
both = pytest.mark.parametrize("name", ["muon", "adamw"])

ADAMW_RATE, MUON_RATE, FACTOR = 0.01, 0.02, 0.25
NUM_STEPS, WARMUP_STEPS = 100, 10


def settings_of(name: OptimizerName = "muon", clip_norm: float = 1.0) -> OptimizerSettings:
    return OptimizerSettings(
        name=name,
        muon_rate=MUON_RATE,
        adamw_rate=ADAMW_RATE,
        linear_rate_factor=FACTOR,
        warmup_steps=WARMUP_STEPS,
        clip_norm=clip_norm,
    )


def trainable_model(seed: int = 0) -> FCDMDiffAE:
    return tiny_model(seed, model_dim=16, patch_size=4).requires_grad_()


@torch.no_grad()
def zero_model() -> FCDMDiffAE:
    """After a step, its weights are the step."""
    model = trainable_model()
    for parameter in model.parameters():
        parameter.zero_()
    return model


def set_gradients(model: nn.Module, seed: int) -> None:
    """Normal ones; those of the loss would take longer and show less."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def convolutions(model: FCDMDiffAE, *, in_blocks: bool) -> set[str]:
    """Names of the 1x1 convolutions inside the blocks, or of those outside."""
    blocks = tuple(name + "." for name, module in model.named_modules() if isinstance(module, FCDMBlock))
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and name.startswith(blocks) == in_blocks
    }


# --- the schedule ---------------------------------------------------------------------------------------------------


@given(num_steps=st.integers(1, 300), warmup_steps=st.integers(0, 400))
@quick
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(num_steps: int, warmup_steps: int) -> None:
    factors = [rate_factor(step, num_steps, warmup_steps) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(1.0)
    assert peak <= min(warmup_steps, num_steps / 10)
    assert all(before < after for before, after in pairwise(factors[: peak + 1]))
    assert all(before >= after for before, after in pairwise(factors[peak:]))
    assert factors[-1] <= 1 / (0.9 * num_steps) + 1e-12  # one step short of zero, of at least nine tenths of the run


@given(num_steps=st.integers(20, 300), warmup_steps=st.integers(0, 400))
@quick
def test_the_rate_is_a_line_up_and_a_line_down(num_steps: int, warmup_steps: int) -> None:
    factors = np.array([rate_factor(step, num_steps, warmup_steps) for step in range(num_steps)])
    peak = int(factors.argmax())
    rise, fall = np.diff(np.append(0, factors[: peak + 1])), np.diff(np.append(factors[peak + 1 :], 0))
    np.testing.assert_allclose(rise, rise[0], atol=1e-12)
    np.testing.assert_allclose(fall, fall[0], atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_a_tiny_run_does_not_warm_up(num_steps: int) -> None:
    assert rate_factor(0, num_steps, 100) == 1


@pytest.mark.parametrize(("step", "factor"), [(0, 0.1), (4, 0.5), (9, 1), (10, 1), (55, 0.5), (99, 1 / 90)])
def test_the_rate_by_hand(step: int, factor: float) -> None:
    assert rate_factor(step, NUM_STEPS, WARMUP_STEPS) == pytest.approx(factor)


# --- who moves what -------------------------------------------------------------------------------------------------


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_rest() -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of("muon"), NUM_STEPS)
    set_gradients(model, 1)
    optimizer.step(0)
    remembered = optimizer.state_tensors()
    of_muon = {name.removesuffix(":momentum_buffer") for name in remembered if name.endswith(":momentum_buffer")}
    of_adamw = {name.removesuffix(":exp_avg") for name in remembered if name.endswith(":exp_avg")}
    num_blocks = model.config.encoder_depth + model.config.decoder_depth
    assert len(of_muon) == 2 * num_blocks
    assert of_muon == {f"{name}.weight" for name in convolutions(model, in_blocks=True)}
    assert of_adamw == set(dict(model.named_parameters())) - of_muon


def test_without_muon_adamw_takes_everything() -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of("adamw"), NUM_STEPS)
    set_gradients(model, 1)
    optimizer.step(0)
    names = {name.rpartition(":")[0] for name in optimizer.state_tensors()}
    assert names == set(dict(model.named_parameters()))
    assert not any(name.endswith(":momentum_buffer") for name in optimizer.state_tensors())


@both
@pytest.mark.parametrize(("step", "factor"), [(4, 0.5), (9, 1.0), (55, 0.5)])
def test_adamw_follows_its_rate_and_the_linear_ends_a_part_of_it(name: OptimizerName, step: int, factor: float) -> None:
    model = zero_model()
    optimizer = Optimizer(model, settings_of(name), NUM_STEPS)
    for parameter in model.parameters():
        parameter.grad = torch.full(parameter.shape, -3.0)
    optimizer.step(step)
    assert optimizer.rate(step) == pytest.approx(factor)
    ends = tuple(f"{end}." for end in convolutions(model, in_blocks=False))
    assert len(ends) == 7
    matrices = {f"{matrix}.weight" for matrix in convolutions(model, in_blocks=True)} if name == "muon" else set()
    for key, parameter in model.named_parameters():
        if key not in matrices:  # Adam's first step is the rate, whatever the gradient (Kingma & Ba 2015, section 2.1)
            rate = ADAMW_RATE * factor * (FACTOR if key.startswith(ends) else 1)
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, rate), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("step", "factor"), [(4, 0.5), (9, 1.0)])
def test_muon_steps_are_nearly_orthogonal_and_as_large_as_adamws_would_be(step: int, factor: float) -> None:
    model = zero_model()
    optimizer = Optimizer(model, settings_of("muon"), NUM_STEPS)
    set_gradients(model, 1)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    optimizer.step(step)
    for name in convolutions(model, in_blocks=True):
        update = model.get_parameter(f"{name}.weight").detach().flatten(1)
        gradient = gradients[f"{name}.weight"]
        assert gradient is not None
        assert (update * gradient.flatten(1)).sum() < 0
        # Liu et al. 2025, section 2.2: 0.2 sqrt(max(A, B)) times an orthogonal matrix, whose RMS is 0.2 of the rate.
        scaled = torch.linalg.svdvals(update) / (MUON_RATE * factor * 0.2 * math.sqrt(max(update.shape)))
        assert scaled.min() > 0.4
        assert scaled.max() < 1.4


@both
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_step_moves_the_models_own_weights(name: OptimizerName, layout: torch.memory_format) -> None:
    model = trainable_model().to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = Optimizer(model, settings_of(name), NUM_STEPS)
    pointers = {key: parameter.data_ptr() for key, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # what is written into the model is what the optimizer goes on from
    set_gradients(model, 1)
    optimizer.step(9)
    largest = 1.5 * MUON_RATE
    for key, parameter in model.named_parameters():
        assert parameter.data_ptr() == pointers[key], key
        assert 0 < parameter.abs().max() < largest, key


def test_gradients_are_cleared_and_a_tensor_without_one_stays() -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of(), NUM_STEPS)
    set_gradients(model, 1)
    without = {"decoder.path_drop_mask_feature", "encoder.blocks.0.pwconv1.weight"}
    for name in without:
        model.get_parameter(name).grad = None
    before = parameters_of(model)
    optimizer.step(0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])} == without


# --- clipping -------------------------------------------------------------------------------------------------------


def sparse_gradients(model: FCDMDiffAE, first: float, second: float) -> tuple[Tensor, Tensor]:
    """One entry each in a matrix of Muon's and in a tensor of AdamW's; zero everywhere else."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    matrix = model.get_parameter("decoder.end_blocks.0.pwconv2.weight").grad
    bias = model.get_parameter("encoder.to_bottleneck.bias").grad
    assert matrix is not None
    assert bias is not None
    matrix[3, 2, 0, 0], bias[5] = first, second
    return matrix, bias


@pytest.mark.parametrize(("clip_norm", "scale"), [(1.0, 0.2), (2.0, 0.4), (5.5, 1.0)])
def test_a_long_gradient_is_scaled_as_a_whole(clip_norm: float, scale: float) -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of(clip_norm=clip_norm), NUM_STEPS)
    matrix, bias = sparse_gradients(model, 3.0, -4.0)
    assert optimizer.clip().item() == pytest.approx(5)
    assert matrix[3, 2, 0, 0].item() == pytest.approx(3 * scale, rel=1e-5)
    assert bias[5].item() == pytest.approx(-4 * scale, rel=1e-5)
    assert matrix.count_nonzero() == bias.count_nonzero() == 1


def test_a_short_gradient_is_left_alone() -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of(clip_norm=1.0), NUM_STEPS)
    matrix, bias = sparse_gradients(model, 0.3, 0.4)
    expected = torch.tensor([0.3, 0.4])
    assert optimizer.clip().item() == pytest.approx(0.5)
    assert torch.equal(torch.stack([matrix[3, 2, 0, 0], bias[5]]), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(value: float) -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of(), NUM_STEPS)
    sparse_gradients(model, value, 1.0)
    assert not math.isfinite(optimizer.clip())


# --- what is remembered ---------------------------------------------------------------------------------------------


@both
def test_what_is_remembered_gives_the_same_next_steps_bit_for_bit(name: OptimizerName) -> None:
    model = trainable_model()
    optimizer = Optimizer(model, settings_of(name), NUM_STEPS)
    for step in range(3):
        set_gradients(model, step)
        model.decoder.path_drop_mask_feature.grad = None  # it has never been needed so far
        optimizer.step(step)
    resumed = copy.deepcopy(model)
    other = Optimizer(resumed, settings_of(name), NUM_STEPS)
    other.load_state_tensors({key: tensor.clone() for key, tensor in optimizer.state_tensors().items()})
    for step in range(3, 5):
        for each, its_optimizer in ((model, optimizer), (resumed, other)):
            set_gradients(each, step)
            its_optimizer.step(step)
    expected = parameters_of(model)
    for key, parameter in resumed.named_parameters():
        assert torch.equal(parameter, expected[key]), key
    remembered = optimizer.state_tensors()
    assert other.state_tensors().keys() == remembered.keys()
    for key, tensor in other.state_tensors().items():
        assert torch.equal(tensor, remembered[key]), key


@both
def test_what_is_remembered_makes_a_difference(name: OptimizerName) -> None:
    """Or the test above would show nothing."""
    model = trainable_model()
    optimizer = Optimizer(model, settings_of(name), NUM_STEPS)
    set_gradients(model, 0)
    optimizer.step(0)
    forgetful = copy.deepcopy(model)
    other = Optimizer(forgetful, settings_of(name), NUM_STEPS)
    for each, its_optimizer in ((model, optimizer), (forgetful, other)):
        set_gradients(each, 1)
        its_optimizer.step(1)
    expected = parameters_of(model)
    for key, parameter in forgetful.named_parameters():
        assert not torch.equal(parameter, expected[key]), key


# --- the average of the weights -------------------------------------------------------------------------------------


def line(*values: float) -> nn.Linear:
    """A layer with these weights and a bias of 0."""
    layer = nn.Linear(len(values), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
        layer.bias.zero_()
    return layer


@pytest.mark.parametrize(
    ("step", "kept"),
    [(0, 0.1), (8, 0.5), (80, 0.9), (990, 0.991), (10**6, 0.9995)],  # (1 + n) / (10 + n), at most the decay
)
def test_a_young_average_forgets_faster(step: int, kept: float) -> None:
    average, model = line(1.0, 10.0), line(2.0, 0.0)
    update_average(average, model, step, decay=0.9995)
    assert average.weight.tolist()[0] == pytest.approx([kept + 2 * (1 - kept), 10 * kept], rel=1e-6)


def test_the_average_follows_step_by_step() -> None:
    average, model = line(0.0), line(0.0)
    expected = 0.0
    for step, value in enumerate((4.0, -2.0, 8.0, 1.0)):
        with torch.no_grad():
            model.weight.fill_(value)
        update_average(average, model, step, decay=0.2)
        kept = (0.1, 2 / 11, 0.2, 0.2)[step]
        expected = kept * expected + (1 - kept) * value
    assert average.weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_average_shares_nothing_with_the_model_and_leaves_it_alone() -> None:
    model = trainable_model()
    average = copy.deepcopy(model).requires_grad_(False)
    before = parameters_of(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.zero_()
    update_average(average, model, 0, decay=0.9995)
    averaged = parameters_of(average)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        torch.testing.assert_close(averaged[name], 0.9 * before[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    for name, parameter in average.named_parameters():
        assert torch.equal(parameter, averaged[name]), name
        assert not parameter.requires_grad, name
