"""Files that have their names at once, and are made safe later, all that were written since at a time."""

import os
import time
import weakref
from contextlib import suppress
from pathlib import Path
from threading import Lock

from semdis_cli.errors import SemdisError
from semdis_cli.files import disk, disk_sync
from semdis_cli.files.atomic import explaining


class LateFiles:
    """Writes files into `folder`, which exists. Safe to use in several threads. Methods raise as `atomic.publish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsafe: set[Path] = set()
        self._lock, self._settling = Lock(), Lock()
        self._disk, self._is_quick = disk_sync.open_disk(folder), True
        if self._disk is not None:
            weakref.finalize(self, os.close, self._disk)

    def write(self, path: Path, data: bytes) -> None:
        """Write `data` to `path`, replacing what was there, so that a reader sees all of it or none.

        A power cut may take it, or leave it torn, until `settle` has returned.
        """
        temporary = disk.new_temporary(self._folder)
        try:
            with explaining(path):
                temporary.write_bytes(data)
                disk.replace(temporary, path)
        finally:
            with suppress(OSError):  # gone with the rename; why is said already
                temporary.unlink()
        with self._lock:
            self._unsafe.add(path)

    def link(self, path: Path, target: Path) -> bool:
        """Give the file at `path` another name, `target`; False where the disk cannot. As safe as what is written."""
        if not disk.try_link(path, target):
            return False
        with self._lock:
            self._unsafe.add(target)
        return True

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        with self._lock:
            self._unsafe.discard(path)
        with explaining(path):
            path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Wait until all that was written before is safe: by one sync of the disk, where that is not slow."""
        with self._settling:  # whoever comes second waits for what the first has taken upon itself
            with self._lock:
                unsafe, self._unsafe = self._unsafe, set()
            try:
                with explaining(self._folder):
                    self._sync(unsafe)
            except SemdisError:
                with self._lock:
                    self._unsafe |= unsafe
                raise

    def _sync(self, paths: set[Path]) -> None:
        if not paths:
            return
        if self._disk is not None and self._is_quick:
            started = time.monotonic()
            disk_sync.sync_disk(self._disk)
            self._is_quick = time.monotonic() - started <= disk_sync.LONGEST_SYNC_S
            return
        for path in paths:
            with suppress(FileNotFoundError), path.open("rb") as file:
                disk.sync_file(file.fileno())
        disk.sync_folder(self._folder)
