"""FID's Inception: its graph, its resize, and features that torch-fidelity 0.4.0 finds with the same random weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError
from semdis_cli.metrics.inception import NETWORK, NUM_FEATURES, Inception, convolutions, resized
from tests.metrics.random_weights import random_tensors, write

CPU = torch.device("cpu")
GOLDEN = {
    (299, 299): [1.06475, 0.0, 7.4242, 0.30165, 5.24103, 5.07214, 2.08519, 0.05226, 0.0, 0.01129],
    (70, 400): [0.91733, 0.0, 5.76269, 0.18896, 4.18231, 3.87659, 1.85127, 0.05743, 0.0, 0.00179],
}
GOLDEN_PLACES = (0, 319, 320, 1087, 1088, 1471, 1472, 1855, 1856, 2047)  # where branches begin and end


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = random_tensors(NETWORK)
    others = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    count = {"Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(0)}
    return write(tmp_path_factory.mktemp("inception") / "inception.safetensors", tensors | others | count)


@pytest.fixture(scope="module")
def inception(weights: Path) -> Inception:
    return Inception.load(weights, CPU)


def image(height: int, width: int) -> Tensor:
    """A picture of waves."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    waves = [torch.sin(rows / (3 + place) + columns / (7 - 2 * place)) for place in range(3)]
    return (torch.stack(waves) * 100 + 128).round().to(torch.uint8)


def slow_resized(channel: np.ndarray) -> np.ndarray:
    """One channel by the rule that TensorFlow 1 follows: pixel i comes from i * size / 299, and no further."""
    height, width = channel.shape
    found = np.empty((299, 299))
    for row in range(299):
        for column in range(299):
            y, x = row * height / 299, column * width / 299
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = channel[top, left] * (1 - (x - left)) + channel[top, right] * (x - left)
            lower = channel[bottom, left] * (1 - (x - left)) + channel[bottom, right] * (x - left)
            found[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return found


def test_the_graph_has_as_many_weights_as_the_published_one() -> None:
    kernels = sum(conv.num_outputs * conv.num_inputs * math.prod(conv.kernel) for conv in convolutions())
    channels = sum(conv.num_outputs for conv in convolutions())
    assert kernels + 2 * channels == 23_834_568 - 1000 * 2049  # of Inception v3, without its classifier
    assert len(list(convolutions())) == 94


@pytest.mark.parametrize("size", sorted(GOLDEN))
def test_features_are_those_of_torch_fidelity(inception: Inception, size: tuple[int, int]) -> None:
    (found,) = inception.features([image(*size)])
    assert found[list(GOLDEN_PLACES)].tolist() == pytest.approx(GOLDEN[size], rel=1e-4, abs=1e-5)


def test_images_of_many_sizes_get_what_each_gets_alone(inception: Inception) -> None:
    images = [image(20, 30), image(299, 299), image(64, 200)]
    together = inception.features(images)
    assert together.shape == (3, NUM_FEATURES)
    assert together.dtype == torch.float32
    alone = torch.cat([inception.features([one]) for one in images])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_no_images_have_no_features(inception: Inception) -> None:
    assert inception.features([]).shape == (0, NUM_FEATURES)


@pytest.mark.parametrize("size", [(5, 7), (256, 128), (400, 311)])
def test_the_resize_is_that_of_tensorflow_1(size: tuple[int, int]) -> None:
    pixels = image(*size)
    expected = np.stack([slow_resized(channel) for channel in pixels.numpy().astype(float)])
    assert np.abs(resized(pixels).numpy() - expected).max() < 0.01


def test_an_image_of_the_right_size_is_left_alone() -> None:
    assert torch.equal(resized(image(299, 299)), image(299, 299).float())


def test_there_are_no_half_pixel_centres() -> None:
    pixels = torch.tensor([[[0, 100]]], dtype=torch.uint8)
    line = resized(pixels)[0, 0]
    assert line[0] == 0
    assert line[149].item() == pytest.approx(100 * 149 * 2 / 299, abs=1e-3)
    assert (line[150:] == 100).all()


def test_the_record_says_weights_and_resize(inception: Inception) -> None:
    record = inception.to_json()
    assert record["file"] == "inception.safetensors"
    assert "TensorFlow 1" in record["resize"]


def test_the_weights_of_another_network_are_refused_in_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)})
    with pytest.raises(CheckpointError, match=r"weights of FID's Inception: Conv2d_1a_3x3.bn.weight is missing; of py"):
        Inception.load(path, CPU)
