"""When a command looks for garbage: while it runs, but not while it loads, nor at its end.

What is loaded (torch above all) stays, and is large: looking through it again and again, and once more at the end,
takes half a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_late() -> Iterator[None]:
    """Collect no garbage until `collect` is called, and none at the end of the process."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()


def collect() -> None:
    """Collect garbage from now on, but for all that is there already."""
    gc.freeze()
    gc.enable()
