"""Errors say place and reason apart."""

import ast
import copy
from pathlib import Path

import pytest

import semdis_cli
from semdis_cli import errors
from semdis_cli.errors import CheckpointError, SemdisError, StoreError, UsageError

ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, SemdisError)}
DAMAGED = StoreError("is damaged: all of it", place=Path("set") / "a: b")


def test_a_message_is_the_place_and_the_reason() -> None:
    assert str(DAMAGED) == "set/a: b: is damaged: all of it"
    assert (DAMAGED.place, DAMAGED.reason) == ("set/a: b", "is damaged: all of it")
    assert (str(UsageError("no")), UsageError("no").place) == ("no", None)


def test_beside_the_place_that_it_is_about_only_the_reason_is_said() -> None:
    assert DAMAGED.beside("set/a: b") == DAMAGED.beside(Path("set/a: b")) == "is damaged: all of it"
    assert DAMAGED.beside("set/a") == str(DAMAGED)
    assert UsageError("no").beside("set") == "no"


@pytest.mark.parametrize("error", [DAMAGED, CheckpointError("no config")])
def test_more_may_be_said_at_the_end(error: SemdisError) -> None:
    longer = error.adding("; remove it")
    assert type(longer) is type(error)
    assert (str(longer), longer.place) == (f"{error}; remove it", error.place)


def test_a_copy_made_as_for_another_process_says_the_same() -> None:
    again = copy.copy(DAMAGED)
    assert (type(again), str(again)) == (StoreError, str(DAMAGED))
    assert (again.place, again.reason) == (DAMAGED.place, DAMAGED.reason)


def glued(source: str) -> list[str]:
    """The errors in `source` whose text is made of a place, a colon and a reason."""
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords
    ]
    found = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ERRORS]
    return [ast.unparse(call) for call in found if begins_with_a_place(call.args[0])]


def begins_with_a_place(text: ast.expr) -> bool:
    parts = text.values[:2] if isinstance(text, ast.JoinedStr) else []
    match parts:
        case [ast.FormattedValue(conversion=-1, format_spec=None), ast.Constant(value=str(then))]:
            return then.startswith(": ")
    return False


def test_no_error_has_its_place_in_its_text() -> None:
    assert glued('raise StoreError(f"{path}: is damaged")') == ["StoreError(f'{path}: is damaged')"]
    assert glued('raise StoreError(f"{key!r}: is damaged", place=path)') == []
    package = Path(semdis_cli.__file__).parent
    assert {path.name: found for path in package.rglob("*.py") if (found := glued(path.read_text("utf-8")))} == {}
