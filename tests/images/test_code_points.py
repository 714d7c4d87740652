"""Code points: the formulas give the values that their standards name."""

import numpy as np
import pytest

from semdis_cli.images.colour.code_points import (
    PRIMARIES,
    TRANSFERS,
    Primaries,
    hlg_light,
    power_light,
    pq_light,
    srgb_light,
    srgb_values,
    st240_light,
    st428_light,
    to_xyz,
)

_VALUES = np.arange(256) / 255


def test_srgb_there_and_back_is_where_it_was() -> None:
    assert np.abs(srgb_values(srgb_light(_VALUES)) - _VALUES).max() < 1e-6
    assert srgb_light(np.array([0.5])) == pytest.approx(0.21404, abs=1e-5)


def test_pq_and_hlg_have_reference_white_where_the_report_puts_it() -> None:
    # ITU-R BT.2408, table 1: 203 cd/m2 are 58 % of PQ and, on a display of 1000 cd/m2, 75 % of HLG.
    assert 10_000 * pq_light(np.array([0.58])) == pytest.approx(203, abs=2)
    assert 1000 * hlg_light(np.array([0.75])) ** 1.2 == pytest.approx(203, abs=1)
    assert pq_light(np.array([0.0, 1.0])) == pytest.approx([0, 1])
    assert hlg_light(np.array([0.0, 0.5, 1.0])) == pytest.approx([0, 1 / 12, 1], abs=1e-6)


def test_other_transfers_begin_at_black_grow_and_end_at_white() -> None:
    assert power_light(np.array([0.5]), 2.0) == pytest.approx(0.25)
    assert st240_light(np.array([0.0912, 0.09121])) == pytest.approx([0.0228, 0.0228], abs=1e-4)
    assert st428_light(np.array([1.0])) == pytest.approx(52.37 / 48)
    for light in (function(_VALUES) for function in TRANSFERS.values()):
        assert light[0] == 0
        assert 1 <= light[-1] < 1.1
        assert (np.diff(light) > 0).all()


def test_primaries_add_up_to_white_and_srgb_has_its_well_known_matrix() -> None:
    for primaries in PRIMARIES.values():
        assert to_xyz(primaries).sum(axis=1) == pytest.approx([0.9642, 1.0, 0.8249], abs=1e-6)
    # As in the profiles of the International Color Consortium.
    known = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
    assert np.abs(to_xyz(PRIMARIES[1]) - known).max() < 2e-4


@pytest.mark.parametrize(
    "primaries",
    [
        Primaries((0.3127, 0.3290), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)),
        Primaries((0.3127, 0.0), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    ],
)
def test_primaries_that_span_nothing_are_refused(primaries: Primaries) -> None:
    with pytest.raises(ValueError, match=r"primaries|white"):
        to_xyz(primaries)
