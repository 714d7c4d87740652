"""What goes to a device and what comes back, on one that holds no values: nothing lies on two devices at once."""

from typing import Any

import pytest
import torch

from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.network import PlainNetwork
from semdis_cli.settings import Sampler, Schedule
from tests.worlds import tiny_model

DEVICE = torch.device("meta")  # torch refuses to compute with tensors on it and on a CPU, as with those on a GPU


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("changes", [{}, {"bottleneck_posterior_kind": "deterministic"}])
def test_encoding(dtype: torch.dtype, changes: dict[str, Any]) -> None:
    model = tiny_model(**changes).to(DEVICE, dtype)
    posterior = PlainNetwork(model).posterior(torch.zeros(2, 3, 32, 48, dtype=torch.uint8))
    for raw in (posterior.mode(), posterior.sample_with(torch.zeros(2, 8, 2, 3, device=DEVICE))):
        latents = model.whiten(raw)
        assert (latents.device, latents.dtype, tuple(latents.shape)) == (DEVICE, torch.float32, (2, 8, 2, 3))


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("pdg", [False, True])
def test_decoding(sampler: Sampler, schedule: Schedule, *, pdg: bool) -> None:
    network = PlainNetwork(tiny_model().to(DEVICE, torch.bfloat16))
    for num_steps in (1, 3, 3):
        config = FCDMDiffAEInferenceConfig(num_steps=num_steps, sampler=sampler, schedule=schedule, pdg=pdg)
        images = network.images(torch.zeros(2, 8, 2, 3), torch.zeros(2, 3, 32, 48), config)
        assert (images.device, images.dtype, tuple(images.shape)) == (DEVICE, torch.uint8, (2, 3, 32, 48))
