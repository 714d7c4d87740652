"""Features of the Inception of FID: the graph of 2015-12-05 that the published FIDs are computed with.

Szegedy et al., "Rethinking the inception architecture for computer vision", 2016; Heusel et al., "GANs trained by a two
time-scale update rule converge to a local Nash equilibrium", 2017. It differs from torchvision's in its pools: means
leave padding out, and the last block has a maximum where the paper has a mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from semdis_cli.metrics.weights import Network, Shape, Weights, read_weights

NUM_FEATURES = 2048
SIDE_PX = 299

_EPSILON = 0.001  # of batch normalisation
_BATCH = 16

_ADVICE = (
    "; of pytorch-fid's file pt_inception-2015-12-05 this makes one: python -c 'import torch, safetensors.torch as "
    's; s.save_file(torch.load("pt_inception-2015-12-05-6726825d.pth", weights_only=True), "inception.safetensors")\''
)


class Conv(NamedTuple):
    """A convolution without bias, batch normalisation and ReLU. `is_padded`: to the size of its input."""

    name: str
    num_inputs: int
    num_outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    is_padded: bool = True

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns at each edge."""
        height, width = self.kernel
        return (height // 2, width // 2) if self.is_padded else (0, 0)

    def within(self, block: str) -> Self:
        """Return the same with the name that it has in `block`."""
        return self._replace(name=f"{block}.{self.name}")


Pool = Literal["mean", "max", "half"]  # 3x3 all of them; "half" is a maximum by steps of two, without padding
Step = Conv | Pool | tuple[Conv, ...]  # of several, each sees what comes in
Branch = tuple[Step, ...]


def _five(block: str, inputs: int, pooled: int) -> tuple[Branch, ...]:
    return _named(
        block,
        (Conv("branch1x1", inputs, 64),),
        (Conv("branch5x5_1", inputs, 48), Conv("branch5x5_2", 48, 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", inputs, 64),
            Conv("branch3x3dbl_2", 64, 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, 96, (3, 3)),
        ),
        ("mean", Conv("branch_pool", inputs, pooled)),
    )


def _six(block: str, width: int) -> tuple[Branch, ...]:
    row, column = (1, 7), (7, 1)
    return _named(
        block,
        (Conv("branch1x1", 768, 192),),
        (
            Conv("branch7x7_1", 768, width),
            Conv("branch7x7_2", width, width, row),
            Conv("branch7x7_3", width, 192, column),
        ),
        (
            Conv("branch7x7dbl_1", 768, width),
            Conv("branch7x7dbl_2", width, width, column),
            Conv("branch7x7dbl_3", width, width, row),
            Conv("branch7x7dbl_4", width, width, column),
            Conv("branch7x7dbl_5", width, 192, row),
        ),
        ("mean", Conv("branch_pool", 768, 192)),
    )


def _seven(block: str, inputs: int, pool: Pool) -> tuple[Branch, ...]:
    row, column = (1, 3), (3, 1)
    return _named(
        block,
        (Conv("branch1x1", inputs, 320),),
        (
            Conv("branch3x3_1", inputs, 384),
            (Conv("branch3x3_2a", 384, 384, row), Conv("branch3x3_2b", 384, 384, column)),
        ),
        (
            Conv("branch3x3dbl_1", inputs, 448),
            Conv("branch3x3dbl_2", 448, 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, 384, row), Conv("branch3x3dbl_3b", 384, 384, column)),
        ),
        (pool, Conv("branch_pool", inputs, 192)),
    )


def _named(block: str, *branches: Branch) -> tuple[Branch, ...]:
    """Give the convolutions of a block the names that they have in the file."""

    def step_of(step: Step) -> Step:
        if isinstance(step, Conv):
            return step.within(block)
        return step if isinstance(step, str) else tuple(conv.within(block) for conv in step)

    return tuple(tuple(map(step_of, branch)) for branch in branches)


_STEM: Branch = (
    Conv("Conv2d_1a_3x3", 3, 32, (3, 3), stride=2, is_padded=False),
    Conv("Conv2d_2a_3x3", 32, 32, (3, 3), is_padded=False),
    Conv("Conv2d_2b_3x3", 32, 64, (3, 3)),
    "half",
    Conv("Conv2d_3b_1x1", 64, 80),
    Conv("Conv2d_4a_3x3", 80, 192, (3, 3), is_padded=False),
    "half",
)
BLOCKS: tuple[tuple[Branch, ...], ...] = (
    (_STEM,),
    _five("Mixed_5b", 192, 32),
    _five("Mixed_5c", 256, 64),
    _five("Mixed_5d", 288, 64),
    _named(
        "Mixed_6a",
        (Conv("branch3x3", 288, 384, (3, 3), stride=2, is_padded=False),),
        (
            Conv("branch3x3dbl_1", 288, 64),
            Conv("branch3x3dbl_2", 64, 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, 96, (3, 3), stride=2, is_padded=False),
        ),
        ("half",),
    ),
    _six("Mixed_6b", 128),
    _six("Mixed_6c", 160),
    _six("Mixed_6d", 160),
    _six("Mixed_6e", 192),
    _named(
        "Mixed_7a",
        (Conv("branch3x3_1", 768, 192), Conv("branch3x3_2", 192, 320, (3, 3), stride=2, is_padded=False)),
        (
            Conv("branch7x7x3_1", 768, 192),
            Conv("branch7x7x3_2", 192, 192, (1, 7)),
            Conv("branch7x7x3_3", 192, 192, (7, 1)),
            Conv("branch7x7x3_4", 192, 192, (3, 3), stride=2, is_padded=False),
        ),
        ("half",),
    ),
    _seven("Mixed_7b", 1280, "mean"),
    _seven("Mixed_7c", 2048, "max"),
)


def convolutions() -> Iterator[Conv]:
    """Yield every convolution of the network."""
    for step in (step for block in BLOCKS for branch in block for step in branch):
        if isinstance(step, Conv):
            yield step
        elif not isinstance(step, str):
            yield from step


def _shapes() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for conv in convolutions():
        shapes[f"{conv.name}.conv.weight"] = (conv.num_outputs, conv.num_inputs, *conv.kernel)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{conv.name}.bn.{name}"] = (conv.num_outputs,)
    return shapes


NETWORK = Network("FID's Inception", _shapes(), _ADVICE, ignored=r"fc\..*|.*\.num_batches_tracked")


@dataclass(frozen=True)
class Inception:
    """The network up to the last pool. `filters`: weight and bias of each convolution, normalisation included."""

    weights: Weights
    filters: Mapping[str, tuple[Tensor, Tensor]]
    device: torch.device

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """Read the weights under the names of pytorch-fid. Raises `CheckpointError`."""
        _, weights = read_weights(path, {"inception": NETWORK})
        filters = {conv.name: _filter(weights.tensors, conv.name) for conv in convolutions()}
        return cls(
            weights, {name: (one.to(device), other.to(device)) for name, (one, other) in filters.items()}, device
        )

    @torch.inference_mode()
    def features(self, images: Sequence[Tensor]) -> Tensor:
        """Return the features, float32 [N,2048] on the CPU, of uint8 images [3,H,W] of any sizes."""
        found = torch.empty(len(images), NUM_FEATURES)
        for begin in range(0, len(images), _BATCH):
            values = torch.stack([resized(image.to(self.device)) for image in images[begin : begin + _BATCH]])
            found[begin : begin + _BATCH] = self._pooled(values.sub_(128).div_(128)).cpu()
        return found

    def _pooled(self, values: Tensor) -> Tensor:
        for block in BLOCKS:
            values = torch.cat([self._branch(branch, values) for branch in block], dim=1)
        return values.mean((2, 3))

    def _branch(self, branch: Branch, values: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                values = self._conv(step, values)
            elif isinstance(step, str):
                values = _pool(step, values)
            else:
                values = torch.cat([self._conv(conv, values) for conv in step], dim=1)
        return values

    def _conv(self, conv: Conv, values: Tensor) -> Tensor:
        return F.relu_(F.conv2d(values, *self.filters[conv.name], conv.stride, conv.padding))

    def to_json(self) -> dict[str, Any]:
        """Return what is on record of it."""
        resize = f"{SIDE_PX} px, bilinear as in TensorFlow 1: no half-pixel centres, no antialiasing"
        return {"network": "Inception 2015-12-05, pool3", "resize": resize, **self.weights.to_json()}


def _filter(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that batch normalisation by fixed statistics makes of another."""
    gain = tensors[f"{name}.bn.weight"].double() / (tensors[f"{name}.bn.running_var"].double() + _EPSILON).sqrt()
    bias = tensors[f"{name}.bn.bias"].double() - tensors[f"{name}.bn.running_mean"].double() * gain
    return (tensors[f"{name}.conv.weight"].double() * gain[:, None, None, None]).float(), bias.float()


def _pool(kind: Pool, values: Tensor) -> Tensor:
    if kind == "mean":
        return F.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)
    return F.max_pool2d(values, 3, stride=1, padding=1) if kind == "max" else F.max_pool2d(values, 3, stride=2)


def resized(image: Tensor) -> Tensor:
    """Resize uint8 [C,H,W] to float32 [C,299,299] as `tf.image.resize_bilinear` of TensorFlow 1 does.

    Pixel i comes from i H / 299, between two pixels, however many lie between it and the next.
    """
    (upper, lower, down), (left, right, across) = (_between(side, image.device) for side in image.shape[1:])
    top, bottom = (_lerp(image[:, rows].float(), left, right, across) for rows in (upper, lower))
    return top + (bottom - top) * down[:, None]


def _lerp(rows: Tensor, left: Tensor, right: Tensor, across: Tensor) -> Tensor:
    first = rows[..., left]
    return first + (rows[..., right] - first) * across


def _between(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels that each of the 299 lies between, and how far from the first it is, all in float32."""
    places = torch.arange(SIDE_PX, device=device, dtype=torch.float32) * torch.tensor(side / SIDE_PX, device=device)
    first = places.long()
    return first, (first + 1).clamp_max(side - 1), places - first
