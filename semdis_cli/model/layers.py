"""The building blocks of FCDM: ConvNeXt blocks with GRN and RMSNorm, scale + gate AdaLN, time embedding, patchify.

Parameter names and shapes are those of the published weights. Feature maps are [B,C,h,w]; C = `model_dim`, H = hidden
width.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from semdis_cli.model.cpu.training import depthwise_conv2d, gelu_grn


class Patchify(nn.Module):
    """[B,3,H,W] -> [B,C,H/P,W/P]: each patch unfolded into channels (c*P*P + y*P + x), then one 1x1 convolution."""

    def __init__(self, in_channels: int, patch_size: int, model_dim: int) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(patch_size)
        self.proj = nn.Conv2d(in_channels * patch_size**2, model_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """[B,in_channels,H,W] -> [B,model_dim,H/P,W/P]; H and W must be multiples of P."""
        return cast(Tensor, self.proj(self.unshuffle(images)))


class ChannelWiseRMSNorm(nn.Module):
    """y = x / sqrt(mean_c(x^2) + eps) at each position (Zhang & Sennrich 2019, RMSNorm, over the channel axis)."""

    def __init__(self, channels: int, eps: float = 1e-6, *, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> the same. The mean square is float32 whatever the dtype of x: bf16 sums over C drift."""
        is_eager_on_cuda = x.device.type == "cuda" and not torch.compiler.is_compiling()
        mean_square = self._by_norm(x) if is_eager_on_cuda else x.float().square().mean(dim=1, keepdim=True)
        y = x * torch.rsqrt(mean_square + self.eps).to(x.dtype)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        return y

    def _by_norm(self, x: Tensor) -> Tensor:
        """Compute the mean square in one pass over the map, where a float32 copy and its squares take three."""
        return _norm(x, (1,)).square() / x.shape[1]


class GRN(nn.Module):
    """Global response normalisation over the whole feature map (Woo et al. 2023, ConvNeXt V2, algorithm 1)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B,H,h,w] -> gamma (x n) + beta + x with n = g / (mean_c g + eps), g the L2 norm of each channel's map."""
        if x.device.type == "cuda":
            return self._scaled(x)
        g = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True).float()
        n = (g / (g.mean(dim=1, keepdim=True) + self.eps)).to(x.dtype)
        return self.gamma.to(x.dtype) * (x * n) + self.beta.to(x.dtype) + x

    def _scaled(self, x: Tensor) -> Tensor:
        """Compute the same as beta + x (1 + gamma n): two passes over the map instead of five, and fewer roundings."""
        g = _norm(x, (2, 3))
        n = g / (g.mean(dim=1, keepdim=True) + self.eps)
        return torch.addcmul(self.beta.to(x.dtype), x, (1 + self.gamma.float() * n).to(x.dtype))


