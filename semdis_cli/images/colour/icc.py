"""ICC profiles (ICC.1:2022) as bytes: what is asked of one before a colour engine sees it, and making one.

Chromium's engine is stricter than LittleCMS about what a profile must hold, and follows the `cicp` tag of version 4.4,
which LittleCMS passes over.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

_HEADER_BYTES = 128
_SIGNATURE = b"acsp"
_LAST_VERSION = 4
_MOST_TAGS = 1000
_WHITE = (0.9642, 1.0, 0.8249)  # D50: 7.2.16
_COLORANTS = (b"rXYZ", b"gXYZ", b"bXYZ")
_CURVES = (b"rTRC", b"gTRC", b"bTRC")
_MATRIX_TAGS = frozenset({*_COLORANTS, *_CURVES})
_TABLE_TAGS = frozenset({b"A2B0", b"A2B1"})
_XYZ_BYTES = 20
_GREY_BY_LIGHTNESS = b"GRAYLab "  # its curve leads to L*


@dataclass(frozen=True, slots=True)
class IccProfile:
    """`space`: of the samples it is for, as "RGB", "GRAY", "CMYK" or "Lab". `tags`: their bytes."""

    space: str
    tags: dict[bytes, bytes]

    @property
    def is_table(self) -> bool:
        """Tell whether the colours come from a table, and not from curves and primaries."""
        return not _TABLE_TAGS.isdisjoint(self.tags)

    @property
    def code_points(self) -> tuple[int, int] | None:
        """Primaries and transfer of a `cicp` tag for RGB of full range; None without (9.2.17)."""
        tag = self.tags.get(b"cicp", b"")
        return (tag[8], tag[9]) if len(tag) >= 12 and tag[10] == 0 and tag[11] == 1 else None

    @property
    def colorants(self) -> np.ndarray | None:
        """Light (R, G, B) -> XYZ relative to D50 [3,3]; None if the profile does not say it so."""
        tags = [self.tags.get(name, b"") for name in _COLORANTS]
        if any(len(tag) < _XYZ_BYTES for tag in tags):
            return None
        return np.array([_fixed(tag[8:_XYZ_BYTES]) for tag in tags]).T


@lru_cache(maxsize=4)
def parse_icc(data: bytes) -> IccProfile | None:
    """Parse the profile in `data`; None for what is none, is cut off, or lacks what its kind of samples needs.

    The conditions are those of Chromium's engine: version 4 at most, D50, tags within the profile, grey by its light.
    """
    if len(data) < _HEADER_BYTES + 4 or data[36:40] != _SIGNATURE or data[8] > _LAST_VERSION:
        return None
    size, (num_tags,) = int.from_bytes(data[:4]), struct.unpack_from(">I", data, _HEADER_BYTES)
    near = all(abs(a - b) < 0.01 for a, b in zip(_fixed(data[68:80]), _WHITE, strict=True))
    if size > len(data) or num_tags > _MOST_TAGS or _HEADER_BYTES + 4 + 12 * num_tags > size or not near:
        return None
    tags = None if data[16:24] == _GREY_BY_LIGHTNESS else _tags(data[:size], num_tags)
    if tags is None:
        return None
    profile = IccProfile(data[16:20].decode("latin-1").strip(), tags)
    return profile if _is_whole(profile) else None


def _is_whole(profile: IccProfile) -> bool:
    if profile.space == "GRAY":
        return b"kTRC" in profile.tags
    return profile.is_table or profile.tags.keys() >= _MATRIX_TAGS


def _tags(data: bytes, num_tags: int) -> dict[bytes, bytes] | None:
    tags: dict[bytes, bytes] = {}
    for at in range(_HEADER_BYTES + 4, _HEADER_BYTES + 4 + 12 * num_tags, 12):
        name, start, length = struct.unpack_from(">4sII", data, at)
        if length < 4 or start + length > len(data):
            return None
        tags.setdefault(name, data[start : start + length])
    return tags


def matrix_profile(to_xyz: np.ndarray, curves: Sequence[np.ndarray]) -> bytes:
    """Make a profile of three curves and a matrix (ICC.1:2022, 8.3.3).

    `to_xyz`: light (R, G, B) -> XYZ relative to D50 [3,3]. `curves`: light 0..1 of equally spaced sample values, one
    array for all channels or three. Light above 1 is kept, by primaries that are as much brighter.
    """
    brightest = max(1.0, *(float(curve.max()) for curve in curves))
    curves = [curve / brightest for curve in curves] * (3 // len(curves))
    to_xyz = brightest * to_xyz
    tags = {b"desc": _description("by primaries and curve"), b"cprt": b"text" + bytes(4) + b"none\0"}
    tags |= {b"wtpt": _place(_WHITE)}
    tags |= dict(zip(_COLORANTS, map(_place, to_xyz.T), strict=True)) | dict(
        zip(_CURVES, map(_curve, curves), strict=True)
    )
    return _assembled(b"RGB ", tags)


def with_colorants(profile: IccProfile, to_xyz: np.ndarray) -> bytes:
    """Give the RGB profile other primaries, its curves kept: light (R, G, B) -> XYZ relative to D50 [3,3]."""
    kept = {name: tag for name, tag in profile.tags.items() if name in {*_CURVES, b"desc", b"cprt", b"wtpt"}}
    return _assembled(b"RGB ", kept | dict(zip(_COLORANTS, map(_place, to_xyz.T), strict=True)))


def retagged(data: bytes, version: int, space: str) -> bytes:
    """Give the profile another version (0x04400000 is 4.4), and samples that are called otherwise."""
    return data[:8] + struct.pack(">I", version) + data[12:16] + space.ljust(4).encode("latin-1") + data[20:]


def with_plain_lab(data: bytes) -> bytes:
    """Scale a 16-bit perceptual table to L*a*b* so that LittleCMS reads the profile as Chromium's engine does.

    Such tables (lut16Type, ICC.1:2022, 10.10) have 0xff00 for what later ones and that engine have 0xffff for; white is
    half a unit of a* and b* greener and bluer by it.
    """
    table = _start_of(data, b"A2B0")
    if data[20:24] != b"Lab " or table is None or data[table : table + 4] != b"mft2" or len(data) < table + 52:
        return data
    num_inputs, num_outputs, grid = data[table + 8 : table + 11]
    in_entries, out_entries = struct.unpack_from(">HH", data, table + 48)
    start = table + 52 + 2 * (num_inputs * in_entries + grid**num_inputs * num_outputs)
    end = start + 2 * num_outputs * out_entries
    if num_inputs > 4 or end > len(data):
        return data
    scaled: np.ndarray = np.rint(np.frombuffer(data[start:end], ">u2") * (0xFF00 / 0xFFFF))
    return b"".join((data[:start], scaled.astype(">u2").tobytes(), data[end:]))


def _start_of(data: bytes, wanted: bytes) -> int | None:
    (num_tags,) = struct.unpack_from(">I", data, _HEADER_BYTES)
    for index in range(num_tags):
        name, start = struct.unpack_from(">4sI", data, _HEADER_BYTES + 4 + 12 * index)
        if name == wanted:
            return int(start)
    return None


def _assembled(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    starts = [_HEADER_BYTES + 4 + 12 * len(tags)]
    padded = [tag + bytes(-len(tag) % 4) for tag in tags.values()]
    for tag in padded:
        starts.append(starts[-1] + len(tag))
    table = b"".join(
        struct.pack(">4sII", name, start, end - start)
        for name, (start, end) in zip(tags, pairwise(starts), strict=True)
    )
    head = struct.pack(">I4sI4s4s4s12s4s28x", starts[-1], b"", 0x02400000, b"mntr", space, b"XYZ ", b"", _SIGNATURE)
    head += _s15_fixed16(*_WHITE)
    return head.ljust(_HEADER_BYTES, b"\0") + struct.pack(">I", len(tags)) + table + b"".join(padded)


def _curve(light: np.ndarray) -> bytes:
    levels = np.rint(np.clip(light, 0, 1) * 65535).astype(">u2").tobytes()
    return b"".join((b"curv", bytes(4), struct.pack(">I", len(light)), levels))


def _place(xyz: Iterable[float]) -> bytes:
    return b"XYZ " + bytes(4) + _s15_fixed16(*xyz)


def _description(text: str) -> bytes:
    """Make a description of version 2 (ICC.1:2001-04, 6.5.17)."""
    ascii_text = text.encode() + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(ascii_text)) + ascii_text + bytes(78)


def _s15_fixed16(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(max(-32768.0, min(32767.0, v)) * 65536) for v in values))


def _fixed(data: bytes) -> tuple[float, ...]:
    return tuple(value / 65536 for value in struct.unpack(f">{len(data) // 4}i", data))
