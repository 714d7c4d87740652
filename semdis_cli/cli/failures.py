"""Errors and stops -> one line on stderr and an exit code."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from semdis_cli.cli.report import one_line
from semdis_cli.cli.streams import OutputClosedError, say
from semdis_cli.errors import SemdisError
from semdis_cli.files.atomic import explain_refusal
from semdis_cli.files.disk import is_of_disk
from semdis_cli.stops import StoppedError, listen, settle


def run_guarded(app: Callable[[], object]) -> None:
    """Run the command line; a `SemdisError` becomes one line and its exit code, our own faults keep their traceback.

    So does a file that the disk or its permissions keep from us, wherever it was touched.
    """
    listen()
    try:
        try:
            app()
        finally:
            settle()  # whatever it came to has been said
    except OutputClosedError as error:  # the reader of our results has gone: nobody is left to tell
        sys.exit(error.exit_code)
    except (SemdisError, StoppedError) as error:
        _end(error)
    except OSError as error:
        if error.filename is None or not is_of_disk(error):
            raise
        _end(explain_refusal(Path(os.fsdecode(error.filename)), error))


def _end(error: SemdisError | StoppedError) -> NoReturn:
    say(f"semdis: {one_line(str(error))}")
    sys.exit(error.exit_code)
