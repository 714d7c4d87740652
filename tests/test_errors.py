"""Errors say place and reason apart."""

import copy
from pathlib import Path

import pytest

from semdis_cli.errors import CheckpointError, SemdisError, StoreError, UsageError

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
