"""LPIPS against a slow reference that is put together of layers, and what it must be by its definition."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semdis_cli.metrics.lpips import NETWORKS, Lpips
from tests.metrics.random_weights import random_tensors, write

CPU = torch.device("cpu")
# As torchvision lists the layers of both: channels of a convolution with its ReLU, or a pool; a bar ends a stage.
LAYERS = {
    "alex": "64 | P 192 | P 384 | 256 | 256",
    "vgg": "64 64 | P 128 128 | P 256 256 256 | P 512 512 512 | P 512 512 512",
}


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    path = tmp_path_factory.mktemp("lpips") / "weights.safetensors"
    return Lpips.load(write(path, random_tensors(NETWORKS[request.param])), CPU)


def images(seed: int, height: int, width: int, number: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)


def stages_of(net: str) -> list[list[nn.Module]]:
    """The layers of a network, random, stage by stage."""
    channels, stages = 3, []
    for number, text in enumerate(LAYERS[net].split("|")):
        stage: list[nn.Module] = []
        for word in text.split():
            if word == "P":
                stage.append(nn.MaxPool2d(3 if net == "alex" else 2, 2))
                continue
            kernel, stride, padding = [(11, 4, 2), (5, 1, 2)][number] if net == "alex" and number < 2 else (3, 1, 1)
            stage += [nn.Conv2d(channels, int(word), kernel, stride, padding), nn.ReLU()]
            channels = int(word)
        stages.append(stage)
    return stages


def slow_distance(lpips: Lpips, image: Tensor, reference: Tensor) -> float:
    """LPIPS of one pair in float64, stage by stage and pixel by pixel as in equation 1 of the paper."""
    tensors = {name: tensor.double() for name, tensor in lpips.tensors.items()}
    shift, scale = tensors["scaling_layer.shift"], tensors["scaling_layer.scale"]
    both = [((one[None].double() / 127.5 - 1) - shift) / scale for one in (image, reference)]
    place, total = 0, 0.0
    for number, stage in enumerate(stages_of(lpips.net)):
        for layer in stage:
            if isinstance(layer, nn.Conv2d):
                layer.double().weight.data = tensors[f"net.slice{number + 1}.{place}.weight"]
                assert layer.bias is not None
                layer.bias.data = tensors[f"net.slice{number + 1}.{place}.bias"]
            both = [layer(one).detach() for one in both]
            place += 1
        units = [nn.functional.normalize(one, dim=1, eps=1e-10) for one in both]
        total += ((units[0] - units[1]) ** 2 * tensors[f"lin{number}.model.1.weight"]).sum(1).mean().item()
    return total


@pytest.mark.parametrize("size", [(31, 31), (40, 66)])
def test_the_distance_is_that_of_the_paper(lpips: Lpips, size: tuple[int, int]) -> None:
    image, reference = images(1, *size)
    (found,) = lpips.distances(image[None], reference[None])
    assert found == pytest.approx(slow_distance(lpips, image, reference), rel=1e-4)
    assert found > 0.01


def test_equal_images_have_no_distance(lpips: Lpips) -> None:
    one = images(2, 40, 40)
    assert lpips.distances(one, one.clone()) == [0.0, 0.0]


def test_images_that_are_measured_together_get_what_each_gets_alone(lpips: Lpips) -> None:
    one, other = images(3, 33, 47, 3), images(4, 33, 47, 3)
    alone = [lpips.distances(one[[place]], other[[place]])[0] for place in range(3)]
    assert lpips.distances(one, other) == pytest.approx(alone, rel=1e-5)


def test_the_distance_goes_both_ways(lpips: Lpips) -> None:
    one, other = images(5, 40, 40), images(6, 40, 40)
    assert lpips.distances(one, other) == pytest.approx(lpips.distances(other, one), rel=1e-5)


def test_the_smallest_image_is_measured(lpips: Lpips) -> None:
    one = images(7, lpips.min_px, lpips.min_px)
    assert len(lpips.distances(one, 255 - one)) == 2


def test_the_record_names_network_and_file(lpips: Lpips) -> None:
    record = lpips.to_json()
    assert record["version"] == "0.1"
    assert record["net"] == lpips.net
    assert record["file"] == "weights.safetensors"
    assert len(record["sha256"]) == 64


def test_doubled_names_of_the_package_are_passed_over(tmp_path: Path) -> None:
    tensors = random_tensors(NETWORKS["alex"])
    again = {f"lins.{number}.model.1.weight": tensors[f"lin{number}.model.1.weight"].clone() for number in range(5)}
    path = write(tmp_path / "a.safetensors", tensors | again)
    assert "lins.0.model.1.weight" not in Lpips.load(path, CPU).tensors
