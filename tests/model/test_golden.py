"""Golden tensors: a change of the code that is not meant to change the model's output does not change a bit of it.

Bit for bit holds on the kind of CPU and the version of torch that the file was made with, both recorded in it:
elsewhere other kernels add up in another order, and a tolerance takes its place. `tests/model/make_golden.py` makes the
file anew.
"""

import pytest
import torch
from torch import Tensor

from tests.model import make_golden
from tests.model.make_golden import Golden

# Largest difference on another machine, in units of the output's root mean square. Other instruction sets of one CPU
# gave up to 1e-6 for the encoder and 4e-6 for the decoder; but decoding begins with sines of angles up to 1000, which
# float32 knows to 3e-5 only, and which another library may round another way.
TOLERANCES = {
    "posterior mean": 5e-6,
    "posterior logsnr": 5e-6,
    "whitened latents": 5e-6,
    "decoded in one step": 1e-4,
    "decoded in four guided steps": 1e-4,
}
MAX_FILE_BYTES = 300_000


@pytest.fixture(scope="module")
def golden() -> Golden:
    return make_golden.read()


@pytest.fixture(scope="module")
def outputs(golden: Golden) -> dict[str, Tensor]:
    return make_golden.compute(golden.config, golden.weights, golden.images, golden.noise)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the root mean square of `expected`."""
    return float((actual - expected).abs().max() / expected.square().mean().sqrt())


@pytest.mark.parametrize("name", TOLERANCES)
def test_an_output_is_the_golden_one(golden: Golden, outputs: dict[str, Tensor], name: str) -> None:
    actual, expected = outputs[name], golden.outputs[name]
    assert actual.dtype == expected.dtype == torch.float32
    assert actual.shape == expected.shape
    moved = distance(actual, expected)
    assert moved < TOLERANCES[name]
    if make_golden.this_machine() == golden.machine:
        assert torch.equal(actual, expected), f"moved by {moved:.3g} of its size on the machine it was made on"


def test_every_golden_output_is_compared(golden: Golden, outputs: dict[str, Tensor]) -> None:
    assert golden.outputs.keys() == outputs.keys() == TOLERANCES.keys()


def test_the_golden_outputs_are_worth_guarding(golden: Golden) -> None:
    for name, tensor in golden.outputs.items():
        assert tensor.isfinite().all()
        assert 0.1 < float(tensor.std()) < 10, name
    one, four = golden.outputs["decoded in one step"], golden.outputs["decoded in four guided steps"]
    assert distance(four, one) > 0.1


@pytest.mark.parametrize(
    "name", ["encoder.blocks.1.grn.beta", "decoder.adaln_deltas.2.up.weight", "decoder.out_proj.bias"]
)
def test_a_small_change_of_any_part_shows(golden: Golden, name: str) -> None:
    """One part in a thousand of one tensor's size: what the tolerances for other machines still notice."""
    size = golden.weights[name].square().mean().sqrt()
    weights = {**golden.weights, name: golden.weights[name] + 0.001 * size}
    changed = make_golden.compute(golden.config, weights, golden.images, golden.noise)
    assert any(distance(changed[name], golden.outputs[name]) > TOLERANCES[name] for name in TOLERANCES)


def test_the_golden_file_is_small() -> None:
    assert make_golden.PATH.stat().st_size < MAX_FILE_BYTES
