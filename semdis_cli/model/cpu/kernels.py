"""oneDNN's linear maps and depthwise convolutions with weights packed in advance: what a fast CPU block is made of.

The operators are PyTorch's own (its compiler uses them), but private: `onednn_works` tries them, and nothing here runs
where they are missing or give another answer. Feature maps are rows [M,C], M = B*h*w, so that no layout is converted
between a convolution and a linear map.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from semdis_cli.model.layers import FCDMBlock

# Rows of one linear map: so many that loading the weights is paid back, so few that the result is still in the cache
# for the passes over it (measured with 896 x 3584 weights in bfloat16: 256 to 1024 rows are within 10 %). Narrow maps
# take twice as many: there, starting the operators counts (measured with 384 x 1152 weights: a tenth).
_FEW_ROWS, _NARROW = 512, 1792
Modulation = tuple[Tensor, Tensor]  # (1 + scale, gate), each [C]
_CACHED_ROWS = 256
# From that many rows of one image, GRN's scale and the gate go into the image's own copy of the second map's weights:
# scaling and packing these costs as much as scaling about a thousand rows.
_MANY_ROWS = 2048


def rows_at_once(hidden_dim: int) -> int:
    """Rows that go through a block of that hidden width as one map; more are cut, or belong to another call."""
    return _FEW_ROWS if hidden_dim > _NARROW else 2 * _FEW_ROWS


@cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Tell whether the private operators exist, take what is given to them here, and agree with the public ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 32, generator=generator).to(dtype)
    weight, bias = torch.randn(64, 32, generator=generator).to(dtype), torch.randn(64, generator=generator)
    kernel = torch.randn(32, 1, 3, 3, generator=generator).to(dtype)
    expected = functional.linear(x.float(), weight.float(), bias)
    try:
        with torch.inference_mode():
            linear, depthwise = PackedLinear(weight, bias), PackedDepthwise(kernel, bias[:32])
            pairs = [
                (linear(x), expected),
                (linear.gelu(x), functional.gelu(expected)),
                (linear.add(x, linear(x)), 2 * expected),
                (depthwise(x, (1, 2, 3)), _public_depthwise(x, kernel, bias[:32])),
                (_mean_square(x), x.float().square().mean(dim=0)),
            ]
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    rtol, atol = (1e-5, 1e-4) if dtype == torch.float32 else (0.02, 0.05)
    return all(
        y.dtype in {dtype, torch.float32} and torch.allclose(y.float(), other, rtol=rtol, atol=atol)
        for y, other in pairs
    )


class PackedLinear:
    """y = x W^T + b for rows x [M,K]; W [N,K] is packed once, b [N] has its dtype. The sum is float32 until the end."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = _op("_reorder_linear_weight")(weight, _FEW_ROWS)
        self._bias = None if bias is None else bias.to(weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """[M,K] -> [M,N]."""
        return _op("_linear_pointwise")(x, self._weight, self._bias, "none", [], "")

    def gelu(self, x: Tensor) -> Tensor:
        """[M,K] -> GELU of y, [M,N]. y is float32 there: one rounding fewer than in two operators."""
        return _op("_linear_pointwise")(x, self._weight, self._bias, "gelu", [], "none")

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """[M,K], [M,N] -> y + other [M,N], added in float32."""
        return _op("_linear_pointwise").binary(x, other, self._weight, self._bias, "add")


class PackedDepthwise:
    """A convolution of each channel by itself on rows: stride 1, zeros around, the size kept."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Weight [C,1,k,k], k odd; bias [C]."""
        self._channels, self._padding = weight.shape[0], [weight.shape[-1] // 2] * 2
        pack = _op("_reorder_convolution_weight")
        self._weight = pack(weight, self._padding, [1, 1], [1, 1], self._channels, [1, self._channels, 16, 16])
        self._bias = bias.to(weight.dtype)

    def __call__(self, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """[B*h*w,C] with `shape` (B, h, w) -> the same."""
        maps = x.view(*shape, self._channels).permute(0, 3, 1, 2)
        ones = [1, 1]
        y = _op("_convolution_pointwise")(
            maps, self._weight, self._bias, self._padding, ones, ones, self._channels, "none", [], ""
        )
        return y.permute(0, 2, 3, 1).reshape(x.shape)


class PackedBlock:
    """`FCDMBlock` on rows, with everything folded into its weights that does not depend on the image.

    GRN's beta goes into the second map's bias, and so does an encoder block's layer scale into its weight and bias. A
    decoder block takes scale and gate from AdaLN.
    """

    def __init__(self, block: FCDMBlock) -> None:
        self._weight = block.pwconv2.weight.flatten(1)
        self._bias = float_bias(block.pwconv2) + self._weight.float() @ block.grn.beta.flatten().float()
        self._layer_scale = None if block.layer_scale is None else block.layer_scale.detach()
        self._depthwise = PackedDepthwise(block.dwconv.weight, float_bias(block.dwconv))
        self._up = PackedLinear(block.pwconv1.weight.flatten(1), float_bias(block.pwconv1))
        self._down = PackedLinear(self._weight, self._bias)
        if self._layer_scale is not None:
            gate = self._layer_scale.float()
            self._down = PackedLinear((self._weight.float() * gate[:, None]).to(self._weight.dtype), self._bias * gate)
        self._gamma = block.grn.gamma.flatten().float()
        self._norm_eps, self._grn_eps = block.norm.eps, block.grn.eps
        self._rows_at_once = rows_at_once(self._weight.shape[1])

    def __call__(self, x: Tensor, shape: tuple[int, int, int], modulation: Modulation | None = None) -> Tensor:
        """Rows [B*h*w,C] with `shape` (B, h, w) -> the same. `modulation`: (1 + scale, gate), each [C]."""
        y = self._depthwise(x, shape)
        num_rows = self._rows_of_a_piece(len(x)) if shape[0] == 1 else len(x)
        hidden, energies = [], []
        for rows in y.split(num_rows):
            _rms_norm_(rows, self._norm_eps)
            if modulation is not None:
                rows.mul_(modulation[0])
            u = self._up.gelu(rows)
            hidden.append(u)
            energies.append(_energy(u, shape[0]))  # at once, while u is in the cache
        scale = self._grn_scale(sum(energies[1:], start=energies[0])).to(x.dtype)
        pieces = list(zip(hidden, x.split(num_rows), strict=True))
        gate = self._layer_scale if modulation is None else modulation[1]
        assert gate is not None, "a decoder block needs its AdaLN modulation"
        if shape[0] == 1 and len(x) >= _MANY_ROWS:
            down = PackedLinear((self._weight * scale[0]).mul_(gate[:, None]), self._bias * gate)
            parts = [down.add(u, rows) for u, rows in pieces]
        else:
            parts = [self._scaled_down(u, rows, scale, modulation) for u, rows in pieces]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _rows_of_a_piece(self, num_rows: int) -> int:
        """Rows of each piece when `num_rows` are cut into as few equal ones as may be."""
        return math.ceil(num_rows / math.ceil(num_rows / self._rows_at_once))

    def _scaled_down(self, u: Tensor, rows: Tensor, scale: Tensor, modulation: Modulation | None) -> Tensor:
        """A piece of hidden map [M,H], scaled in place by [B,1,H], through the second map and onto `rows` [M,C]."""
        u.view(len(scale), -1, u.shape[1]).mul_(scale)
        return self._down.add(u, rows) if modulation is None else torch.addcmul(rows, self._down(u), modulation[1])

    def _grn_scale(self, energy: Tensor) -> Tensor:
        """Return the factors of GRN (without its beta) for maps of `energy` [B,H]: [B,1,H], float32."""
        g = energy.sqrt()
        n = g.div_(g.mean(dim=1, keepdim=True) + self._grn_eps)
        return n.mul_(self._gamma).add_(1.0)[:, None]


def _rms_norm_(x: Tensor, eps: float) -> None:
    """`ChannelWiseRMSNorm` over the rows of [M,C], in place; the norm is float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    x.mul_(norm.square_().div_(x.shape[1]).add_(eps).rsqrt_().to(x.dtype))


def _energy(u: Tensor, num_images: int) -> Tensor:
    """sum_m u[m,k]^2 of each image, [M,H] -> [num_images,H] float32."""
    if num_images > 1:
        maps = u.view(num_images, -1, u.shape[1])
        return torch.stack([_mean_square(rows) for rows in maps]) * maps.shape[1]
    sums = [_mean_square(rows) * len(rows) for rows in u.split(_CACHED_ROWS)]
    return sum(sums[1:], start=sums[0])[None]


def _mean_square(u: Tensor) -> Tensor:
    """mean_m u[m,k]^2, [M,K] -> [K] float32: var + mean^2, since torch has a fast kernel for these two.

    It reads u twice, so a few rows at a time.
    """
    rows, width = u.shape
    unused = u.new_zeros(2, width, dtype=torch.float32)  # float32 running statistics make the results float32
    maps = u.view(1, 1, rows, width).permute(0, 3, 1, 2)
    mean, variance = torch.batch_norm_update_stats(maps, unused[0], unused[1], 0.0)
    return variance.addcmul_(mean, mean)


def float_bias(layer: torch.nn.Module) -> Tensor:
    """The bias of a layer that has one, float32."""
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias.float()


@cache
def _op(name: str) -> Any:
    return getattr(torch.ops.mkldnn, name)


def _public_depthwise(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    maps = x.float().view(1, 2, 3, -1).permute(0, 3, 1, 2)
    y = functional.conv2d(maps, kernel.float(), bias, padding=1, groups=len(kernel))
    return y.permute(0, 2, 3, 1).reshape(x.shape)
