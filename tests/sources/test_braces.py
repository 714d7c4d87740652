"""Brace notation in the names of sources."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.sources.braces import expand_braces


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{00000..00002}.tar", ["00000.tar", "00001.tar", "00002.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("a{}b", ["a{}b"]),
        ("{one}.tar", ["{one}.tar"]),
        ("{a..c}", ["{a..c}"]),
        ("plain.tar", ["plain.tar"]),
        ("{a}{0..1}", ["{a}0", "{a}1"]),
    ],
)
def test_names_with_braces_stand_for_what_shells_make_of_them(name: str, expected: list[str]) -> None:
    assert expand_braces([Path(name), Path("x")]) == (*map(Path, expected), Path("x"))


def test_a_name_that_exists_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "{0..3}"
    path.mkdir()
    assert expand_braces([path]) == (path,)


@pytest.mark.parametrize("name", ["{0..999999999999999999}", "{000000..999999}{000000..999999}", "{0..9}" * 30])
def test_too_many_are_refused_at_once(name: str) -> None:
    with pytest.raises(UsageError, match="name a folder instead"):
        expand_braces([Path(name)])


@given(st.text(st.sampled_from("{}0129.,a/"), max_size=12))
def test_any_name_stands_for_some_sources_or_is_refused(name: str) -> None:
    try:
        assert expand_braces([Path(name)])
    except UsageError as error:
        assert "too many" in str(error) or "stands for" in str(error)  # noqa: PT017 (only some are too many)
