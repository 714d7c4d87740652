"""Several files published at once: all are synced, in one call where the disk has it, before any has its name."""

import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from semdis_cli.errors import RefusedNameError, SemdisError, UsageError
from semdis_cli.files import disk, disk_sync
from semdis_cli.files.atomic import explain_write_error, explaining, make_folder, refused_name


class Publisher:
    """Publishes files below `root`, which exists, many at once. Safe to use in several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._syncs_disks = True

    def publish(self, files: Sequence[tuple[Path, bytes]]) -> list[RefusedNameError | None]:
        """Write each (path, data), replacing what was there, so that a reader sees all of it or none; make its folder.

        Returns for each file why it is not there, where the disk does not take its name, but takes others. Raises
        `NoSpaceError` and `UsageError` as `atomic.publish` does, once those that were whole by then have their names.
        """
        with _Group(self._root, self._syncs_disks) as group:
            try:
                group.write(files)
            finally:
                self._syncs_disks = group.sync() <= disk_sync.LONGEST_SYNC_S and self._syncs_disks
                group.give_names()
        return [group.refused.get(number) for number in range(len(files))]


@dataclass
class _Group:
    """Files that get their names together. Use as a context manager: those that have none by then are removed.

    `syncs_disks`: a disk is synced as a whole where it can be. `written`: the path and the temporary one of each file
    by its number; `refused`: the errors of those whose names the disk does not take.
    """

    root: Path
    syncs_disks: bool
    written: dict[int, tuple[Path, Path]] = field(default_factory=dict)
    refused: dict[int, RefusedNameError] = field(default_factory=dict)
    _token: str = field(default_factory=lambda: secrets.token_hex(6))
    _temporaries: set[Path] = field(default_factory=set)
    _folders: dict[Path, int | None] = field(default_factory=dict)  # the descriptor of the disk of each
    _disks: dict[int, int | None] = field(default_factory=dict)  # by the number that the system has for each

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open_disks:
            os.close(descriptor)
        for temporary in self._temporaries:
            with suppress(OSError):  # why is said already
                temporary.unlink()

    def write(self, files: Sequence[tuple[Path, bytes]]) -> None:
        """Write files under temporary names."""
        for number, (path, data) in enumerate(files):
            try:
                self._write(number, path, data)
            except OSError as error:
                self._refuse(number, path, explain_write_error(path, error), error)
            except UsageError as error:  # of its folder
                self._refuse(number, path, error, error.__cause__)

    def _write(self, number: int, path: Path, data: bytes) -> None:
        descriptor = self._disk_of(path.parent)
        temporary = path.parent / f".{self._token}{number:04x}{disk.TEMP_SUFFIX}"
        with temporary.open("xb") as file:
            self._temporaries.add(temporary)
            file.write(data)
            if descriptor is None:
                file.flush()
                disk.sync_file(file.fileno())
        self.written[number] = path, temporary

    def _refuse(self, number: int, path: Path, error: SemdisError, cause: BaseException | None) -> None:
        """Note that the disk does not take the name of a file, or raise `error`."""
        refused = refused_name(self.root, path, cause)
        if refused is None:
            raise error from cause
        self.refused[number] = refused

    def sync(self) -> float:
        """Wait until all that was written is safe; returns the seconds that it took."""
        started = time.monotonic()
        for descriptor in self._open_disks:
            with explaining(self.root):
                disk_sync.sync_disk(descriptor)
        return time.monotonic() - started

    def give_names(self) -> None:
        """Give each file that was written its name, for good."""
        for number, (path, temporary) in self.written.items():
            try:
                disk.replace(temporary, path)
                self._temporaries.discard(temporary)
            except OSError as error:
                self._refuse(number, path, explain_write_error(path, error), error)
        for folder in self._folders:
            with explaining(folder):
                disk.sync_folder(folder)

    @property
    def _open_disks(self) -> list[int]:
        return [descriptor for descriptor in self._disks.values() if descriptor is not None]

    def _disk_of(self, folder: Path) -> int | None:
        """Make a folder, and open its disk to sync it; None where that cannot be done."""
        if folder not in self._folders:
            make_folder(folder)
            with explaining(folder):
                number = folder.stat().st_dev
            if number not in self._disks:
                self._disks[number] = disk_sync.open_disk(folder) if self.syncs_disks else None
            self._folders[folder] = self._disks[number]
        return self._folders[folder]
