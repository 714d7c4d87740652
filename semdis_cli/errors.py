"""Errors: one exception family, and the exit code each kind ends the command with.

A user's fault is a `SemdisError`: one line that says what is wrong, which file it is, and what to do. A bad image
inside a run is not an exception but a `events.Failure`. Anything else that is raised is our bug and keeps its
traceback.
"""

from enum import IntEnum
from os import PathLike
from typing import Self


class ExitCode(IntEnum):
    """Exit status of every `semdis` command. Zero only if every input is accounted for."""

    OK = 0
    BUG = 1
    USAGE = 2
    SOME_FAILED = 3
    BAD_DATA = 4
    NO_SPACE = 5
    PROCESS_KILLED = 6
    BUSY = 7
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141
    TERMINATED = 143


class SemdisError(Exception):
    """Base of all errors that are not our bug: a `reason`, and the `place` that it is about (a file, a folder, a line).

    `str(error)` is one line, ready for a terminal: the place, if one is given, a colon and the reason.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, reason: str, *, place: PathLike[str] | str | None = None) -> None:
        super().__init__(reason if place is None else f"{place}: {reason}")
        self.reason = reason
        self.place = None if place is None else str(place)

    def adding(self, more: str) -> Self:
        """Return the same error with `more` at the end of its reason."""
        return type(self)(f"{self.reason}{more}", place=self.place)

    def beside(self, place: PathLike[str] | str) -> str:
        """Return what to say where `place` is told already: the reason, after the place if it is about another."""
        return self.reason if self.place == str(place) else str(self)


class UsageError(SemdisError):
    """The request cannot be carried out as it stands: a missing source, clashing options, settings that changed."""


class BusyFolderError(UsageError):
    """Another run is at work in a folder: the same command may do better later."""

    exit_code = ExitCode.BUSY


class RefusedNameError(UsageError):
    """The disk does not take the name that one image's file would have, though it takes others."""


class MissingExtraError(UsageError):
    """An optional package is not installed. The message holds the command that installs it."""


class CheckpointError(SemdisError):
    """A model folder that cannot be loaded: missing or surplus tensors, wrong shapes, not safetensors, NaN."""

    exit_code = ExitCode.BAD_DATA


class StoreError(SemdisError):
    """A shard, manifest or journal that is damaged, unfinished, or made by something else."""

    exit_code = ExitCode.BAD_DATA


class NoSpaceError(SemdisError):
    """The disk is full, or would be. What is published stays; the same command continues once there is room."""

    exit_code = ExitCode.NO_SPACE


class UnreadableImageError(SemdisError):
    """One image cannot be used; the message is the reason. The pipeline turns it into a `Failure` and goes on."""

    exit_code = ExitCode.SOME_FAILED


class TooManyFailuresError(SemdisError):
    """More inputs failed than `--max-errors` allows. What is done is kept, and the run can go on."""

    exit_code = ExitCode.SOME_FAILED


class PassingReadError(UnreadableImageError):
    """One image cannot be used now, for a reason that may pass: no memory, a failing disk, a file that changes."""


class KilledProcessError(SemdisError):
    """A process that reads or writes images was killed. What is published stays; the same command continues."""

    exit_code = ExitCode.PROCESS_KILLED


class DivergedError(SemdisError):
    """Training ran into NaN or infinity. What was saved before stays good."""

    exit_code = ExitCode.BAD_DATA
