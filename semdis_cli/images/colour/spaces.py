"""Colours that a file gives in numbers: what they mean in each kind of file, as browsers read them.

The result is the same for all: None for sRGB, an ICC profile for what has sRGB's range of light, and `HighRange`.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from semdis_cli.images.colour.code_points import (
    DISPLAY,
    HLG,
    PQ,
    PRIMARIES,
    SRGB_PRIMARIES,
    SRGB_TRANSFER,
    TRANSFERS,
    UNSPECIFIED,
    Primaries,
    TransferFunction,
    power_light,
    srgb_light,
    to_xyz,
)
from semdis_cli.images.colour.icc import IccProfile, matrix_profile, with_colorants
from semdis_cli.images.colour.tone_mapping import DEFAULT_PEAK, HighRange

Profile = bytes | HighRange

# The functions of cameras are taken for that of a display of today in PNG, for sRGB in AVIF, and for one or the other
# in profiles: browsers do not agree with themselves.
_PNG_TRANSFERS: dict[int, TransferFunction] = {**TRANSFERS, **dict.fromkeys((1, 6, 11, 14, 15), DISPLAY)}
_AVIF_TRANSFERS: dict[int, TransferFunction] = {**TRANSFERS, **dict.fromkeys((1, 6, 14, 15), srgb_light)}
_ICC_TRANSFERS: dict[int, TransferFunction] = {
    **TRANSFERS,
    **dict.fromkeys((1, 6, 11), srgb_light),
    **dict.fromkeys((14, 15), DISPLAY),
}
_HIGH_RANGE = frozenset({PQ, HLG})
_LEVELS = np.arange(256) / 255
_USUAL_GAMMA = 2.2
_SRGB_SHARE = 0.05  # within it, a gAMA chunk alone says no more than "as usual"


def png_code_points(primaries: int, transfer: int, peak: float | None) -> tuple[Profile | None, bool]:
    """Find the meaning of a PNG's cICP chunk, and whether it has one; `peak`: of light, in cd/m2, if it is known."""
    if primaries not in PRIMARIES or transfer not in {*_PNG_TRANSFERS, *_HIGH_RANGE}:
        return None, False
    return _coded(PRIMARIES[primaries], transfer, _PNG_TRANSFERS, peak), True


def avif_code_points(primaries: int, transfer: int, peak: float | None) -> tuple[Profile | None, tuple[str, ...]]:
    """Find the meaning of an AVIF's nclx box, and a note about a transfer function that is not applied.

    What is unspecified, reserved or unknown is taken for sRGB's, each for itself.
    """
    notes = () if transfer not in {9, 10, 11, 12} else (f"transfer characteristics {transfer}: shown as sRGB",)
    if transfer not in {*_AVIF_TRANSFERS, *_HIGH_RANGE}:
        transfer = SRGB_TRANSFER
    return _coded(PRIMARIES.get(primaries, PRIMARIES[SRGB_PRIMARIES]), transfer, _AVIF_TRANSFERS, peak), notes


def icc_code_points(profile: IccProfile) -> Profile | None:
    """Find the meaning of the `cicp` tag of an RGB profile; None if there is none, or one that browsers pass over.

    What it leaves unspecified comes from the profile's own curves and primaries.
    """
    if profile.code_points is None:
        return None
    primaries, transfer = profile.code_points
    own = profile.colorants
    places = own if primaries == UNSPECIFIED else to_xyz(PRIMARIES[primaries]) if primaries in PRIMARIES else None
    if places is None:
        return None
    if transfer == UNSPECIFIED:
        return None if own is None else with_colorants(profile, places)
    if transfer in _HIGH_RANGE:
        return _high_range(transfer, places, None)
    curve = _ICC_TRANSFERS.get(transfer)
    return None if curve is None else matrix_profile(places, [curve(_LEVELS)])


def png_gamma(gamma: int, primaries: Primaries | None) -> bytes | None:
    """Find the meaning of a PNG's gAMA (in 1/100,000) and cHRM. Raises `ValueError` for impossible chromaticities.

    With cHRM, gamma and primaries are taken at their word: 1/2.2 is a pure power function, not sRGB's.
    """
    if gamma == 0 or (primaries is None and abs(gamma / 1e5 * _USUAL_GAMMA - 1) <= _SRGB_SHARE):
        return None
    if primaries is None:
        return _powers(PRIMARIES[SRGB_PRIMARIES], gamma)
    places = (primaries.white, primaries.red, primaries.green, primaries.blue)
    if not all(0 <= value <= 1 for place in places for value in place):
        raise ValueError("chromaticities outside of 0..1")
    return _powers(primaries, gamma)


def _coded(
    primaries: Primaries, transfer: int, transfers: Mapping[int, TransferFunction], peak: float | None
) -> Profile | None:
    if transfer in _HIGH_RANGE:
        return _high_range(transfer, to_xyz(primaries), peak)
    curve = transfers[transfer]
    return None if curve is srgb_light and primaries == PRIMARIES[SRGB_PRIMARIES] else _by_curve(primaries, curve)


def _high_range(transfer: int, places: np.ndarray, peak: float | None) -> HighRange:
    return HighRange(transfer, tuple(map(tuple, places.tolist())), peak or DEFAULT_PEAK)


@lru_cache(maxsize=16)
def _by_curve(primaries: Primaries, curve: Callable[[np.ndarray], np.ndarray]) -> bytes:
    return matrix_profile(to_xyz(primaries), [curve(_LEVELS)])


@lru_cache(maxsize=16)
def _powers(primaries: Primaries, gamma: int) -> bytes:
    return matrix_profile(to_xyz(primaries), [power_light(_LEVELS, 1e5 / gamma)])
