"""Models by name: a local folder, or a repository of the Hugging Face hub, which is fetched."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semdis_cli.errors import CheckpointError, MissingExtraError
from semdis_cli.stops import at_once
from semdis_cli.wording import first_line

_REPOSITORY_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Published:
    """A kind of model in the hub. `files`: patterns of those that are needed; `extra`: of ours, that brings the client.

    `instead`: what to give where the hub cannot be reached, after "check the name and the network, or".
    """

    files: Sequence[str]
    extra: str
    instead: str


def local_folder(name: str) -> Path | None:
    """Return the folder that `name` is the path of, if there is one."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # what no file is called: too long, a NUL byte, the home of nobody
        return None


def is_repository_id(name: str) -> bool:
    """Tell whether `name` may be that of a repository, and is not that of a local file."""
    return _REPOSITORY_ID.fullmatch(name) is not None and not os.path.exists(name)  # noqa: PTH110 # no OSError


def fetch(repo_id: str, kind: Published, *, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """Fetch a published model, or find it in the hub's cache; return its folder. The client honours offline mode.

    Raises `MissingExtraError` where the client is not installed, `CheckpointError` where the model cannot be fetched.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read by the client when it is imported
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        install = f"pip install 'semdis[{kind.extra}]'"
        raise MissingExtraError(
            f"no such folder, and reading it from the hub needs: {install}", place=repo_id
        ) from error
    wanted = list(kind.files)
    try:
        with at_once():  # minutes, or as long as the hub keeps us waiting
            return Path(snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=wanted))
    except HFValidationError as error:
        raise CheckpointError("neither a folder nor a repository id", place=repo_id) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"cannot be fetched from the hub ({first_line(error)}); check the name and the network, or {kind.instead}",
            place=repo_id,
        ) from error
