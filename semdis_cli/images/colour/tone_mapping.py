"""Pictures of more range than a screen (PQ, HLG) to sRGB, as browsers show them on a screen without headroom.

The curve is the reference white tone mapping of SMPTE ST 2094-50: what is darker than the reference white is dimmed by
one factor, what is brighter is bent so that the brightest light meant ends at the screen's white.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from semdis_cli.images.colour.code_points import (
    HLG,
    PQ,
    PRIMARIES,
    SRGB_PRIMARIES,
    hlg_light,
    pq_light,
    srgb_values,
    to_xyz,
)

Rows = tuple[tuple[float, ...], ...]

DEFAULT_PEAK = 1000.0  # cd/m2, where a file does not say it: what browsers take
_REFERENCE_WHITE = 203.0  # cd/m2: ITU-R BT.2408, 2.2
_LEAST_PEAK = 1.001 * _REFERENCE_WHITE  # below, the curve's points would lie too close to each other
_HLG_PEAK = 1000.0  # cd/m2 of the display that HLG is made for: ITU-R BT.2100-2, table 5
_HLG_GAMMA = 1.2
_HLG_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # ITU-R BT.2100-2, table 5: luminance of BT.2020
_BT2020, _SRGB = to_xyz(PRIMARIES[9]), to_xyz(PRIMARIES[SRGB_PRIMARIES])
_TO_SRGB = np.linalg.solve(_SRGB, _BT2020).astype(np.float32)
_KNEE = 0.65  # how far the middle of the curve leans towards its corner
_NUM_POINTS = 8
_ENCODED_STEPS = 1 << 16
_AT_ONCE = 1 << 16  # pixels: their floats stay in the cache


@dataclass(frozen=True, slots=True)
class HighRange:
    """Meaning of samples of high dynamic range.

    `transfer`: PQ or HLG. `to_xyz`: light (R, G, B) -> XYZ relative to D50, row by row. `peak`: the brightest light
    that is meant, in cd/m2.
    """

    transfer: int
    to_xyz: Rows
    peak: float = DEFAULT_PEAK

    def __post_init__(self) -> None:
        assert self.transfer in {PQ, HLG}

    @property
    def note(self) -> str:
        """Say what becomes of it."""
        return f"high dynamic range ({'PQ' if self.transfer == PQ else 'HLG'}): tone-mapped to sRGB"


def tone_mapped(samples: np.ndarray, meaning: HighRange) -> np.ndarray:
    """Convert [H,W,3] uint8 or uint16 samples, of which 255 or 65535 is the highest value, to [H,W,3] uint8 sRGB."""
    table = _light_table(meaning.transfer, samples.dtype.itemsize)
    flat = samples.reshape(-1, 3)
    result = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _AT_ONCE):
        light = _bt2020_light(table[flat[start : start + _AT_ONCE]], meaning)
        result[start : start + _AT_ONCE] = _shown(light, meaning.peak)
    return result.reshape(samples.shape)


def curve(peak: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute points of the tone curve for content of up to `peak` cd/m2: light, log2 of its gain, and its slope.

    Light is in units of the reference white (SMPTE ST 2094-50, annex C: reference white tone mapping without headroom).
    """
    brightest = peak / _REFERENCE_WHITE
    share = min(np.log2(brightest) / np.log2(1000 / _REFERENCE_WHITE), 1.0)
    white = 1 - 0.5 * share  # what the reference white becomes, of the screen's white
    middle = 1 - _KNEE + _KNEE / white, (1 - _KNEE) * white + _KNEE
    at = np.arange(_NUM_POINTS) / (_NUM_POINTS - 1)
    light, light_slope = _bezier(at, 1.0, middle[0], brightest)
    shown, shown_slope = _bezier(at, white, middle[1], 1.0)
    slope = (shown_slope / shown - light_slope / light) / np.log(2) / light_slope
    return light, np.log2(shown / light), slope


def gain(light: np.ndarray, peak: float) -> np.ndarray:
    """Compute the factor for light whose strongest channel is `light`, in units of the reference white.

    Cubic Hermite curves between the points of `curve`; beyond the last one, everything ends at the screen's white.
    Content no brighter than the reference white keeps its light.
    """
    if peak < _LEAST_PEAK:
        return np.ones_like(light)
    points, gains, slopes = (values.astype(np.float32) for values in curve(peak))
    within = np.clip(light, points[0], points[-1])
    left = np.clip(np.searchsorted(points, within, side="right") - 1, 0, _NUM_POINTS - 2)
    width = (points[1:] - points[:-1])[left]
    t = (within - points[left]) / width
    log_gain = (2 * t**3 - 3 * t**2 + 1) * gains[left] + (t**3 - 2 * t**2 + t) * width * slopes[left]
    log_gain += (3 * t**2 - 2 * t**3) * gains[left + 1] + (t**3 - t**2) * width * slopes[left + 1]
    result: np.ndarray = np.exp2(log_gain) * within / np.maximum(light, within)
    return result


def _bezier(at: np.ndarray, first: float, middle: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute a quadratic Bezier curve's values and slopes at 0..1."""
    values = (1 - at) ** 2 * first + 2 * at * (1 - at) * middle + at**2 * last
    return values, 2 * (1 - at) * (middle - first) + 2 * at * (last - middle)


def _bt2020_light(light: np.ndarray, meaning: HighRange) -> np.ndarray:
    """Convert light in its own primaries to [N,3] light of the display in BT.2020, in units of the reference white."""
    light = light @ _to_bt2020(meaning.to_xyz).T
    if meaning.transfer == PQ:
        return light
    luminance = np.maximum(light @ _HLG_LUMINANCE, 0)  # ITU-R BT.2100-2, table 5: the OOTF
    result: np.ndarray = light * luminance[:, None] ** (_HLG_GAMMA - 1) * np.float32(_HLG_PEAK / _REFERENCE_WHITE)
    return result


def _shown(light: np.ndarray, peak: float) -> np.ndarray:
    """Convert light in BT.2020 to [N,3] uint8 sRGB; what is outside of sRGB is clipped channel by channel."""
    light = light * gain(light.max(axis=1), peak)[:, None]
    light = np.clip(light @ _TO_SRGB.T, 0, 1)
    levels: np.ndarray = _encoding_table()[(light * (_ENCODED_STEPS - 1) + 0.5).astype(np.uint16)]
    return levels


@lru_cache(maxsize=16)
def _to_bt2020(rows: Rows) -> np.ndarray:
    return np.linalg.solve(_BT2020, np.array(rows)).astype(np.float32)


@lru_cache(maxsize=4)
def _light_table(transfer: int, sample_bytes: int) -> np.ndarray:
    """Tabulate the light of every sample value: PQ's in units of the reference white, HLG's of the scene, 0..1."""
    num_values = 1 << 8 * sample_bytes
    values = np.arange(num_values) / (num_values - 1)
    light = pq_light(values) * (10_000 / _REFERENCE_WHITE) if transfer == PQ else hlg_light(values)
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _encoding_table() -> np.ndarray:
    """Tabulate the sRGB level 0..255 of each step of light: the darkest levels take 20 steps each."""
    levels: np.ndarray = np.rint(255 * srgb_values(np.arange(_ENCODED_STEPS) / (_ENCODED_STEPS - 1)))
    return levels.astype(np.uint8)
