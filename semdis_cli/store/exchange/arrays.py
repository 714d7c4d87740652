"""Files of arrays as trainers read them: npz, plain safetensors, and a dictionary of tensors by torch."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
_ALIGNMENT = 8

Shapes = Mapping[str, tuple[torch.dtype, Sequence[int]]]


def npy_bytes(tensor: Tensor) -> bytes:
    """Return the `.npy` file of a tensor of numbers that NumPy has: version 1.0, little-endian, in C order."""
    file = io.BytesIO()
    array = tensor.contiguous().numpy()
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(file, little_endian, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def npz_bytes(arrays: Mapping[str, Tensor]) -> bytes:
    """Return an uncompressed `.npz` file; equal arrays give equal bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), npy_bytes(array))
    return file.getvalue()


def torch_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return what `torch.load` makes a dictionary of tensors of, with `weights_only` too."""
    file = io.BytesIO()
    torch.save(dict(tensors), file)  # noqa: TID251 # the one that reads it knows nothing else
    return file.getvalue()


def tensor_header(shapes: Shapes) -> bytes:
    """Return what a safetensors file without metadata begins with, before the values of the tensors in their order.

    `shapes`: dtype and shape of each; those with the widest values come first, so that each is aligned.
    """
    fields, start = {}, 0
    for name, (dtype, shape) in shapes.items():
        end = start + dtype.itemsize * prod(shape)
        fields[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def tensor_chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Give the bytes of a safetensors file without metadata; none of the values is copied."""
    yield tensor_header({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
    for tensor in tensors.values():
        yield tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def holds_tensors(path: Path, shapes: Shapes) -> bool:
    """Tell whether a file is one of `tensor_chunks`, by its header and its size."""
    header = tensor_header(shapes)
    num_bytes = len(header) + sum(dtype.itemsize * prod(shape) for dtype, shape in shapes.values())
    try:
        with path.open("rb") as file:
            return path.stat().st_size == num_bytes and file.read(len(header)) == header
    except OSError:
        return False
