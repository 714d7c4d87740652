"""Untrusted bytes, and the readers of the store that are put to them."""

from collections.abc import Callable
from pathlib import Path

from semdis_cli.errors import StoreError


def refusal(door: Callable[[Path], object], path: Path) -> str:
    """Why a shard or a set is refused, by its name or that of a file in it; empty if it is not."""
    try:
        door(path)
    except StoreError as error:
        said = str(error)
    else:
        return ""
    assert said.startswith((f"{path}: ", f"{path}/"))
    return said.removeprefix(f"{path}: ")
