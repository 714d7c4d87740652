"""Stdout and stderr that keep a run alive: results must arrive or the command says so, messages need not.

`install` puts both in the place of Python's own, so that all that writes there (Rich and its thread, Typer, warnings,
tracebacks) is met by one policy. Stderr never raises and never blocks for long. Stdout has no buffer: what a full disk
refused would be tried again while Python ends, and change the exit code.
"""

import codecs
import errno
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TextIO

from semdis_cli.errors import ExitCode, SemdisError, UsageError
from semdis_cli.files.atomic import explain_write_error
from semdis_cli.stops import at_once

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PATIENCE_S = 2.0  # for which a message waits for a terminal or reader that takes nothing
_MOST_MESSAGES_HELD = 256  # for one that takes nothing now, and may later
_ERRORS = "semdis-escape"


class OutputClosedError(SemdisError):
    """Nobody reads our stdout any more, as in `semdis roundtrip photos | head -1`."""

    exit_code = ExitCode.OUTPUT_CLOSED


def install() -> None:
    """Take over stdout and stderr; descriptors 0 to 2 that the caller has closed lead nowhere from now on.

    A file that gets one of these numbers would receive what libraries print. Streams without a descriptor, as tests put
    there, are kept.
    """
    codecs.register_error(_ERRORS, _escape)
    for descriptor in range(3):
        _occupy(descriptor)
    sys.stdout = _taken_over(sys.stdout, 1, _Results)
    sys.stderr = _taken_over(sys.stderr, 2, _Messages)


def say(line: str) -> None:
    """One line on stderr."""
    _write_line(sys.stderr, line)


def put(line: str) -> None:
    """One line of results on stdout. Raises `OutputClosedError` if nobody reads it, and what a full disk raises."""
    _write_line(sys.stdout, line)


def put_bytes(data: bytes) -> None:
    """Data on stdout, at once. Raises what `put` raises."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def check_stdout_takes_data() -> None:
    """Raise `UsageError` if stdout is closed, or a terminal, which data would only confuse."""
    if sys.stdout is None or getattr(sys.stdout.buffer, "was_closed", False):
        raise UsageError("stdout is closed; give -o a folder")
    if sys.stdout.isatty():
        raise UsageError("data is not written to a terminal; send stdout to a file or a pipe, or give -o a folder")


def _write_line(stream: TextIO | None, line: str) -> None:
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()


def _occupy(descriptor: int) -> None:
    """Open the null device under that number, the lowest that is free, if it is not open."""
    try:
        os.fstat(descriptor)
    except OSError:
        with suppress(OSError):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _taken_over(stream: TextIO | None, descriptor: int, make: "Callable[[int, bool], io.RawIOBase]") -> TextIO:
    """`stream` with one of our policies; None is a stream that the caller closed."""
    if stream is None:
        return io.TextIOWrapper(make(descriptor, True), "utf-8", _ERRORS, write_through=True)  # type: ignore[type-var]
    try:
        found = stream.fileno()
    except (OSError, ValueError):
        stream.reconfigure(errors=_ERRORS)  # type: ignore[attr-defined]
        return stream
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(make(found, False), stream.encoding, _ERRORS, write_through=True)  # type: ignore[type-var]


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of file names as they are, all else that the charset lacks by its code point, as Python's stderr has it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return b"".join(map(_escaped, missing)), error.end


def _escaped(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00])
    return character.encode("ascii", "backslashreplace")


class _Stream(io.RawIOBase):
    """A descriptor that is written to. `was_closed`: the caller did not give us one, so nothing can be said there."""

    def __init__(self, descriptor: int, was_closed: bool) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.was_closed = was_closed
        self._is_terminal = not was_closed and os.isatty(descriptor)

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """As it was at the beginning: of one that has gone, the system says no."""
        return self._is_terminal

    def fileno(self) -> int:
        """Its number."""
        return self._descriptor

    def _write_some(self, data: memoryview) -> int:
        """Write what can be written, at least one byte; wait where the descriptor does not. Raises `OSError`."""
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                select.select([], [self._descriptor], [])

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[self._write_some(data) :]


class _Results(_Stream):
    """Stdout: raises `OutputClosedError` if the reader has gone, else what `explain_write_error` makes of it.

    A terminal that has gone away is nobody's loss: the run goes on without it, like one without messages.
    """

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        try:
            with at_once():  # a pipe that nobody reads from
                self._write_all(view)
        except BrokenPipeError as error:
            raise OutputClosedError("the reader of the output has gone") from error
        except OSError as error:
            if not (self._is_terminal and error.errno == errno.EIO):
                raise explain_write_error(Path("stdout"), error) from error
        return len(view)


class _Messages(_Stream):
    """Stderr: whatever happens to it, the run goes on. A thread of its own writes, which alone a full pipe holds up."""

    def __init__(self, descriptor: int, was_closed: bool) -> None:
        super().__init__(descriptor, was_closed)
        self._waiting: SimpleQueue[tuple[bytes, threading.Lock]] = SimpleQueue()
        self._is_stuck = False
        threading.Thread(target=self._work, name="semdis-messages", daemon=True).start()

    def write(self, data: "ReadableBuffer", /) -> int:
        """Have `data` written, and wait until it is, but not for long; lost if nothing was taken for a long time."""
        message = bytes(data)
        if self._waiting.qsize() < _MOST_MESSAGES_HELD:
            is_written = threading.Lock()
            is_written.acquire()
            self._waiting.put((message, is_written))
            if not self._is_stuck and not is_written.acquire(timeout=_PATIENCE_S):
                self._is_stuck = True
        return len(message)

    def _work(self) -> None:
        while True:
            message, is_written = self._waiting.get()
            with suppress(OSError):
                self._write_all(memoryview(message))
            self._is_stuck = False
            is_written.release()
