"""Statistics of channels, against NumPy over all positions at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from semdis_cli.evaluation.channels import ChannelMoments


def described(*batches: Tensor) -> dict[str, object]:
    moments = ChannelMoments(batches[0].shape[1])
    for batch in batches:
        moments.add(batch)
    return moments.describe()


def test_moments_are_those_of_all_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(3, 4, 5, 6, generator=generator) ** 3 * 2 + 100, torch.rand(2, 4, 2, 9, generator=generator)]
    found = described(*batches)
    values = np.concatenate([batch.double().permute(1, 0, 2, 3).reshape(4, -1).numpy() for batch in batches], 1)
    centred = values - values.mean(1, keepdims=True)
    assert found["positions"] == 126
    assert found["mean"] == pytest.approx(values.mean(1).tolist())
    assert found["std"] == pytest.approx(values.std(1).tolist())
    assert found["skewness"] == pytest.approx(((centred**3).mean(1) / values.std(1) ** 3).tolist())
    assert found["excess_kurtosis"] == pytest.approx(((centred**4).mean(1) / values.std(1) ** 4 - 3).tolist())


def test_a_channel_that_does_not_vary_is_dead_and_has_no_shape() -> None:
    batch = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    batch[:, 1] = 0.3
    found = described(batch)
    assert found["dead_channels"] == [1]
    assert [value is None for value in found["skewness"]] == [False, True, False]  # type: ignore[attr-defined]


def test_neighbours_correlate_as_they_were_made() -> None:
    noise = torch.randn(40, 3, 32, 33, generator=torch.Generator().manual_seed(0))
    assert described(noise)["neighbour_correlation"] == pytest.approx(0, abs=0.01)
    blurred = noise[..., 1:] + noise[..., :-1]  # 1/2 beside, 0 below
    assert described(blurred + 50)["neighbour_correlation"] == pytest.approx(0.25, abs=0.01)
    assert described(torch.ones(1, 2, 1, 1))["neighbour_correlation"] is None
