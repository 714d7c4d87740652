"""Muon in batches: torch's own, matrix by matrix, bit for bit on a CPU."""

import pytest
import torch
from torch import Tensor

from semdis_cli.training.muon import Muon, orthogonal

SHAPES = [(24, 8), (8, 24), (24, 8), (16, 16), (8, 24), (24, 8)]


def matrices() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def set_gradients(parameters: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has a Muon from 2.9 on")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torchs_muon(decay: float) -> None:
    ours, theirs = matrices(), matrices()
    optimizers = (
        (Muon([{"params": ours}], decay), ours),
        (torch.optim.Muon([{"params": theirs}], weight_decay=decay, adjust_lr_fn="match_rms_adamw"), theirs),
    )
    for step in range(4):
        for optimizer, parameters in optimizers:
            set_gradients(parameters, step)
            optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
            optimizer.step()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-5)
    remembered = [optimizer.state[parameter] for optimizer, (parameter, *_) in optimizers]
    assert remembered[0].keys() == remembered[1].keys() == {"momentum_buffer"}
    assert torch.equal(remembered[0]["momentum_buffer"], remembered[1]["momentum_buffer"])


def test_a_matrix_without_a_gradient_stays_and_is_not_remembered() -> None:
    parameters = matrices()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = Muon([{"params": parameters}], 0.0)
    set_gradients(parameters, 0)
    parameters[2].grad = None
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    stayed = [torch.equal(parameter, old) for parameter, old in zip(parameters, before, strict=True)]
    assert stayed == [i == 2 for i in range(len(SHAPES))]
    assert parameters[2] not in optimizer.state


@pytest.mark.parametrize("shape", [(3, 24, 8), (3, 8, 24), (1, 16, 16)])
def test_singular_values_end_near_one_and_matrices_do_not_hear_of_each_other(shape: tuple[int, int, int]) -> None:
    stack = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e-3, 1.0, 1e3])[: shape[0], None, None]
    )
    result = orthogonal(stack)
    assert result.dtype == torch.bfloat16
    values = torch.linalg.svdvals(result.float())
    assert values.min() > 0.3
    assert values.max() < 1.3
    alone = torch.cat([orthogonal(matrix[None]) for matrix in stack])
    torch.testing.assert_close(result, alone, rtol=0.02, atol=0.02)


def test_a_gradient_of_zero_moves_nothing() -> None:
    assert not orthogonal(torch.zeros(2, 8, 4)).any()
