"""A server for all tests here, and `semdis` in this process, which talks to it."""

import os
from collections.abc import Iterator

import pytest

from tests.cli.conftest import run as run  # noqa: PLC0414 # a fixture is found by its name
from tests.stores import S3Server, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """S3 on loopback; this process reads its address from the environment."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setitem(os.environ, name, value)
        yield server
