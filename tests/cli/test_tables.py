"""Tables on terminals and elsewhere."""

import sys

import pytest

from semdis_cli.cli.tables import Section, show

ROWS = [("ten steps + PDG", "26.65", "8.000"), ("名名", "7.37", "4")]
SECTION = Section("Mean", ("", "#PSNR dB", "#Bits/pixel"), ROWS)


def be_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))


@pytest.mark.parametrize("width", [80, 46, 43, 42, 38, 37, 20])
def test_no_width_of_a_terminal_cuts_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    be_terminal(monkeypatch, width)
    show(SECTION)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("PSNR dB", "Bits/pixel", "26.65", "8.000", "7.37"))


@pytest.mark.parametrize(("width", "is_table"), [(80, True), (43, True), (30, False)])
def test_it_is_a_table_where_that_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, is_table: bool
) -> None:
    be_terminal(monkeypatch, width)
    show(SECTION)
    assert ("┃" in capsys.readouterr().out) == is_table


def test_columns_are_aligned_beside_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show(SECTION)
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.index("26.65") + 5 == second.index("7.37") + 4 + len("名名")
