"""Files of weights with random numbers in them, by which networks are compared: as alive as real ones."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from semdis_cli.metrics.weights import Network


def random_tensors(network: Network, seed: int = 0) -> dict[str, Tensor]:
    """Uniform numbers by name: filters that keep the variance, as He et al. draw them, and gains about 1."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return {name: _random(generator, name, shape) for name, shape in sorted(network.shapes.items())}


def _random(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> Tensor:
    least, most = _range(name, shape)
    values = generator.random(shape, dtype=np.float32)
    return torch.from_numpy(values * np.float32(most - least) + np.float32(least))


def _range(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if name.startswith("lin"):  # those of LPIPS weigh, and are not negative
        return 0.0, 1.0
    if name.endswith("conv.weight") or (len(shape) == 4 and not name.startswith("scaling")):
        reach = math.sqrt(6 / math.prod(shape[1:]))
        return -reach, reach
    if name.endswith(("bn.weight", "running_var", "scale")):
        return 0.5, 1.5
    return -0.2, 0.2


def write(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    save_file(dict(tensors), path)
    return path
