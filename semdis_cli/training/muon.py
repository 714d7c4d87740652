"""Muon: updates of matrices made nearly orthogonal, all matrices of one shape together."""

from collections.abc import Iterable

import torch
from torch import Tensor

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5
_LEAST_NORM = 1e-7
_RMS_OF_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum, its updates as large as AdamW's (Liu et al. 2025, 2502.16982).

    It remembers what `torch.optim.Muon` does. That one takes a matrix after the other, some 30 kernels for each: more
    than a GPU needs for the arithmetic.
    """

    def __init__(self, groups: list[dict[str, object]], weight_decay: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move each matrix that has a gradient, at the rate `lr` of its group."""
        for group in self.param_groups:
            moving = [matrix for matrix in group["params"] if matrix.grad is not None]
            for matrices in _by_shape(moving):
                self._move(matrices, group["lr"], group["weight_decay"])

    def _move(self, matrices: list[Tensor], rate: float, decay: float) -> None:
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        momenta = [self._momentum(matrix) for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        updates = orthogonal(torch.stack(gradients).lerp(torch.stack(momenta), _MOMENTUM))
        torch._foreach_mul_(matrices, 1 - rate * decay)
        size = _RMS_OF_ADAMW * max(matrices[0].shape) ** 0.5
        torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate * size)

    def _momentum(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def orthogonal(matrices: Tensor) -> Tensor:
    """[N,r,c] -> bfloat16 [N,r,c]: each with singular values near 1, by Newton-Schulz iterations of the fifth order.

    Source: Jordan et al. 2024, with its coefficients, which raise small singular values fast and leave them within
    about 0.7 to 1.2.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16().mT if is_tall else matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _by_shape(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
    for matrix in matrices:
        groups.setdefault((matrix.shape, matrix.device), []).append(matrix)
    return list(groups.values())
