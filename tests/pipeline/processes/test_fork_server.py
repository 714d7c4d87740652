"""The process from which others are forked."""

import importlib

import pytest

from semdis_cli.pipeline.processes import fork_server


@pytest.mark.parametrize("name", fork_server._LOADED_EARLY)
def test_what_is_loaded_early_is_there(name: str) -> None:
    """A name that is none would be passed over in silence, and each process load all by itself."""
    assert importlib.import_module(name).__name__ == name
