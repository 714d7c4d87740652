"""Quantised sets for people who train: values, never the bytes that stand for them."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from semdis_cli.dataset.latent_dataset import Flip, LatentDataset
from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.parts import LATENTS, LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP, QUANTISED
from semdis_cli.store.mapped_shard import MappedShard, ReadRows
from semdis_cli.store.shards import Shard
from tests.dataset.test_dataset import SQUARE, WHITENING, WIDE, bits, set_by_hand
from tests.store import make_shard, values_of, with_settings

each_dtype = pytest.mark.parametrize("dtype", QUANTISED)
PARTS = (LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP)


def make_shards(dtype: str) -> list[Shard]:
    """Two shards of one size and one of another, with twins and posteriors."""
    keys = [(("b.png", "d.png"), SQUARE), (("c.png",), SQUARE), (("a.png", "e.png"), WIDE)]
    shards = [make_shard(names, dtype, bucket, PARTS) for names, bucket in keys]
    return [with_settings(shard, whitening=WHITENING) for shard in shards]


def write(root: Path, dtype: str) -> tuple[Path, dict[str, tuple[Shard, int]]]:
    """A set, and the shard and row of each key."""
    shards = make_shards(dtype)
    return set_by_hand(root, *shards).root, {key: (s, row) for s in shards for row, key in enumerate(s.keys)}


@each_dtype
@pytest.mark.parametrize("flip", [False, True, "random"])
@pytest.mark.parametrize("is_mapped", [True, False])
def test_values_are_given_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, flip: Flip, is_mapped: bool
) -> None:
    root, places = write(tmp_path / "latents", dtype)
    if not is_mapped:

        def read(shard: MappedShard, folder: Path) -> dict[str, ReadRows]:
            return {each.name: ReadRows(folder / shard.name, shard.start, each) for each in shard._tensors}

        monkeypatch.setattr(MappedShard, "map", read)
    dataset = LatentDataset(root, flip=flip, seed=1)
    assert dataset.dtype == torch.float32
    assert len(dataset) == len(places)
    drawn = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for item in dataset:
            name = LATENTS_FLIP if item.is_flipped else LATENTS
            assert bits(item.latents) == bits(values_of(*places[item.key], name))
            drawn.add(name)
    expected: dict[Flip, set[str]] = {False: {LATENTS}, True: {LATENTS_FLIP}, "random": {LATENTS, LATENTS_FLIP}}
    assert drawn == expected[flip]


@each_dtype
@pytest.mark.parametrize("asked", [torch.float16, torch.bfloat16])
def test_half_precision_on_request_is_that_of_the_values(tmp_path: Path, dtype: str, asked: torch.dtype) -> None:
    root, places = write(tmp_path / "latents", dtype)
    for item in LatentDataset(root, dtype=asked):
        assert bits(item.latents) == bits(values_of(*places[item.key]).to(asked))


@each_dtype
def test_raw_latents_are_the_values_times_std_plus_mean(tmp_path: Path, dtype: str) -> None:
    root, places = write(tmp_path / "latents", dtype)
    mean, std = (torch.tensor(WHITENING[name]).view(-1, 1, 1) for name in ("mean", "std"))
    for item in LatentDataset(root, whitened=False):
        assert bits(item.latents) == bits(values_of(*places[item.key]) * std + mean)


@each_dtype
def test_samples_of_posteriors_lie_about_the_values(tmp_path: Path, dtype: str) -> None:
    root, places = write(tmp_path / "latents", dtype)
    std = torch.tensor(WHITENING["std"]).view(-1, 1, 1)
    drawn = [LatentDataset(root, sample=True, seed=seed) for seed in range(200)]
    for number, key in enumerate(sorted(places)):
        shard, row = places[key]
        sigma = torch.sigmoid(-shard.parts[LOG_SNR][row].float()).sqrt() / std
        mean = torch.stack([dataset[number].latents for dataset in drawn]).mean(0)
        assert ((mean - values_of(shard, row)).abs() < 5 * sigma / 200**0.5).all()


@each_dtype
@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_put_values_into_batches(tmp_path: Path, dtype: str, num_workers: int) -> None:
    root, places = write(tmp_path / "latents", dtype)
    dataset = LatentDataset(root)
    sampler = BucketBatchSampler(dataset, 2, seed=0)
    found: dict[str, torch.Tensor] = {}
    for batch in DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers):
        assert batch.latents.dtype == torch.float32
        found |= dict(zip(batch.key, batch.latents, strict=True))
    assert {key: bits(latents) for key, latents in found.items()} == {
        key: bits(values_of(*place)) for key, place in places.items()
    }


@each_dtype
def test_a_shard_of_its_own_gives_values_too(tmp_path: Path, dtype: str) -> None:
    root, places = write(tmp_path / "latents", dtype)
    for path in root.glob("shards/*"):
        for item in LatentDataset(path, verify=True):
            assert bits(item.latents) == bits(values_of(*places[item.key]))
