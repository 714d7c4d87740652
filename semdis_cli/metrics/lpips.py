"""LPIPS 0.1: distance of two images in the features of a network that was trained to classify.

Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a perceptual metric", 2018.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from semdis_cli.metrics.weights import Network, Shape, Weights, read_weights


class Conv(NamedTuple):
    """A convolution before a ReLU. `place`: its number among the layers of the network, as torchvision counts them."""

    place: int
    num_inputs: int
    num_outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class Backbone(NamedTuple):
    """A network as five stages, whose outputs are compared; `pool` (kernel) goes before those in `pooled`, by twos.

    `pair_bytes_per_px`: memory that a pair of images takes at most, for each pixel of one.
    """

    stages: tuple[tuple[Conv, ...], ...]
    pool: int
    pooled: tuple[int, ...]
    min_px: int
    pair_bytes_per_px: int


ALEX = Backbone(
    (
        (Conv(0, 3, 64, kernel=11, stride=4, padding=2),),
        (Conv(3, 64, 192, kernel=5, padding=2),),
        (Conv(6, 192, 384),),
        (Conv(8, 384, 256),),
        (Conv(10, 256, 256),),
    ),
    pool=3,
    pooled=(1, 2),
    min_px=31,
    pair_bytes_per_px=110,
)
VGG = Backbone(
    (
        (Conv(0, 3, 64), Conv(2, 64, 64)),
        (Conv(5, 64, 128), Conv(7, 128, 128)),
        (Conv(10, 128, 256), Conv(12, 256, 256), Conv(14, 256, 256)),
        (Conv(17, 256, 512), Conv(19, 512, 512), Conv(21, 512, 512)),
        (Conv(24, 512, 512), Conv(26, 512, 512), Conv(28, 512, 512)),
    ),
    pool=2,
    pooled=(1, 2, 3, 4),
    min_px=16,
    pair_bytes_per_px=1500,
)
BACKBONES = {"alex": ALEX, "vgg": VGG}

_EPSILON = 1e-10
_ROWS = 128  # of features that are compared at once, to hold no second copy of large ones
_SHIFT, _SCALE = "scaling_layer.shift", "scaling_layer.scale"


def _advice(net: str) -> str:
    return (
        "; where torchvision and lpips are, this writes the file: python -c 'import lpips, safetensors.torch as s; "
        f's.save_file({{k: v for k, v in lpips.LPIPS(net="{net}").state_dict().items() if k[:5] != "lins."}}, '
        f'"lpips-{net}.safetensors")\''
    )


def _conv_name(stage: int, conv: Conv) -> str:
    return f"net.slice{stage + 1}.{conv.place}"


def _weigh_name(stage: int) -> str:
    return f"lin{stage}.model.1.weight"


def _shapes(backbone: Backbone) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {_SHIFT: (1, 3, 1, 1), _SCALE: (1, 3, 1, 1)}
    for stage, convs in enumerate(backbone.stages):
        for conv in convs:
            name = _conv_name(stage, conv)
            shapes[f"{name}.weight"] = (conv.num_outputs, conv.num_inputs, conv.kernel, conv.kernel)
            shapes[f"{name}.bias"] = (conv.num_outputs,)
        shapes[_weigh_name(stage)] = (1, convs[-1].num_outputs, 1, 1)
    return shapes


NETWORKS = {
    net: Network(f"LPIPS ({net})", _shapes(backbone), _advice(net), ignored=r"lins\..*")  # these are lin0... again
    for net, backbone in BACKBONES.items()
}


@dataclass(frozen=True)
class Lpips:
    """LPIPS of a network, "alex" or "vgg". Many threads may use it at once."""

    net: str
    weights: Weights
    tensors: Mapping[str, Tensor]  # on the device

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """Read the weights of either network. Raises `CheckpointError`."""
        net, weights = read_weights(path, NETWORKS)
        return cls(net, weights, {name: tensor.to(device) for name, tensor in weights.tensors.items()})

    @property
    def min_px(self) -> int:
        """The shortest side that an image may have."""
        return BACKBONES[self.net].min_px

    def needed_bytes(self, num_pairs: int, height: int, width: int) -> int:
        """Memory in bytes that so many pairs of images of this size in px take at most."""
        return num_pairs * height * width * BACKBONES[self.net].pair_bytes_per_px

    @torch.inference_mode()
    def distances(self, images: Tensor, references: Tensor) -> list[float]:
        """Compare uint8 images [B,3,H,W], each with its reference."""
        both = torch.cat([images, references]).to(self.tensors[_SHIFT].device)
        total = torch.zeros(len(images), device=both.device, dtype=torch.float64)
        for stage, features in enumerate(self._features(both)):
            weigh = self.tensors[_weigh_name(stage)]
            for rows in features.split(_ROWS, dim=2):
                total += _apart(rows, weigh).double() / features[0, 0].numel()
        return [float(value) for value in total.tolist()]

    def _features(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the outputs [B,C,h,w] of the stages for uint8 [B,3,H,W]."""
        backbone, tensors = BACKBONES[self.net], self.tensors
        values = (pixels.float().div_(127.5).sub_(1) - tensors[_SHIFT]) / tensors[_SCALE]
        for stage, convs in enumerate(backbone.stages):
            if stage in backbone.pooled:
                values = F.max_pool2d(values, backbone.pool, stride=2)
            for conv in convs:
                name = _conv_name(stage, conv)
                weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
                values = F.relu_(F.conv2d(values, weight, bias, conv.stride, conv.padding))
            yield values

    def to_json(self) -> dict[str, Any]:
        """Return what is on record of it."""
        return {"version": "0.1", "net": self.net, **self.weights.to_json()}


def _apart(features: Tensor, weigh: Tensor) -> Tensor:
    """Return weighed squares of differences, [B], summed over all places, of features [2 B,C,h,w] of unit length."""
    one, other = (features / (features.norm(dim=1, keepdim=True) + _EPSILON)).chunk(2)
    return F.conv2d((one - other).square_(), weigh).sum((1, 2, 3))
