"""The help of every command, as it was agreed: flags, types, limits, defaults, panels and their order."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.conftest import Run

HELP = Path(__file__).parent / "help"
PINNED = re.search(r"^typer==(.+)$", (Path(__file__).parents[2] / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.skipif(PINNED is None or version("typer") != PINNED[1], reason="other versions of Typer draw it otherwise")
@pytest.mark.parametrize("verb", sorted(path.stem for path in HELP.iterdir()))
def test_the_help_of_a_command_is_what_it_was(run: Run, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("SEMDIS_MODEL", raising=False)
    done = run(verb, "--help")
    assert done.code == 0
    assert done.stdout == (HELP / f"{verb}.txt").read_text(encoding="utf-8")
