"""How many failures a run bears: counting against the limit, and letting go of the run in good order."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import ExitCode, TooManyFailuresError
from semdis_cli.events import Event, Failure, RunStarted
from semdis_cli.pipeline.limits import within_limit
from semdis_cli.settings import ErrorLimit


def limit_of(text: str) -> ErrorLimit:
    """`10` or `0.5%` as a limit."""
    return ErrorLimit(text, Fraction(text.removesuffix("%")), is_share=text.endswith("%"))


@given(st.integers(0, 10**18 - 1))
def test_a_number_is_a_number_of_inputs(count: int) -> None:
    limit = limit_of(str(count))
    assert not limit.is_exceeded(count, 0)
    assert limit.is_exceeded(count + 1, 10**19)


@given(st.decimals(0, 100, places=3), st.integers(0, 10**9), st.data())
def test_a_share_is_counted_exactly(percent: object, num_inputs: int, data: st.DataObject) -> None:
    limit = limit_of(f"{percent}%")
    num_failed = data.draw(st.integers(0, num_inputs))
    thousandths = Fraction(str(percent)) * 1000
    assert limit.is_exceeded(num_failed, num_inputs) == (num_failed * 100_000 > thousandths * num_inputs)


@pytest.mark.parametrize(
    ("text", "num_inputs", "most"),
    [("0", 50, 0), ("10", 50, 10), ("1%", 50, 0), ("1%", 200, 2), ("0.5%", 1000, 5), ("33.3%", 3, 0), ("100%", 7, 7)],
)
def test_a_limit_is_the_most_that_may_fail(text: str, num_inputs: int, most: int) -> None:
    limit = limit_of(text)
    assert not limit.is_exceeded(most, num_inputs)
    assert limit.is_exceeded(most + 1, num_inputs)


class Run:
    """Events of a run of 100 inputs, and whether it was unwound before anybody heard of its end."""

    def __init__(self, keys: list[str], num_failed_before: int = 0) -> None:
        self._keys = keys
        self._num_failed_before = num_failed_before
        self.is_closed = False
        self.num_given = 0

    def events(self) -> Iterator[Event]:
        try:
            yield RunStarted(100, 0, 1.0, self._num_failed_before)
            for key in self._keys:
                self.num_given += 1
                yield Failure(key, "bad")
        finally:
            self.is_closed = True


def test_the_failure_that_is_one_too_many_is_still_told_and_the_run_is_unwound() -> None:
    run = Run(["a", "b", "c", "d"])
    seen: list[Event] = []
    with pytest.raises(TooManyFailuresError) as caught:
        seen.extend(within_limit(run.events(), limit_of("2")))
    assert caught.value.exit_code == ExitCode.SOME_FAILED
    assert str(caught.value).startswith("3 of 100 inputs failed, more than --max-errors 2 allows")
    assert run.is_closed
    assert run.num_given == 3
    assert [event.key for event in seen if isinstance(event, Failure)] == ["a", "b", "c"]


def test_just_as_many_as_allowed_are_no_reason_to_stop() -> None:
    run = Run(["a", "b"])
    assert len(list(within_limit(run.events(), limit_of("2")))) == 3
    assert len(list(within_limit(run.events(), None))) == 3


def test_an_input_that_is_reported_twice_counts_once() -> None:
    run = Run(["a", "a", "b"])
    assert len(list(within_limit(run.events(), limit_of("2")))) == 4


def test_failures_of_an_earlier_run_count() -> None:
    with pytest.raises(TooManyFailuresError, match="4 of 100"):
        list(within_limit(Run(["a", "b"], num_failed_before=3).events(), limit_of("3")))


def test_a_listener_that_leaves_early_unwinds_the_run() -> None:
    run = Run(["a", "b"])
    events = within_limit(run.events(), limit_of("2"))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert run.is_closed
