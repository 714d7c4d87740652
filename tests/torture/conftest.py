"""One world for all the torture."""

from collections.abc import Iterator

import pytest

from tests.torture.points import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A tiny model, a few images, and the situations in which runs are broken."""
    world = World(tmp_path_factory.mktemp("torture") / "world")
    yield world
    world.close()
