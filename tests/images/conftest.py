"""The decoders of JPEGs, one after the other."""

from collections.abc import Iterator

import pytest

from tests.images.jpeg_decoders import decoder_alone


@pytest.fixture(params=["simplejpeg", "torchvision"])
def decoder(request: pytest.FixtureRequest) -> Iterator[str]:
    """One of the decoders alone; it cannot be loaded everywhere."""
    with decoder_alone(request.param) as name:
        yield name
