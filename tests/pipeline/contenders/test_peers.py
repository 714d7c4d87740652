"""Other autoencoders as contenders, tiny ones with random weights; skipped without diffusers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from semdis_cli.errors import UnreadableImageError
from semdis_cli.model.peers import PEERS
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.contender import Contender
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.contenders.make import make_contenders
from semdis_cli.pipeline.contenders.peers import PeerContender
from semdis_cli.settings import RoundtripSettings
from semdis_cli.settings.contenders import PeerName, parse_specs
from tests.peers import save_tiny_peer
from tests.pipeline.contenders.worlds import image_of, load, noise, versions


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load(tiny)


def make(tokenizer: Tokenizer, *texts: str) -> list[Contender]:
    _, *others = make_contenders(parse_specs(texts), tokenizer, RoundtripSettings())
    return others


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_back_the_image_and_counts_its_latents(
    name: PeerName, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_tiny_peer(name, tmp_path)
    first, small, cropped = make(
        tokenizer, f"{name}={tmp_path}", f"{name}={tmp_path},store-dtype=int8", f"{name}={tmp_path},crops=16"
    )
    given = Given([image_of("a", noise(0, (33, 51))), image_of("b", noise(1, (40, 60)))])
    found = versions(first, given)
    assert [one.pixels.shape for one in found] == [(3, 33, 51), (3, 40, 60)]
    assert [one.num_bytes for one in found] == [2 * 4 * 17 * 26, 2 * 4 * 20 * 30]  # bfloat16, four channels
    assert [one.num_bytes for one in versions(small, given)] == [4 * (17 * 26 + 4), 4 * (20 * 30 + 4)]
    assert [one.num_bytes for one in versions(cropped, given)] == [one.num_bytes for one in found]
    [alone] = versions(first, Given([image_of("other.png", noise(1, (40, 60)))]))
    np.testing.assert_array_equal(found[1].pixels, alone.pixels)
    record = first.record()
    assert record["model"]["class"] == PEERS[name].class_name
    assert record["compute"]["dtype"] == "float32"
    json.dumps(record, allow_nan=False)


def test_a_peer_is_loaded_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tiny_peer("sd", tmp_path)
    one, two = make(tokenizer, f"sd={tmp_path}", f"sd={tmp_path},store-dtype=float32")
    assert isinstance(one, PeerContender)
    assert isinstance(two, PeerContender)
    assert one.published is two.published


def test_an_image_that_is_too_large_for_the_memory_is_told_so(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = save_tiny_peer("sd", tmp_path)
    [peer] = make(tokenizer, f"sd={tmp_path}")

    def refuse(*_: torch.Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(type(network), "encode", refuse)  # as torch says it
    with pytest.raises(UnreadableImageError, match="not enough memory for 32x48 px"):
        peer.reconstruct(Given([image_of("a", noise(0, (32, 48)))]))
