"""Colour by code points (ITU-T H.273, known as CICP): the primaries and transfer functions behind the numbers.

A transfer function gives the light, 0..1 of the display's white, of sample values 0..1. Values and light are arrays of
float64 of any shape.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

Chromaticity = tuple[float, float]
TransferFunction = Callable[[np.ndarray], np.ndarray]

UNSPECIFIED = 2
SRGB_PRIMARIES, SRGB_TRANSFER = 1, 13
PQ, HLG = 16, 18

_D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
_D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the white of ICC profiles (ICC.1:2022, 7.2.16)
# Cone responses of XYZ by Bradford, as ICC.1:2022, annex E recommends.
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True, slots=True)
class Primaries:
    """CIE 1931 (x, y) of the white and of the three primaries."""

    white: Chromaticity
    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity


# ITU-T H.273, table 2.
PRIMARIES: Mapping[int, Primaries] = {
    SRGB_PRIMARIES: Primaries(_D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # BT.709
    4: Primaries(_C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),  # BT.470 System M
    5: Primaries(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),  # BT.601, 625 lines
    6: Primaries(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines
    7: Primaries(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # SMPTE ST 240
    8: Primaries(_C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),  # generic film
    9: Primaries(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    10: Primaries((1 / 3, 1 / 3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)),  # SMPTE ST 428: XYZ
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # SMPTE RP 431: DCI P3
    12: Primaries(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # SMPTE EG 432: Display P3
    22: Primaries(_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),  # EBU Tech 3213
}


def power_light(values: np.ndarray, exponent: float) -> np.ndarray:
    """Return the light of a pure power function, as the 2.2 and 2.8 of BT.470 (ITU-T H.273, table 3, codes 4 and 5)."""
    return values**exponent


def srgb_light(values: np.ndarray) -> np.ndarray:
    """Return the light of sRGB values (IEC 61966-2-1, 5.2)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_values(light: np.ndarray) -> np.ndarray:
    """Return the sRGB values of light, of 0..1 (IEC 61966-2-1, 5.3): the inverse of `srgb_light`."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def st240_light(values: np.ndarray) -> np.ndarray:
    """Return the light of SMPTE ST 240 values (ITU-T H.273, table 3, code 7)."""
    return np.where(values < 4 * 0.0228, values / 4, ((values + 0.1115) / 1.1115) ** (1 / 0.45))


def st428_light(values: np.ndarray) -> np.ndarray:
    """Return the light of SMPTE ST 428-1 values, in which 48 cd/m2 is white (ITU-T H.273, table 3, code 17)."""
    return 52.37 / 48 * values**2.6


def pq_light(values: np.ndarray) -> np.ndarray:
    """Return the light of PQ values in units of 10,000 cd/m2 (ITU-R BT.2100-2, table 4; SMPTE ST 2084)."""
    root = values ** (32 / 2523)
    return (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)


def hlg_light(values: np.ndarray) -> np.ndarray:
    """Return the light of the scene, of its brightest, of HLG values (ITU-R BT.2100-2, table 5, inverse OETF)."""
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)


# ITU-T H.273, table 3, with an own range of light; PQ and HLG are of more range than sRGB has (`tone_mapping`).
# What cameras write (1, 6, 11, 14, 15: BT.709, BT.601, xvYCC, BT.2020) is shown by other functions than it was taken
# with, and by different ones: the callers say which.
TRANSFERS: Mapping[int, TransferFunction] = {
    4: partial(power_light, exponent=2.2),
    5: partial(power_light, exponent=2.8),
    7: st240_light,
    8: partial(power_light, exponent=1.0),
    SRGB_TRANSFER: srgb_light,
    17: st428_light,
}
DISPLAY: TransferFunction = partial(power_light, exponent=2.4)  # ITU-R BT.1886, annex 1, with a black of no light


def to_xyz(primaries: Primaries) -> np.ndarray:
    """Compute light (R, G, B) -> XYZ relative to D50 [3,3]: SMPTE RP 177, 3.3, adapted by Bradford.

    Raises `ValueError` if the primaries span no such space.
    """
    colours = np.array([_xyz(place) for place in (primaries.red, primaries.green, primaries.blue)]).T
    if primaries.white[1] == 0:
        raise ValueError("a white without luminance")
    white = _xyz(primaries.white) / primaries.white[1]
    if abs(np.linalg.det(colours)) < 1e-8:
        raise ValueError("primaries on one line")
    stored = colours * np.linalg.solve(colours, white)
    gains = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: np.ndarray = np.linalg.solve(_BRADFORD, gains[:, None] * _BRADFORD) @ stored
    return adapted


def _xyz(place: Chromaticity) -> np.ndarray:
    """Return X, Y, Z of a chromaticity, whose sum is 1."""
    x, y = place
    return np.array([x, y, 1 - x - y])
