"""Chance in training: new for each epoch, and the same in any process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from semdis_cli.dataset.draws import Draws
from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.errors import UsageError
from semdis_cli.parts import LATENTS_FLIP
from tests.dataset.test_dataset import SQUARE, set_by_hand
from tests.store import make_shard

KEYS = tuple(f"{number:03d}.png" for number in range(64))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "latents"
    return set_by_hand(folder, make_shard(KEYS, bucket=SQUARE, parts=[LATENTS_FLIP])).root


def flips(items: Any) -> list[bool]:
    return [bool(item.is_flipped) for item in items]


@given(seed=st.integers(0, 2**70), epoch=st.integers(0, 2**62), key=st.text(st.characters()))
def test_a_coin_is_the_same_for_the_same_seed_epoch_and_key(seed: int, epoch: int, key: str) -> None:
    one, other = Draws(seed), Draws(seed)
    one.set_epoch(epoch)
    other.set_epoch(7)
    other.coin("flip", "another key")
    other.set_epoch(epoch)
    assert one.coin("flip", key) == other.coin("flip", key)


def test_coins_are_fair_and_new_for_each_epoch_and_seed(root: Path) -> None:
    dataset = LatentDataset(root, flip="random", seed=5)
    epochs = []
    for epoch in range(32):
        dataset.set_epoch(epoch)
        epochs.append(flips(dataset))
    share = torch.tensor(epochs).float()
    assert abs(float(share.mean()) - 0.5) < 0.04
    assert float(share.mean(0).min()) > 0.1  # no image is frozen
    assert float(share.mean(0).max()) < 0.9
    assert len(set(map(tuple, epochs))) == 32
    assert flips(LatentDataset(root, flip="random", seed=6)) != epochs[0]
    assert flips(LatentDataset(root, flip="random", seed=5)) == epochs[0]


def test_what_is_given_is_what_the_coin_says(root: Path) -> None:
    images, twins = LatentDataset(root), LatentDataset(root, flip=True)
    for number, item in enumerate(LatentDataset(root, flip="random")):
        assert torch.equal(item.latents, (twins if item.is_flipped else images)[number].latents)
        assert item.crop.tolist() == ([1, 45 - 2 - 31] if item.is_flipped else [1, 2])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_stay_draw_for_the_epoch_that_was_set(root: Path, start: str) -> None:
    dataset = LatentDataset(root, flip="random", seed=1)
    loader = DataLoader(
        dataset, batch_size=7, num_workers=2, persistent_workers=True, multiprocessing_context=start, collate_fn=list
    )
    for epoch in (0, 3, 1):
        dataset.set_epoch(epoch)
        given = [flip for batch in loader for flip in flips(batch)]
        alone = LatentDataset(root, flip="random", seed=1)
        alone.set_epoch(epoch)
        assert given == flips(alone)


def test_a_sampler_tells_its_dataset_the_epoch(root: Path) -> None:
    dataset, alone = LatentDataset(root, flip="random"), LatentDataset(root, flip="random")
    sampler = BucketBatchSampler(dataset, batch_size=8, seed=0)
    sampler.set_epoch(3)
    state = sampler.state(1)
    alone.set_epoch(3)
    assert flips(dataset) == flips(alone)
    sampler.set_epoch(4)
    assert flips(dataset) != flips(alone)
    BucketBatchSampler(dataset, batch_size=8, seed=0).resume(state)
    assert flips(dataset) == flips(alone)


def test_negative_seeds_and_epochs_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="seed -1: seeds count from 0"):
        LatentDataset(root, seed=-1)
    with pytest.raises(UsageError, match="epoch -1: epochs count from 0"):
        LatentDataset(root).set_epoch(-1)
