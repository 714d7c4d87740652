"""Packages that not every environment has: extras, and the tools of `make lint`. Without one, its tests are skipped."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SCRIPTS = Path(sys.executable).parent


def needs(*packages: str) -> None:
    """Skip the test that runs if a package is not installed. Nothing is imported."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def tool(name: str) -> str:
    """The path of a command of this environment; skips the test that runs if it is not installed."""
    if not (_SCRIPTS / name).exists():
        pytest.skip(f"not installed: {name}")
    return str(_SCRIPTS / name)
