"""Stopping a run of which too much fails: a wrong folder or a broken disk shows long before the end."""

from collections.abc import Generator, Iterator

from semdis_cli.errors import TooManyFailuresError
from semdis_cli.events import Event, Failure, RunStarted
from semdis_cli.settings import ErrorLimit


def within_limit(events: Iterator[Event], limit: ErrorLimit | None, *, goes_on: bool = True) -> Iterator[Event]:
    """Hand on the events of a run until more inputs have failed than `limit` allows; None: all of them.

    Inputs that failed in shards of an earlier run count, and those that are known to be unusable before anything is
    computed; one that is reported twice counts once. Raises `TooManyFailuresError` after the run was unwound: what it
    has published stays, a shard that is not full is dropped. `goes_on`: the same run again would continue where this
    one stopped.
    """
    if limit is None:
        yield from events
        return
    num_inputs, num_before = 0, 0
    failed: set[str] = set()  # never much larger than the limit
    try:
        for event in events:
            yield event
            if isinstance(event, RunStarted):
                num_inputs, num_before = event.num_images, event.num_failed_before
            elif isinstance(event, Failure):
                failed.add(event.key)
            if limit.is_exceeded(num_before + len(failed), num_inputs):
                raise _too_many(num_before + len(failed), num_inputs, limit, goes_on=goes_on)
    finally:
        if isinstance(events, Generator):
            events.close()


def _too_many(num_failed: int, num_inputs: int, limit: ErrorLimit, *, goes_on: bool) -> TooManyFailuresError:
    failed = f"{num_failed:,} of {num_inputs:,} inputs failed, more than --max-errors {limit.text} allows"
    if goes_on:
        remedy = "what is done is kept: the same command with a larger --max-errors goes on"
    else:
        remedy = "mend them, or run it again with a larger --max-errors"
    return TooManyFailuresError(f"{failed}; {remedy}")
