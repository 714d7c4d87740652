"""Tensors for people who train: mapped, copied out, in batches of equal or of different lengths."""

import multiprocessing.reduction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

import semdis_cli
from semdis_cli.columns.settings import AttachSettings
from semdis_cli.dataset.latent_dataset import LatentDataset, LatentItem
from semdis_cli.dataset.padding import PaddedTensors
from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.pipeline.attach import attach
from tests.store import GOOD_KEYS, KEYS, make_plan, peak_bytes, write_set

LENGTHS = {key: number for number, key in enumerate(GOOD_KEYS)}


def t5_of(key: str) -> torch.Tensor:
    return torch.full((LENGTHS[key], 4), LENGTHS[key] + 1.0, dtype=torch.bfloat16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "set")
    for key in GOOD_KEYS:
        path = tmp_path / "embeddings" / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = {} if key == "a.png" else {"clip": torch.arange(5) + LENGTHS[key]}
        save_file({"t5": t5_of(key), "pooled": torch.full((3,), float(LENGTHS[key])), **clip}, path)
    attach_all(tmp_path / "set", tmp_path / "embeddings", is_partial=True)
    return tmp_path / "set"


def attach_all(root: Path, source: Path, **options: Any) -> None:
    list(attach(root, (), AttachSettings(tensors=(source,), **options)))


def test_tensors_come_when_they_are_asked_for(root: Path) -> None:
    dataset = LatentDataset(root, columns=["t5", "pooled"])
    for item in dataset:
        assert torch.equal(item.columns["t5"], t5_of(item.key))
        assert item.columns["pooled"].tolist() == [LENGTHS[item.key]] * 3
        assert list(item.columns) == ["t5", "pooled"]
    assert LatentDataset(root)[0].columns == {}
    with pytest.raises(UsageError, match="has no column 'clap'; its columns: clip, pooled, t5"):
        LatentDataset(root, columns=["clap"])


def test_what_is_given_is_a_copy(root: Path) -> None:
    dataset = LatentDataset(root, columns=["pooled"])
    dataset[3].columns["pooled"].fill_(7)
    assert dataset[3].columns["pooled"].tolist() == [3.0] * 3


def test_a_tensor_that_not_all_have_needs_something_for_the_rest(root: Path) -> None:
    with pytest.raises(UsageError, match=r"1 of 8 items have no 'clip'; say what they get: missing=\{'clip'"):
        LatentDataset(root, columns=["clip"])
    nothing = torch.zeros(5, dtype=torch.int64)
    dataset = LatentDataset(root, columns=["clip"], missing={"clip": nothing})
    assert [item.columns["clip"][0].item() for item in dataset] == [0, *range(1, 8)]
    assert LatentDataset(root, columns=["clip"], missing={"clip": None})[0].columns["clip"] is None


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_equal_shapes_are_stacked_and_others_padded_in_any_worker(root: Path, context: str | None) -> None:
    dataset = LatentDataset(root, columns=["t5", "pooled"])
    loader = DataLoader(
        dataset,
        batch_sampler=BucketBatchSampler(dataset, 3),
        collate_fn=dataset.collate,
        num_workers=1 if context else 0,
        multiprocessing_context=context,
    )
    seen = []
    for batch in loader:
        t5 = batch.columns["t5"]
        assert isinstance(t5, PaddedTensors)
        assert batch.columns["pooled"].tolist() == [[LENGTHS[key]] * 3 for key in batch.key]
        assert t5.lengths.tolist() == [LENGTHS[key] for key in batch.key]
        assert t5.mask.sum(1).tolist() == t5.lengths.tolist()
        assert t5.values.shape == (len(batch.key), max(t5.lengths), 4)
        assert t5.values.dtype == torch.bfloat16
        for key, values, mask in zip(batch.key, t5.values, t5.mask, strict=True):
            assert torch.equal(values[mask], t5_of(key))
            assert not values[~mask].any()
        seen += batch.key
    assert sorted(seen) == list(GOOD_KEYS)
    assert semdis_cli.PaddedTensors is PaddedTensors


def test_a_column_of_one_shape_needs_no_collate_of_ours_and_is_no_other_with_it(root: Path) -> None:
    dataset = LatentDataset(root, columns=["pooled"])
    for collate in (None, dataset.collate):
        [first, *_] = DataLoader(dataset, batch_size=3, sampler=[0, 1, 2], collate_fn=collate)
        assert isinstance(first, LatentItem)
        assert first.columns["pooled"].shape == (3, 3)


def test_what_is_missing_may_have_no_rows(root: Path) -> None:
    dataset = LatentDataset(root, columns=["clip"], missing={"clip": torch.zeros(0, dtype=torch.int64)})
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch.columns["clip"].lengths.tolist() == [0, 5]
    assert batch.columns["clip"].values.tolist() == [[0] * 5, [1, 2, 3, 4, 5]]


@pytest.mark.parametrize("nothing", [torch.zeros(2), torch.zeros((), dtype=torch.int64), torch.zeros((0, 2))])
def test_what_is_missing_must_go_into_a_batch_with_the_rest(root: Path, nothing: torch.Tensor) -> None:
    dataset = LatentDataset(root, columns=["clip"], missing={"clip": nothing})
    with pytest.raises(UsageError, match=r"cannot be in one batch.*; is missing=\{'clip': \.\.\.\} one\?"):
        dataset.collate([dataset[0], dataset[1]])


def test_a_dataset_that_was_opened_before_its_tensors_were_replaced_gives_no_others(root: Path, tmp_path: Path) -> None:
    used, unused = (LatentDataset(root, columns=["pooled"]) for _ in range(2))
    before = used[3].columns["pooled"]
    for key in GOOD_KEYS:
        save_file({"pooled": torch.full((3,), 9.0)}, tmp_path / "embeddings" / f"{key}.safetensors")
    attach_all(root, tmp_path / "embeddings")
    assert torch.equal(used[3].columns["pooled"], before)
    with pytest.raises(StoreError, match="columns"):
        unused[3]
    with pytest.raises(StoreError, match="columns"):
        sent(used)[3]
    assert sent(LatentDataset(root, columns=["pooled"]))[3].columns["pooled"].tolist() == [9.0] * 3


def sent(dataset: LatentDataset) -> LatentDataset:
    """The dataset as another process gets it."""
    data = multiprocessing.reduction.ForkingPickler.dumps(dataset)
    received: LatentDataset = multiprocessing.reduction.ForkingPickler.loads(data)
    return received


def test_a_set_that_grew_gives_tensors_to_those_that_have_them(root: Path) -> None:
    write_set(root, make_plan((*KEYS, "new.png")))
    nothing = torch.zeros(0, 4, dtype=torch.bfloat16)
    dataset = LatentDataset(root, columns=["t5"], missing={"t5": nothing}, verify=True)
    assert {item.key: len(item.columns["t5"]) for item in dataset} == LENGTHS | {"new.png": 0}


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "t5").mkdir()
    for number in range(len(GOOD_KEYS)):
        array = np.full((1 << 20, 2), number, dtype=np.float16)  # 4 MiB
        path = tmp_path / "t5" / f"{GOOD_KEYS[number]}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, array)
    attach_all(tmp_path / "set", tmp_path / "t5", tensor_name="t5")

    def read_all() -> None:
        dataset = LatentDataset(tmp_path / "set", columns=["t5"])
        assert [int(item.columns["t5"][-1, 0]) for item in dataset] == list(range(len(GOOD_KEYS)))

    assert peak_bytes(read_all) < 20 << 20  # of 32 MiB in one file; two items live at a time
