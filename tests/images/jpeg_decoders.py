"""Machines with one decoder of JPEGs, or with none but Pillow."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from semdis_cli.images.formats.jpeg import decoder


@contextmanager
def decoder_alone(name: str) -> Iterator[str]:
    """A machine with the decoder `name` and Pillow. Skips where that decoder cannot be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        for other in {"simplejpeg", "torchvision"} - {name}:
            patch.setitem(sys.modules, other, None)
        decoder._fast_decoder.cache_clear()
        try:
            if not decoder.jpeg_decoder().startswith(f"{name} "):
                pytest.skip(f"{name} cannot be loaded here")
            yield name
        finally:
            decoder._fast_decoder.cache_clear()