def _norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the L2 norm along `dims`, which stay with length 1: summed up in float32, without a copy of `x`."""
    with torch.autocast(x.device.type, enabled=False):  # which would take that of a float32 copy
        return torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)


class FCDMBlock(nn.Module):
    """ConvNeXt block of FCDM: depthwise conv, RMSNorm, 1x1 up, GELU, GRN, 1x1 down, gated residual.

    The gate is the learned `layer_scale` (encoder), or comes with the scale from AdaLN (`use_external_adaln`, decoder).
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        *,
        depthwise_kernel_size: int = 7,
        use_external_adaln: bool = False,
        norm_eps: float = 1e-6,
        layer_scale_init: float = 1e-3,
    ) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        kernel = depthwise_kernel_size
        self.dwconv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = ChannelWiseRMSNorm(channels, eps=norm_eps, affine=False)
        self.pwconv1 = nn.Conv2d(channels, hidden, 1)
        self.grn = GRN(hidden)
        self.pwconv2 = nn.Conv2d(hidden, channels, 1)
        self.layer_scale = None if use_external_adaln else nn.Parameter(torch.full((channels,), layer_scale_init))

    def forward(self, x: Tensor, adaln_m: Tensor | None = None) -> Tensor:
        """[B,C,h,w] -> the same. `adaln_m` [B,2C] = (scale, gate) for decoder blocks, None for encoder blocks."""
        h = self.norm(self._depthwise(x))
        if self.layer_scale is not None:
            gate = self.layer_scale[:, None, None].to(x.dtype)
        else:
            assert adaln_m is not None, "a decoder block needs its AdaLN modulation"
            scale, gate = adaln_m.to(x.dtype)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale)
        return x + gate * self.pwconv2(self._gelu_grn(self.pwconv1(h)))

    def _depthwise(self, x: Tensor) -> Tensor:
        if self._trains_on_cpu(x) and self.dwconv.bias is not None:
            return depthwise_conv2d(x, self.dwconv.weight, self.dwconv.bias)
        return cast(Tensor, self.dwconv(x))

    def _gelu_grn(self, u: Tensor) -> Tensor:
        if self._trains_on_cpu(u):
            return gelu_grn(u, self.grn.gamma, self.grn.beta, self.grn.eps)
        return cast(Tensor, self.grn(functional.gelu(u)))

    def _trains_on_cpu(self, x: Tensor) -> bool:
        return self.training and torch.is_grad_enabled() and x.device.type == "cpu"


def time_frequencies(count: int = 128, max_period: float = 10000.0) -> Tensor:
    """[count] float32, falling geometrically from 1 to exactly 1 / `max_period` (denominator `count` - 1)."""
    exponents = torch.arange(count, dtype=torch.float32, device="cpu") / (count - 1)
    return torch.exp(-math.log(max_period) * exponents)


class SinusoidalTimeEmbeddingMLP(nn.Module):
    """t in [0, 1] -> conditioning vector: sine and cosine features of 1000 t through a two-layer SiLU MLP."""

    freqs: Tensor

    def __init__(
        self,
        dim: int,
        freq_dim: int = 256,
        hidden_mult: float = 1.0,
        time_scale: float = 1000.0,
        max_period: float = 10000.0,
    ) -> None:
        super().__init__()
        self.time_scale = time_scale
        hidden = int(dim * hidden_mult)
        self.register_buffer("freqs", time_frequencies(freq_dim // 2, max_period))
        self.proj_in = nn.Linear(freq_dim, hidden)
        self.act = nn.SiLU()
        self.proj_out = nn.Linear(hidden, dim)

    def forward(self, t: Tensor) -> Tensor:
        """[B] float32 -> [B,dim]. Angles up to 1000 rad need float32, so only the MLP runs in the weights' dtype."""
        angles = (self.time_scale * t.float())[:, None] * self.freqs.float()
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.proj_in.weight.dtype)
        return cast(Tensor, self.proj_out(self.act(self.proj_in(features))))


class AdaLNScaleGateZeroProjector(nn.Module):
    """The scale and gate that all decoder blocks share: a linear map of SiLU(cond), zero at the start (DiT)."""

    def __init__(self, d_model: int, d_cond: int) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.proj = nn.Linear(d_cond, 2 * d_model)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward_activated(self, act_cond: Tensor) -> Tensor:
        """SiLU(cond) [B,d_cond] -> [B,2*d_model] = (scale, gate)."""
        return cast(Tensor, self.proj(act_cond))


class AdaLNScaleGateZeroLowRankDelta(nn.Module):
    """Part of scale and gate that is one decoder block's own: a low-rank map of SiLU(cond), zero at the start."""

    def __init__(self, *, d_model: int, d_cond: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(d_cond, rank, bias=False)
        self.up = nn.Linear(rank, 2 * d_model, bias=False)
        if not self.down.weight.is_meta:  # on the meta device this would load a second of torch's compiler, for nothing
            nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.up.weight)

    def forward_activated(self, act_cond: Tensor) -> Tensor:
        """SiLU(cond) [B,d_cond] -> [B,2*d_model]."""
        return cast(Tensor, self.up(self.down(act_cond)))
