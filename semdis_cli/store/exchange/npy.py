"""One image's latents as a `.npy` file, the array format of NumPy. It has no bfloat16."""

import io
import math
import re

import numpy as np
import torch
from torch import Tensor

from semdis_cli.errors import StoreError

# What each of our dtypes is called in a `.npy` file; bfloat16 has no name there.
_DESCRIPTIONS = {torch.float16: "<f2", torch.float32: "<f4"}
_DTYPES = {description.encode(): dtype for dtype, description in _DESCRIPTIONS.items()}
# NumPy's own reader evaluates the header as Python. This is what its writer makes of three sides, and nothing else.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '(<f2|<f4)', 'fortran_order': False, "
    rb"'shape': \(([1-9][0-9]{0,8}), ([1-9][0-9]{0,8}), ([1-9][0-9]{0,8})\), \} *\n",
    re.DOTALL,
)
_MAX_HEADER_BYTES = 256  # NumPy pads to multiples of 64; three sides need 128


def npy_bytes(latents: Tensor) -> bytes:
    """The file for `latents` [Z,h,w], float16 or float32: version 1.0, little-endian, in the order of the indices."""
    file = io.BytesIO()
    array = latents.contiguous().numpy().astype(_DESCRIPTIONS[latents.dtype], copy=False)
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def parse_npy(data: bytes, place: str) -> Tensor:
    """The array [Z,h,w] float16 or float32 in a file that `npy_bytes` made. Raises `StoreError` beginning with `place`.

    Nothing is evaluated, and nothing larger than `data` is allocated.
    """
    found = _HEADER.match(data[:_MAX_HEADER_BYTES])
    if found is None or int.from_bytes(found[1], "little") != found.end() - 10:
        raise StoreError(f"{place}: not an array as NumPy writes it with three sides, float16 or float32")
    shape, dtype = [int(side) for side in found.groups()[2:]], _DTYPES[found[2]]
    num_bytes = math.prod(shape) * dtype.itemsize
    if len(data) - found.end() != num_bytes:
        raise StoreError(f"{place}: {len(data) - found.end()} bytes of values, but its header says {num_bytes}")
    values = np.frombuffer(data, found[2].decode(), offset=found.end())
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="))).reshape(shape)
