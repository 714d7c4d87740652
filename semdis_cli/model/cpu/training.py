"""Two parts of an FCDM block with gradients written by hand, for training on a CPU in bfloat16 or float32.

Feature maps are [B,C,h,w] and fastest in the channels_last memory format; every other layout gives the same numbers.
float64 works too. Gradients can be taken once, not twice. Both passes look for a stop, once for each block.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from semdis_cli.stops import look

# Up to this kernel size PyTorch's own backward pass is the faster one; from 5 on it is several times slower than ours.
_LARGEST_NATIVE_KERNEL = 3


def gelu_grn(u: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """GELU, then GRN (Woo et al. 2023, ConvNeXt V2, algorithm 1): gamma (y n) + beta + y with y = gelu(u).

    n = g / (mean_c g + eps), g [B,H,1,1] the L2 norm of each channel's map. `u` [B,H,h,w] of any floating dtype, which
    is that of the result and of its gradient; `gamma` and `beta` [1,H,1,1], float32 with float32 gradients.
    """
    return cast(Tensor, _GeluGRN.apply(u, gamma, beta, eps))  # type: ignore[no-untyped-call]


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """y_c = bias_c + weight_c * x_c, a convolution of each channel by itself: stride 1, zeros around, the size kept.

    `x` [B,C,h,w] of any floating dtype, which is that of the result and of its gradient; under CPU autocast a float32
    `x` is cast first, as by `conv2d`. `weight` [C,1,k,k] with k odd and `bias` [C], float32 with float32 gradients.
    """
    if x.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    if weight.shape[-1] <= _LARGEST_NATIVE_KERNEL:
        return _same_conv2d(x, weight.to(x.dtype), bias.to(x.dtype))
    return cast(Tensor, _DepthwiseConv2d.apply(x, weight, bias))  # type: ignore[no-untyped-call]


class _GeluGRN(torch.autograd.Function):
    """out = beta + y a with the scale a = 1 + gamma n [B,H,1,1], so that a large tensor is read once per line."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
        """[B,H,h,w] -> the same. y is kept: reading it again is cheaper than a second erf."""
        look()
        y = functional.gelu(u)
        g = _sum_over_map(y * y).sqrt_()
        ctx.save_for_backward(u, y, g, gamma)
        ctx.eps, ctx.beta_dtype = eps, beta.dtype
        scale = 1 + gamma * (g / (g.mean(dim=1, keepdim=True) + eps))
        return torch.addcmul(beta.to(y.dtype), y, scale.to(y.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With d for a gradient: da = sum_hw(dout y), dgamma = sum_b(da n), dbeta = sum(dout), dy = dout a + y dg/g."""
        look()  # the only Python in all of a backward pass, which takes seconds
        u, y, g, gamma = ctx.saved_tensors
        mean = g.mean(dim=1, keepdim=True) + ctx.eps
        n = g / mean
        buffer = grad * y
        d_scale = _sum_over_map(buffer)
        d_n = d_scale * gamma
        d_g = (d_n - (d_n * n).mean(dim=1, keepdim=True)) / mean
        d_g_over_g = torch.where(g > 0, d_g / g, 0)  # a channel that is zero everywhere: y is 0 as well
        torch.mul(grad, (1 + gamma * n).to(y.dtype), out=buffer).addcmul_(y, d_g_over_g.to(y.dtype))
        torch.ops.aten.gelu_backward.grad_input(buffer, u, grad_input=buffer)
        d_gamma = (d_scale * n).sum(dim=0, keepdim=True)
        d_beta = _sum_over_map(grad).sum(dim=0, keepdim=True)
        return buffer, d_gamma.to(gamma.dtype), d_beta.to(ctx.beta_dtype), None


class _DepthwiseConv2d(torch.autograd.Function):
    """PyTorch's forward pass, which is fast, with a backward pass made of two more such convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[B,C,h,w] -> the same."""
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = bias.dtype
        with torch.autocast("cpu", enabled=False):
            return _same_conv2d(x, weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradient of x is the convolution with the kernel turned by 180 degrees."""
        x, weight = ctx.saved_tensors
        d_x = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                d_x = _same_conv2d(grad, weight.to(x.dtype).flip(2, 3))
            d_weight = _weight_gradient(x, grad, weight)
        return d_x, d_weight, _sum_over_map(grad).sum(dim=(0, 2, 3)).to(ctx.bias_dtype)


def _same_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[B,C,h,w], [C,1,k,k] -> [B,C,h,w]: the depthwise convolution itself."""
    return functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """dweight_c[i,j] = sum_b,y,x dout_bc[y,x] x_bc[y+i-k//2, x+j-k//2], [C,1,k,k] in the dtype of `weight`.

    Each map of x is convolved with its own map of dout: a depthwise convolution again, of B*C channels.
    """
    B, C, h, w = x.shape
    k = weight.shape[-1]
    maps, kernels = x.reshape(1, B * C, h, w), grad.reshape(B * C, 1, h, w)
    products = functional.conv2d(maps, kernels, padding=k // 2, groups=B * C)
    return products.view(B, C, 1, k, k).sum(dim=0, dtype=weight.dtype)


def _sum_over_map(x: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,C,1,1], float32 at least.

    A bfloat16 sum adds up in float32 and rounds once at the end; asked for a float32 result, it converts all of x first
    and takes three times as long.
    """
    total = x.sum(dim=(2, 3), keepdim=True)
    return total.to(torch.promote_types(x.dtype, torch.float32))
