"""The hand-written gradients against autograd's of the plain formulas."""

import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from semdis_cli import stops
from semdis_cli.model.cpu.training import depthwise_conv2d, gelu_grn
from semdis_cli.model.layers import GRN
from semdis_cli.stops import StoppedError, listen, noted

EPS = 1e-6
# Largest error allowed, in units of the largest value: a handful of roundings of each dtype.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 3e-2}
LAYOUTS = [torch.contiguous_format, torch.channels_last]

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
all_dtypes = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
all_layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gelu_grn_here(u: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return gelu_grn(u, gamma, beta, EPS)


def plain_gelu_grn(u: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    y = functional.gelu(u)
    g: Tensor = torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True)
    return gamma * (y * (g / (g.mean(dim=1, keepdim=True) + EPS))) + beta + y


def plain_depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def value_and_gradients(operation: Operation, inputs: tuple[Tensor, ...], upstream: Tensor) -> list[Tensor]:
    """The operation's value, then the gradient of each input."""
    first, second, third = (tensor.detach().requires_grad_() for tensor in inputs)
    value = operation(first, second, third)
    return [value.detach(), *torch.autograd.grad(value, (first, second, third), upstream.to(value.dtype))]


def assert_same(operation: Operation, plain: Operation, inputs: tuple[Tensor, ...], upstream: Tensor) -> None:
    """`operation` has the value and gradients of `plain` in float64, each in the dtype of what it belongs to."""
    actual = value_and_gradients(operation, inputs, upstream)
    expected = value_and_gradients(plain, tuple(tensor.double() for tensor in inputs), upstream.double())
    assert [tensor.dtype for tensor in actual] == [inputs[0].dtype, *(tensor.dtype for tensor in inputs)]
    for ours, theirs in zip(actual, expected, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error <= TOLERANCES[inputs[0].dtype]


def grn_inputs(dtype: torch.dtype, layout: torch.memory_format) -> tuple[tuple[Tensor, ...], Tensor]:
    """(u, gamma, beta) and a gradient of the result; the parameters are float32 unless everything is float64."""
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    u, upstream = (normal(3, 6, 4, 5, seed=seed, dtype=dtype).contiguous(memory_format=layout) for seed in (1, 2))
    return (u, *(normal(1, 6, 1, 1, seed=seed, dtype=parameter_dtype) for seed in (3, 4))), upstream


def conv_inputs(
    kernel: int, dtype: torch.dtype, layout: torch.memory_format, size: tuple[int, int] = (9, 8)
) -> tuple[tuple[Tensor, ...], Tensor]:
    """(x, weight, bias) and a gradient of the result."""
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    x, upstream = (normal(3, 6, *size, seed=seed, dtype=dtype).contiguous(memory_format=layout) for seed in (1, 2))
    weight = normal(6, 1, kernel, kernel, seed=3, dtype=parameter_dtype)
    return (x, weight, normal(6, seed=4, dtype=parameter_dtype)), upstream


# --- GELU and GRN ---------------------------------------------------------------------------------------------------


@all_dtypes
@all_layouts
def test_gelu_grn_is_the_plain_formula(dtype: torch.dtype, layout: torch.memory_format) -> None:
    assert_same(gelu_grn_here, plain_gelu_grn, *grn_inputs(dtype, layout))


def test_gelu_grn_is_what_the_layers_compute() -> None:
    (u, gamma, beta), _ = grn_inputs(torch.float32, torch.channels_last)
    layer = GRN(6, eps=EPS)
    layer.load_state_dict({"gamma": gamma, "beta": beta})
    torch.testing.assert_close(gelu_grn_here(u, gamma, beta), layer(functional.gelu(u)))


def test_gelu_grn_keeps_the_layout() -> None:
    (u, gamma, beta), _ = grn_inputs(torch.float32, torch.channels_last)
    value = gelu_grn_here(u.requires_grad_(), gamma, beta)
    (gradient,) = torch.autograd.grad(value.square().sum(), u)
    assert value.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_gelu_grn_passes_gradcheck() -> None:
    inputs, _ = grn_inputs(torch.float64, torch.channels_last)
    assert torch.autograd.gradcheck(gelu_grn_here, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)


def test_gelu_grn_takes_an_upstream_gradient_in_another_layout() -> None:
    inputs, upstream = grn_inputs(torch.float32, torch.channels_last)
    assert_same(gelu_grn_here, plain_gelu_grn, inputs, upstream.contiguous())
    assert_same(gelu_grn_here, plain_gelu_grn, inputs, upstream[:1, :1, :1, :1].expand_as(upstream))


@pytest.mark.parametrize("channels", [1, 6], ids=["one channel", "all channels"])
def test_gelu_grn_of_channels_that_are_zero_has_finite_gradients(channels: int) -> None:
    (u, gamma, beta), upstream = grn_inputs(torch.float32, torch.channels_last)
    u[:, :channels] = 0
    _, d_u, d_gamma, d_beta = value_and_gradients(gelu_grn_here, (u, gamma, beta), upstream)
    assert all(gradient.isfinite().all() for gradient in (d_u, d_gamma, d_beta))
    torch.testing.assert_close(d_u[:, :channels], 0.5 * upstream[:, :channels])  # n = 0 there, and gelu'(0) = 1/2
    assert not d_gamma[:, :channels].any()


def test_gelu_grn_survives_maps_too_small_to_be_squared() -> None:
    (u, gamma, beta), upstream = grn_inputs(torch.float32, torch.channels_last)
    results = value_and_gradients(gelu_grn_here, (u * 1e-30, gamma, beta), upstream)
    assert all(tensor.isfinite().all() for tensor in results)


def test_gelu_grn_leaves_its_arguments_as_they_were() -> None:
    inputs, upstream = grn_inputs(torch.float32, torch.channels_last)
    before = [tensor.clone() for tensor in (*inputs, upstream)]
    value_and_gradients(gelu_grn_here, inputs, upstream)
    assert all(torch.equal(old, new) for old, new in zip(before, (*inputs, upstream), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gelu_grn_under_autocast_keeps_the_dtype_of_its_input(dtype: torch.dtype) -> None:
    inputs, upstream = grn_inputs(dtype, torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(gelu_grn_here, plain_gelu_grn, inputs, upstream)


# --- depthwise convolution ------------------------------------------------------------------------------------------


@all_dtypes
@all_layouts
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_depthwise_conv2d_is_conv2d(kernel: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    assert_same(depthwise_conv2d, plain_depthwise_conv2d, *conv_inputs(kernel, dtype, layout))


@all_layouts
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 9)], ids=str)
def test_depthwise_conv2d_of_maps_smaller_than_the_kernel(size: tuple[int, int], layout: torch.memory_format) -> None:
    for kernel in (5, 7):
        assert_same(depthwise_conv2d, plain_depthwise_conv2d, *conv_inputs(kernel, torch.float32, layout, size))


@pytest.mark.parametrize("kernel", [3, 5])
def test_depthwise_conv2d_passes_gradcheck(kernel: int) -> None:
    inputs, _ = conv_inputs(kernel, torch.float64, torch.channels_last, (3, 4))
    assert torch.autograd.gradcheck(depthwise_conv2d, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)


def test_depthwise_conv2d_keeps_the_layout() -> None:
    (x, weight, bias), _ = conv_inputs(7, torch.float32, torch.channels_last)
    value = depthwise_conv2d(x.requires_grad_(), weight, bias)
    (gradient,) = torch.autograd.grad(value.square().sum(), x)
    assert value.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [3, 7])
def test_depthwise_conv2d_needs_no_gradient_of_its_input(kernel: int) -> None:
    (x, weight, bias), upstream = conv_inputs(kernel, torch.float32, torch.channels_last)
    expected = value_and_gradients(depthwise_conv2d, (x, weight, bias), upstream)
    value = depthwise_conv2d(x, weight.requires_grad_(), bias.requires_grad_())
    d_weight, d_bias = torch.autograd.grad(value, (weight, bias), upstream)
    torch.testing.assert_close((d_weight, d_bias), tuple(expected[2:]))


@pytest.mark.parametrize("kernel", [3, 7])
def test_depthwise_conv2d_under_autocast_computes_in_bfloat16_as_conv2d_does(kernel: int) -> None:
    (x, weight, bias), upstream = conv_inputs(kernel, torch.float32, torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        actual = value_and_gradients(depthwise_conv2d, (x, weight, bias), upstream)
        expected = value_and_gradients(plain_depthwise_conv2d, (x, weight, bias), upstream)
    assert actual[0].dtype == torch.bfloat16
    assert [tensor.dtype for tensor in actual] == [tensor.dtype for tensor in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-2, atol=3e-2 * theirs.abs().max().item())


@pytest.fixture
def signals_are_heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(stops, "_process", stops._Process())
    listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_are_heard")
def test_a_signal_in_the_middle_of_a_backward_pass_ends_it_at_the_next_block() -> None:
    u, gamma, beta = normal(1, 4, 2, 2).requires_grad_(), normal(1, 4, 1, 1), normal(1, 4, 1, 1)
    between = gelu_grn_here(u, gamma, beta)
    last = gelu_grn_here(between, gamma, beta)
    between.register_hook(lambda _: signal.raise_signal(signal.SIGTERM))
    with noted(), pytest.raises(StoppedError):
        last.sum().backward()
    assert u.grad is None
