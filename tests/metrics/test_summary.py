"""Summaries against numbers worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.metrics.summary import Summary, summarise


def test_a_summary_of_five_values_is_what_a_hand_gets() -> None:
    found = summarise(np.array([5.0, 1.0, 2.0, 3.0, 4.0]))
    assert (found.num, found.mean, found.median, found.min, found.max) == (5, 3.0, 3.0, 1.0, 5.0)
    assert found.std == pytest.approx(2**0.5)
    assert (found.p5, found.p95) == pytest.approx((1.2, 4.8))


def test_one_value_is_all_of_its_numbers() -> None:
    assert summarise(np.array([7.5])) == Summary(1, 7.5, 0.0, 7.5, 7.5, 7.5, 7.5, 7.5)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_the_numbers_are_in_order_and_do_not_depend_on_that_of_the_values(values: list[float]) -> None:
    found = summarise(np.array(values))
    ordered = [found.min, found.p5, found.median, found.p95, found.max]
    assert ordered == sorted(ordered)
    assert summarise(np.array(sorted(values))).median == found.median


def test_a_summary_is_plain_json() -> None:
    record = json.loads(json.dumps(summarise(np.arange(101.0)).to_json()))
    assert record["num"] == 101
    assert (record["p5"], record["median"], record["p95"]) == (5.0, 50.0, 95.0)
