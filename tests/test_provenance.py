"""The record of settings: kept as it stands, looked up by type, and refused where it is none."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.provenance import LatentLayout, ModelIdentity, Provenance, Whitening

MODEL = {"name": "m", "source": "folder", "revision": None, "weights_sha256": "0" * 64, "config_sha256": "1" * 64}
FIELDS: dict[str, Any] = {
    "model": MODEL,
    "channels": 2,
    "patch_size": 16,
    "dtype": "bfloat16",
    "whitened": True,
    "whitening": {"mean": [0.5, -1], "std": [1.0, 2.0]},
    "preprocessing": {"geometry": {"size": 256, "max_pixels": None, "bucket_size": None}},
    "compute": {"kernels": "inductor"},
    "of a later version": [{"a": 1}],
}
LOOKED_UP = ("layout", "is_whitened", "whitening", "model", "has_few_sizes", "is_compiled", "sha256")


def record(**changes: Any) -> Provenance:
    return Provenance.from_json({**FIELDS, **changes})


def test_settings_are_looked_up_by_type() -> None:
    made = record()
    assert made.layout == LatentLayout(16, 2, "bfloat16")
    assert made.model == ModelIdentity("m", "folder", None, "0" * 64, "1" * 64)
    assert made.whitening == Whitening((0.5, -1.0), (1.0, 2.0))
    assert (made.is_whitened, made.has_few_sizes, made.is_compiled) == (True, True, True)


def test_what_is_not_on_record_is_none_where_a_run_can_do_without() -> None:
    made = record(whitening=None, preprocessing="pillow", compute={})
    assert (made.whitening, made.has_few_sizes, made.is_compiled) == (None, False, None)


def test_fields_of_other_versions_are_kept_and_the_order_says_nothing() -> None:
    backwards = Provenance.from_json(dict(reversed(FIELDS.items())))
    assert backwards == record()
    assert hash(backwards) == hash(record())
    assert backwards.to_json() == FIELDS
    assert record(more=1) != record()


def test_what_is_given_out_is_a_copy() -> None:
    made = record()
    made.to_json()["model"]["name"] = "another"
    assert made.to_json() == FIELDS


@pytest.mark.parametrize(
    ("changes", "looked_up", "reason"),
    [
        ({"patch_size": 0}, "layout", "patch_size 0"),
        ({"patch_size": True}, "layout", "patch_size True"),
        ({"channels": 2.0}, "layout", "channels 2.0"),
        ({"channels": 2**31}, "layout", "channels 2147483648"),
        ({"dtype": ["bfloat16"]}, "layout", "dtype"),
        ({"dtype": "float64"}, "layout", "dtype float64"),
        ({"whitened": 1}, "is_whitened", "whitened 1"),
        ({"whitening": [1]}, "whitening", "not 2 finite numbers each"),
        ({"whitening": {"mean": [0, 0], "std": [1]}}, "whitening", "not 2 finite numbers each"),
        ({"whitening": {"mean": [0, 0], "std": [1, 10**39]}}, "whitening", "not 2 finite numbers each"),
        ({"whitening": {"mean": [0, 0], "std": [1, "1"]}}, "whitening", "not 2 finite numbers each"),
        ({"model": None}, "model", "no model"),
        ({"model": {**MODEL, "source": "elsewhere"}}, "model", "no model"),
        ({"model": {**MODEL, "source": []}}, "model", "no model"),
        ({"model": {**MODEL, "revision": 5}}, "model", "no model"),
        ({"model": {**MODEL, "weights_sha256": None}}, "model", "no model"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_the_reason(
    changes: dict[str, Any], looked_up: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        getattr(record(**changes), looked_up)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 0


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {"a": nested(32)},
        json.loads("[" * 900 + "]" * 900),
        {"a": json.loads("[" * 900 + "]" * 900)},
        {"a": float("nan")},
        {"a": [json.loads("1e999")]},
        {"a": "x" * (1 << 20)},
    ],
    ids=lambda value: f"{value!s:.20}",
)
def test_what_is_no_record_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"settings|JSON"):
        Provenance.from_json(value)


def test_a_record_may_be_nested_as_deep_as_is_said() -> None:
    value = {"a": nested(31)}
    assert Provenance.from_json(value).to_json() == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(field=st.sampled_from(sorted(FIELDS)), value=json_values)
def test_nonsense_in_a_record_is_kept_and_costs_only_what_is_looked_up(field: str, value: Any) -> None:
    try:
        made = record(**{field: value})
    except ValueError:
        return
    assert made.to_json() == {**FIELDS, field: value}
    made.differences(record())
    for name in LOOKED_UP:
        with suppress(ValueError):
            getattr(made, name)
