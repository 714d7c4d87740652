"""What all tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any speed", deadline=None)  # a busy machine is no fault
settings.load_profile("any speed")

# The longest: a process of `make test` that takes one of them last works on alone.
FIRST = ("tests/cli/test_train.py", "tests/pipeline/test_resume.py", "tests/torture/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and skip the tests marked `gpu` where there is no CUDA device."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # only now: a run without such tests need not wait for it

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model; not to be changed."""
    from tests.worlds import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def finished_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small set of `tests.store`, written without a break; not to be changed."""
    from tests.store import write_set

    root = tmp_path_factory.mktemp("sets") / "finished"
    write_set(root)
    return root


@pytest.fixture(scope="session")
def unfinished_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All shards of that set, but no index and no manifest; not to be changed."""
    from tests.store import write_some

    root = tmp_path_factory.mktemp("sets") / "unfinished"
    write_some(root)
    return root
