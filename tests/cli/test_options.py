"""Options whose text is read by ourselves: it is what it says, or wrong usage."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.cli.options import parse_number_or_share
from semdis_cli.cli.setup import error_limit
from semdis_cli.errors import UsageError


@given(st.integers(0, 10**18 - 1))
def test_a_number_is_a_number(count: int) -> None:
    assert parse_number_or_share(str(count), "--max-errors") == (Fraction(count), False)


@given(st.decimals(0, 100, places=3))
def test_a_share_is_exact(percent: object) -> None:
    assert parse_number_or_share(f"{percent}%", "--max-errors") == (Fraction(str(percent)), True)


BAD = [
    "",
    " 1",
    "1 ",
    "-1",
    "+1",
    "1.5",
    "%",
    "1%%",
    "101%",
    "100.1%",
    ".5%",
    "5.%",
    "1e3",
    "nan",
    "inf%",
    "1/2%",
    "1_0",
]


@pytest.mark.parametrize("text", [*BAD, "\u0663", "1\n", "9" * 5000, "9" * 5000 + "%"])
@pytest.mark.parametrize("option", ["--max-errors", "--sample"])
def test_anything_else_is_a_usage_error_that_names_the_option(text: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} is ") as caught:
        parse_number_or_share(text, option)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=8))
def test_whatever_is_written_there_is_a_number_a_share_or_a_usage_error(text: str) -> None:
    try:
        value, is_share = parse_number_or_share(text, "--sample")
    except UsageError:
        return
    assert 0 <= value <= (100 if is_share else 10**18)


def test_a_limit_keeps_what_was_written() -> None:
    limit = error_limit("05.0%")
    assert limit is not None
    assert (limit.text, limit.value, limit.is_share) == ("05.0%", Fraction(5), True)
    assert error_limit(None) is None
