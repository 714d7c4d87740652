"""Disks on which one can see what is synced, and when."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.files import disk_sync

Patch = pytest.MonkeyPatch
SYNCED_WHOLE, ONE_BY_ONE = "a disk that is synced as a whole", "a disk whose files are synced one by one"


@pytest.fixture(params=[SYNCED_WHOLE, ONE_BY_ONE])
def syncs(request: pytest.FixtureRequest, monkeypatch: Patch) -> list[str]:
    """What happens to the disk, in order: `sync` of all of it or of a file, `rename`, `sync folder`; on either disk."""
    calls: list[str] = []

    def noting(what: Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            calls.append(what(*arguments))
            return call(*arguments)

        return noted

    if request.param == ONE_BY_ONE:
        monkeypatch.setattr(disk_sync, "open_disk", lambda _: None)
    else:
        monkeypatch.setattr(disk_sync, "open_disk", lambda folder: os.open(folder, os.O_RDONLY))
        monkeypatch.setattr(disk_sync, "sync_disk", lambda _: calls.append("sync"))
    monkeypatch.setattr(os, "fsync", noting(lambda one: "sync folder" if is_folder(one) else "sync", os.fsync))
    monkeypatch.setattr(os, "replace", noting(lambda *_: "rename", os.replace))
    return calls


def is_folder(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").is_dir()
