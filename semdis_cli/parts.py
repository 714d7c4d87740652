"""The tensors of a shard, each with a row an image: `latents`, and the parts that settings may ask for beside them."""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

LATENTS = "latents"
LATENTS_FLIP = "latents_flip"  # of the mirrored pixels
LOG_SNR, LOG_SNR_FLIP = "log_snr", "log_snr_flip"  # of the posterior whose mode the latents are
MASK, MASK_FLIP = "mask", "mask_flip"  # how much of each position counts, 0..1
PARTS = (LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP, MASK, MASK_FLIP)

SCALE, SCALE_FLIP = "scale", "scale_flip"  # of each channel, beside latents of a quantised dtype: no part to ask for
SCALES = {LATENTS: SCALE, LATENTS_FLIP: SCALE_FLIP}
QUANTISED = ("float8_e4m3", "int8")

TWINS = {LATENTS: LATENTS_FLIP, SCALE: SCALE_FLIP, LOG_SNR: LOG_SNR_FLIP, MASK: MASK_FLIP}

# In the order in which safetensors sorts tensors
BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3": 1, "int8": 1}


@dataclass(frozen=True, slots=True)
class RowTensor:
    """One tensor of a shard: the `shape` that a row of it has, and its `dtype`."""

    name: str
    dtype: str
    shape: tuple[int, int, int]

    @property
    def num_bytes(self) -> int:
        """Bytes of a row."""
        return prod(self.shape) * BYTES_PER_VALUE[self.dtype]


def file_order(name: str, dtype: str) -> tuple[int, str]:
    """Sort tensors as safetensors does: those with the widest values first, so that each is aligned, then by name."""
    return list(BYTES_PER_VALUE).index(dtype), name


def row_tensors(parts: Collection[str], dtype: str, shape: tuple[int, int, int]) -> tuple[RowTensor, ...]:
    """Return all tensors of a shard whose latents are `shape` [Z,h,w] of `dtype`, in the order of its file."""
    names = [LATENTS, *parts]
    if dtype in QUANTISED:
        names += [SCALES[name] for name in names if name in SCALES]
    found = [RowTensor(name, part_dtype(name, dtype), _row_shape(name, shape)) for name in names]
    return tuple(sorted(found, key=lambda tensor: file_order(tensor.name, tensor.dtype)))


def _row_shape(name: str, latents: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the shape of a row of a tensor beside `latents`."""
    channels, height, width = latents
    if name in {SCALE, SCALE_FLIP}:
        return channels, 1, 1
    return (1, height, width) if name in {MASK, MASK_FLIP} else latents


def part_dtype(name: str, dtype: str) -> str:
    """Return the dtype of a tensor beside latents that are stored in `dtype`."""
    if name in {LATENTS, LATENTS_FLIP}:
        return dtype
    if name in {SCALE, SCALE_FLIP}:
        return "float32"
    return "float32" if dtype == "float32" and name in {LOG_SNR, LOG_SNR_FLIP} else "float16"


def check_parts(parts: object) -> tuple[str, ...]:
    """Return the names of the parts as a record of settings has them. Raises `ValueError` for what cannot be read."""
    if not isinstance(parts, list) or not parts or not all(isinstance(name, str) for name in parts):
        raise ValueError(f"parts {parts!s:.40}")
    if others := sorted(set(parts) - set(PARTS)):
        raise ValueError(f"a part {others[0]!r:.40}, which this version does not know")
    if parts != sorted(set(parts)):
        raise ValueError(f"parts that are not sorted: {parts!s:.80}")
    return tuple(parts)
