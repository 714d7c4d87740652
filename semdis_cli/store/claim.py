"""An output folder of images: claimed by a marker file that says what made them, before the first one is written."""

import json
from pathlib import Path
from typing import Any

from semdis_cli.atomic import make_folder, publish
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.store.latent_set import describe_differences


def claim_folder(folder: Path, marker: str, settings: dict[str, Any]) -> bool:
    """Make `folder` ours, with `settings` recorded in the file `marker`; True if an earlier equal run did so.

    Raises `UsageError` if the folder holds anything else, so that nothing of anybody's is overwritten.
    """
    make_folder(folder)
    path = folder / marker
    if not path.exists():
        if any(folder.iterdir()):
            raise UsageError(f"{folder}: not empty, and not from an earlier run of this command; give -o a new folder")
        publish(path, [json.dumps(settings, sort_keys=True, indent=1).encode() + b"\n"])
        return False
    try:
        before = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); give -o a new folder") from error
    differences = describe_differences(before, json.loads(json.dumps(settings)))
    if differences:
        raise UsageError(f"{folder}: made with other settings ({'; '.join(differences)}); give -o a new folder")
    return True
