"""Weights of the networks that some figures need: one safetensors file each, read without trust."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, float32

from semdis_cli.errors import CheckpointError
from semdis_cli.files.links import or_pointer
from semdis_cli.tensors import is_finite

Shape = tuple[int, ...]

_MAX_MORE_BYTES = 1 << 24  # for the header, and what is ignored
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # as torch.save writes, and as pickle does


@dataclass(frozen=True)
class Network:
    """A network's tensors: their `shapes` by name, all float32. Names that match `ignored` may be there, and are left.

    `advice`: the command that makes the file, after a semicolon.
    """

    title: str
    shapes: Mapping[str, Shape]
    advice: str
    ignored: str = "(?!)"

    @property
    def num_bytes(self) -> int:
        """The bytes of the tensors."""
        return sum(4 * math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class Weights:
    """The tensors of a file by name, and what it is known by."""

    tensors: Mapping[str, Tensor]
    file: str
    sha256: str

    def to_json(self) -> dict[str, str]:
        """Return what is on record of the file: not where it lies, which says nothing on another machine."""
        return {"file": self.file, "sha256": self.sha256}


def read_weights(path: Path, networks: Mapping[str, Network]) -> tuple[str, Weights]:
    """Read the tensors of one of `networks`, of which the file tells by its shapes which, and return its name too.

    Nothing longer than the largest of them is read. Raises `CheckpointError` in one line.
    """
    advice = next(iter(networks.values())).advice
    data = _read(path, max(network.num_bytes for network in networks.values()), advice)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = or_pointer(path, f"not a whole safetensors file ({error}){advice}")
        raise CheckpointError(reason, place=path) from error
    name, network = _recognise(tensors, networks)
    if problem := _problem(tensors, network):
        raise CheckpointError(f"these are not the weights of {network.title}: {problem}{network.advice}", place=path)
    kept = {name: tensors[name] for name in network.shapes}
    return name, Weights(kept, path.name, hashlib.sha256(data).hexdigest())


def _read(path: Path, num_bytes: int, advice: str) -> bytes:
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise CheckpointError("cannot be read (not a regular file)", place=path)
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
            if start.startswith(_PICKLES) and start[8:] != b"{":  # the length of a header may look like one
                reason = f"a PyTorch checkpoint, a pickle, which can run code when it is read, so it is not{advice}"
                raise CheckpointError(reason, place=path)
            data = start + stream.read(num_bytes + _MAX_MORE_BYTES)
            if stream.read(1):
                raise CheckpointError(f"larger than the weights that are needed here{advice}", place=path)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error}){advice}", place=path) from error
    return data


def _recognise(tensors: Mapping[str, Tensor], networks: Mapping[str, Network]) -> tuple[str, Network]:
    """Return the network that has most tensors of these names and shapes, with its name."""

    def num_fitting(item: tuple[str, Network]) -> int:
        return sum(name in tensors and tensors[name].shape == shape for name, shape in item[1].shapes.items())

    return max(networks.items(), key=num_fitting)


def _problem(tensors: Mapping[str, Tensor], network: Network) -> str | None:
    """Return the first thing that is wrong, with a tensor's name."""
    for name, shape in network.shapes.items():
        if name not in tensors:
            return f"{name} is missing"
        found = tensors[name]
        if found.shape != shape:
            return f"{name} is {list(found.shape)}, not {list(shape)}"
        if found.dtype != float32:
            return f"{name} is {str(found.dtype).removeprefix('torch.')}, not float32"
        if not is_finite(found):
            return f"{name} holds NaN or infinity"
    surplus = (name for name in tensors if name not in network.shapes and not re.fullmatch(network.ignored, name))
    return next((f"{name:.100} does not belong there" for name in surplus), None)
