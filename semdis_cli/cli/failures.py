"""Errors and signals -> one line on stderr and an exit code."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from semdis_cli.cli.report import one_line
from semdis_cli.cli.streams import OutputClosedError, say
from semdis_cli.errors import ExitCode, SemdisError
from semdis_cli.files.atomic import explain_refusal
from semdis_cli.files.disk import is_of_disk


class InterruptedRunError(BaseException):
    """The run was asked to stop by a signal. What is published stays.

    No `Exception`: it may be raised between any two lines, those of others that catch all of these and go on included.
    """

    def __init__(self, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name}; run the same command again: "
            "encode, decode, export, import and train go on where they were"
        )
        self.exit_code = ExitCode.INTERRUPTED if signal_number == signal.SIGINT else ExitCode.TERMINATED


def run_guarded(app: Callable[[], object]) -> None:
    """Run the command line; a `SemdisError` becomes one line and its exit code, our own faults keep their traceback.

    So does a file that the disk or its permissions keep from us, wherever it was touched.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except OutputClosedError as error:  # the reader of our results has gone: nobody is left to tell
        sys.exit(error.exit_code)
    except (SemdisError, InterruptedRunError) as error:
        _end(error)
    except OSError as error:
        if error.filename is None or not is_of_disk(error):
            raise
        _end(explain_refusal(Path(os.fsdecode(error.filename)), error))
    except RuntimeError as error:
        stopped = error.__context__  # where a signal came between two steps of Python's own locks
        if not isinstance(stopped, InterruptedRunError):
            raise
        _end(stopped)


def _end(error: SemdisError | InterruptedRunError) -> NoReturn:
    say(f"semdis: {one_line(str(error))}")
    sys.exit(error.exit_code)


def _stop(number: int, _frame: FrameType | None) -> None:
    """First signal: unwind, so that the open shard's temporary file goes. A second one ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise InterruptedRunError(number)
