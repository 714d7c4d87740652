"""ICC profiles made by hand (ICC.1:2001-04, ICC.1:2022): such as pictures come with, and such as are of no use."""

import struct
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

_WHITE = (0.9642, 1.0, 0.8249)
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
SWAPPED = (SRGB[1], SRGB[0], SRGB[2])  # the first channel drives green
WIDE = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))  # Display P3


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + fixed(*values)


def gamma(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def cicp(primaries: int, transfer: int, matrix: int = 0, full_range: int = 1) -> bytes:
    return b"cicp" + bytes(4) + bytes([primaries, transfer, matrix, full_range])


def profile(space: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """A profile of version 2.4 of these tags, besides those that all have."""
    name = b"made for a test\0"
    text = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    every = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": xyz(*_WHITE), **tags}
    padded = [tag + bytes(-len(tag) % 4) for tag in every.values()]
    starts = [132 + 12 * len(every)]
    for tag in padded:
        starts.append(starts[-1] + len(tag))
    table = b"".join(
        struct.pack(">4sII", key, start, end - start) for key, (start, end) in zip(every, pairwise(starts), strict=True)
    )
    head = struct.pack(">I4sI4s4s4s6H", starts[-1], b"none", 0x02400000, kind, space, pcs, 2024, 1, 1, 0, 0, 0)
    head += b"acsp" + bytes(28) + fixed(*_WHITE)
    return head.ljust(128, b"\0") + struct.pack(">I", len(every)) + table + b"".join(padded)


def rgb_profile(primaries: tuple[tuple[float, ...], ...], exponent: float, **tags: bytes) -> bytes:
    own = {f"{c}XYZ".encode(): xyz(*place) for c, place in zip("rgb", primaries, strict=True)}
    own |= {f"{c}TRC".encode(): gamma(exponent) for c in "rgb"}
    return profile(b"RGB ", own | {key.encode(): tag for key, tag in tags.items()})


def grey_profile(exponent: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": gamma(exponent)})


def table_profile(space: bytes, lab: np.ndarray, grid: int, num_channels: int) -> bytes:
    """Profile of a 16-bit table. `lab`: [grid**channels,3] L* 0..100, a*, b*; the last channel changes fastest."""
    scaled = np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], axis=1)
    table = scaled.round().clip(0, 65535).astype(">u2").tobytes()
    straight = struct.pack(">HH", 0, 65535)
    head = b"mft2" + bytes(4) + bytes([num_channels, 3, grid, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    head += struct.pack(">HH", 2, 2) + straight * num_channels
    return profile(space, {b"A2B0": head + table + straight * 3}, kind=b"prtr", pcs=b"Lab ")


def press_profile() -> bytes:
    """CMYK as from a press: dot gain, grey paper, and a black that is none."""
    grid = np.linspace(0, 1, 9) ** 0.85
    c, m, y, k = np.meshgrid(grid, grid, grid, grid, indexing="ij")
    red = (1 - 0.95 * c) * (1 - 0.1 * m)
    green = (1 - 0.15 * c) * (1 - 0.93 * m) * (1 - 0.03 * y)
    blue = (1 - 0.1 * c) * (1 - 0.4 * m) * (1 - 0.9 * y)
    light = np.stack([red, green, blue], axis=-1) * (1 - 0.96 * k[..., None]) * [0.86, 0.87, 0.84]
    lab = light_to_lab(light).reshape(-1, 3)
    lab[:, 0] = 20 + 0.8 * lab[:, 0]
    return table_profile(b"CMYK", lab, 9, 4)


def light_to_lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D50 of linear sRGB (CIE 15)."""
    relative = light @ np.array(SRGB) / np.array(_WHITE)
    f = np.where(relative > 216 / 24389, np.cbrt(np.maximum(relative, 0)), (24389 / 27 * relative + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def bent_table_profile() -> bytes:
    """RGB by a table of 17³ colours: gamma 1.5, and some colours mixed into others."""
    grid = np.linspace(0, 1, 17) ** 1.5
    light = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1)
    mixed = light @ np.array([[0.9, 0.05, 0.05], [0.1, 0.85, 0.05], [0.0, 0.1, 0.9]])
    return table_profile(b"RGB ", light_to_lab(mixed).reshape(-1, 3), 17, 3)


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def useless_profiles() -> dict[str, bytes]:
    """Such as browsers pass over."""
    whole = rgb_profile(SWAPPED, 2.2)
    return {
        "nothing": b"",
        "zeros": bytes(400),
        "cut": whole[: len(whole) // 2],
        "no signature": changed(whole, 36, b"xxxx"),
        "version 5": changed(whole, 8, b"\5"),
        "longer than it is": changed(whole, 0, struct.pack(">I", len(whole) + 1)),
        "no curves": profile(b"RGB ", {b"rXYZ": xyz(*SRGB[0])}),
        "no white": changed(whole, 68, bytes(12)),
        "grey by lightness": profile(b"GRAY", {b"kTRC": gamma(1.8)}, pcs=b"Lab "),
    }
