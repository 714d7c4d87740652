"""The network: its shapes, that it begins as adaLN-Zero does, that what it should not depend on does not matter."""

import pytest
import torch
from torch import Tensor

from semdis_cli.evaluation.generator.dit import (
    SHAPES,
    Block,
    DiT,
    DiTShape,
    flops,
    frequencies,
    modulate,
    num_parameters,
    positions,
)

SMALL = DiTShape(depth=2, width=32, num_heads=4)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def shaken(model: DiT) -> DiT:
    """Weights of which none is zero."""
    for parameter in model.parameters():
        parameter.add_(normal(*parameter.shape), alpha=0.05)
    return model


@pytest.mark.parametrize(("patch", "grid"), [(1, (4, 4)), (1, (3, 5)), (2, (4, 8))])
def test_what_comes_out_has_the_shape_of_what_went_in(patch: int, grid: tuple[int, int]) -> None:
    model = shaken(DiT(SMALL, 6, patch, 3))
    v_hat = model(normal(2, 6, *grid), torch.tensor([0.1, 0.9]), torch.tensor([0, 3]))
    assert v_hat.shape == (2, 6, *grid)
    assert v_hat.abs().min() > 0


def test_at_first_it_predicts_nothing_and_every_block_hands_on_what_it_gets() -> None:
    model = DiT(SMALL, 4, 1, 2).initialise(0)
    x, condition = normal(2, 16, 32), normal(2, 32)
    for block in model.blocks:
        assert torch.equal(block(x, condition), x)
    assert not model(normal(2, 4, 4, 4), torch.rand(2), torch.tensor([0, 2])).any()
    (model(normal(2, 4, 4, 4), torch.rand(2), torch.tensor([0, 2])) - 1).square().mean().backward()
    assert model.last.values.weight.grad is not None
    assert model.last.values.weight.grad.any()  # it can learn all the same


def test_labels_times_and_positions_matter() -> None:
    model, x = shaken(DiT(SMALL, 4, 1, 2)), normal(1, 4, 4, 4)
    t, label = torch.tensor([0.3]), torch.tensor([1])
    as_is = model(x, t, label)
    assert not torch.allclose(as_is, model(x, t, torch.tensor([2])))
    assert not torch.allclose(as_is, model(x, torch.tensor([0.301]), label), atol=1e-6)
    turned = model(x.flip(3), t, label).flip(3)
    assert not torch.allclose(as_is, turned)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model, x, t = shaken(DiT(SMALL, 4, 1, 2)), normal(3, 4, 4, 4), torch.tensor([0.1, 0.5, 0.9])
    labels = torch.tensor([0, 1, 2])
    alone = torch.cat([model(x[[i]], t[[i]], labels[[i]]) for i in range(3)])
    torch.testing.assert_close(model(x, t, labels), alone)


def test_a_token_is_a_square_of_positions() -> None:
    """With blocks that hand on, what is predicted of a token depends on the four positions in its square alone."""
    model = DiT(SMALL, 3, 2, 0).initialise(0)
    with torch.no_grad():
        model.last.values.weight.copy_(normal(12, 32))
    x, t, labels = normal(1, 3, 4, 4), torch.tensor([0.5]), torch.tensor([0])
    before = model(x, t, labels)
    x[0, :, 2, 1] += 1
    changed = (model(x, t, labels) != before).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]


def test_weights_of_one_name_and_shape_are_equal_whatever_the_others_are() -> None:
    few, many = DiT(SMALL, 4, 1, 2).initialise(5), DiT(SMALL, 16, 2, 9).initialise(5)
    theirs = dict(many.named_parameters())
    equal = [name for name, one in few.named_parameters() if torch.equal(one, theirs[name])]
    other = {name for name, one in few.named_parameters() if one.shape != theirs[name].shape}
    assert other == {"tokens.weight", "last.values.weight", "last.values.bias", "labels.weight"}
    assert len(equal) + len(other) == len(theirs)
    assert not torch.equal(few.blocks[0].qkv.weight, DiT(SMALL, 4, 1, 2).initialise(6).blocks[0].qkv.weight)  # type: ignore[union-attr,arg-type]


def test_sizes_are_those_of_the_paper() -> None:
    """DiT-S/2 and DiT-B/2 have 33 and 130 million parameters (Peebles & Xie 2023, table 4)."""
    for size, millions, gflops in (("S", 33, 6.06), ("B", 130, 23.01)):
        shape = SHAPES[size]  # type: ignore[index]
        assert num_parameters(shape, 16, 1000) / 1e6 == pytest.approx(millions, abs=1)
        assert flops(shape, 16, 256) / 2e9 == pytest.approx(gflops, rel=0.08)  # the paper counts multiply-adds


@pytest.mark.parametrize(("patch", "num_classes"), [(1, 0), (2, 7)])
def test_parameters_are_counted_right(patch: int, num_classes: int) -> None:
    model = DiT(SMALL, 6, patch, num_classes)
    assert num_parameters(SMALL, 6 * patch**2, num_classes) == sum(one.numel() for one in model.parameters())


def test_modulation_normalises_scales_and_shifts() -> None:
    x = torch.tensor([[[1.0, 3.0]]])  # normalised: -1, 1
    one = modulate(x, torch.tensor([[[10.0, 20.0]]]), torch.tensor([[[0.0, 1.0]]]))
    assert one.flatten().tolist() == pytest.approx([9, 22], abs=1e-4)


def test_frequencies_begin_with_a_thousand_turns_of_a_radian() -> None:
    values = frequencies(torch.tensor([0.0, 0.002]))
    assert values.shape == (2, 256)
    assert values[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert values[1, [0, 128]].tolist() == pytest.approx([-0.41615, 0.90930], abs=1e-4)  # cos 2, sin 2


def test_positions_are_all_different_and_those_of_a_row_share_half() -> None:
    table = positions(3, 5, 32, torch.device("cpu")).view(3, 5, 32)
    assert len({tuple(one.tolist()) for one in table.flatten(0, 1)}) == 15
    assert torch.equal(table[1, 0, :16], table[1, 4, :16])
    assert torch.equal(table[0, 2, 16:], table[2, 2, 16:])
    assert table[1, 0, 0] == pytest.approx(0.84147, abs=1e-4)  # sin 1


def test_attention_is_that_of_the_textbook() -> None:
    block = Block(DiTShape(depth=1, width=4, num_heads=2))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(normal(*parameter.shape))
    x = normal(1, 3, 4)
    q, k, v = (x @ block.qkv.weight.T + block.qkv.bias).chunk(3, dim=2)
    heads = []
    for head in (slice(0, 2), slice(2, 4)):
        weights = torch.softmax(q[..., head] @ k[..., head].mT / 2**0.5, dim=2)
        heads.append(weights @ v[..., head])
    expected = torch.cat(heads, dim=2) @ block.out.weight.T + block.out.bias
    torch.testing.assert_close(block._attend(x), expected)
