"""Time of a CUDA device: counted where networks compute, and only there."""

import pytest
import torch

from semdis_cli.model.device_time import collecting, computing
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import TokenizerSettings
from tests.worlds import tiny_model

IMAGES = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)


def tokenizer(device: str) -> Tokenizer:
    settings = TokenizerSettings(device, "float32", batch_size=2)
    return Tokenizer(tiny_model(), ModelIdentity("tiny", "folder", None, "", ""), settings)


def test_what_a_cpu_computes_is_no_time_of_a_device() -> None:
    with collecting() as collected:
        with computing(torch.device("cpu")):
            torch.ones(3).sum()
        tokenizer("cpu").encode(IMAGES, ["a", "b"])
    assert collected.seconds() is None


@pytest.mark.gpu
def test_encoding_and_decoding_take_time_of_the_device() -> None:
    on_device = tokenizer("cuda")
    with collecting() as collected:
        latents = on_device.encode(IMAGES, ["a", "b"])
    encoding = collected.seconds()
    assert encoding is not None
    assert encoding > 0
    with collecting() as collected:
        on_device.decode(latents, ["a", "b"])
    assert collected.seconds() is not None
    on_device.decode(latents, ["a", "b"])  # nobody collects
