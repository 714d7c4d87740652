"""Pictures in a terminal."""

import sys

import numpy as np
import pytest

from semdis_cli.cli.half_blocks import can_show, show_pair


@pytest.mark.parametrize(("height", "num_lines"), [(1, 1), (2, 1), (3, 2), (6, 3)])
def test_every_row_is_shown_the_last_of_an_odd_number_too(
    height: int, num_lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.zeros((height, 5, 3), np.uint8)
    show_pair(picture, picture)
    assert [line.count("\u2580") for line in capsys.readouterr().out.splitlines()] == [10] * num_lines


@pytest.mark.parametrize(
    ("variables", "is_shown"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"COLUMNS": "20"}, False)],
)
def test_a_terminal_without_colours_has_no_pictures(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_shown: bool
) -> None:
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color", "COLUMNS": "80"} | variables).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert can_show() == is_shown
