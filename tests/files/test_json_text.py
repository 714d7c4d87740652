"""Names of any bytes as Unicode text: told apart, led back, in their order, and the same as ever where they can be."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.files.json_text import escape_name, escape_text, is_strange, key_fields, strict_json, unescape_name

names = st.one_of(
    st.binary(max_size=12).map(os.fsdecode),
    st.text(st.sampled_from("a/\\é\udc80\udcff\ue07f\ue080\ue0ff\ue100\U0001f600\uffff"), max_size=8).map(
        lambda text: os.fsdecode(os.fsencode(text))
    ),
)


@given(names)
def test_every_name_has_a_text_that_is_unicode_and_leads_back(name: str) -> None:
    text = escape_name(name)
    text.encode()
    assert unescape_name(text) == name
    assert (text != name) == is_strange(name)


@given(names, names)
def test_no_two_names_have_one_text_and_the_one_of_an_escaped_name_is_escaped_too(one: str, other: str) -> None:
    assert (escape_name(one) == escape_name(other)) == (one == other)
    looks_like_it = os.fsdecode(escape_name(one).encode())
    assert looks_like_it == one or escape_name(looks_like_it) != escape_name(one)


def test_undecodable_bytes_sort_as_they_did() -> None:
    sorted_names = sorted(
        map(os.fsdecode, (b"caf", b"cafz", "café".encode(), b"caf\x80", b"caf\xe9", "caf\uff01".encode()))
    )
    assert sorted(map(escape_name, sorted_names)) == list(map(escape_name, sorted_names))


def test_ordinary_names_are_as_they_stand_and_others_say_so() -> None:
    assert key_fields("ü \\udce9 %E9 \U0001f600.png") == {"key": "ü \\udce9 %E9 \U0001f600.png"}
    assert key_fields("caf\udce9.png") == {"key": "caf\ue0e9.png", "escaped": True}
    assert key_fields("\ue0e9")["key"] == "\ue0ee\ue083\ue0a9"


def test_json_is_strict_whatever_is_in_it() -> None:
    value = {"caf\udce9": [float("nan"), float("inf"), 1.5, "\ud800", ("\udcff", None, True)]}
    text = strict_json(value)
    assert json.loads(text) == {"caf\ue0e9": [None, None, 1.5, "\ufffd", ["\ue0ff", None, True]]}
    assert "NaN" not in text
    assert strict_json({"b": "ü", "a": 1}, sort_keys=True) == json.dumps({"a": 1, "b": "ü"})
    assert escape_text("a ü \U0001f600 \ue0e9") == "a ü \U0001f600 \ue0e9"
