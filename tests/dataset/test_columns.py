"""Columns for people who train: those that were asked for, in batches, and labels of all items at once."""

import json
import multiprocessing.reduction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, WeightedRandomSampler

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import to_line
from semdis_cli.store.random_access import _label_of
from tests.store import KEYS, make_plan, write_next

OK_KEYS = tuple(key for key in KEYS if key != "b/bad.png")


def write(root: Path, columns: dict[str, dict[str, Any]]) -> Path:
    """A set of all the keys, with columns by key."""
    with make_plan().open(root) as latents:
        while latents.remaining:
            write_next(latents, columns)
        _ = latents.finished or latents.finish()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    columns: dict[str, dict[str, Any]] = {
        key: {"caption": f"picture {key}", "label": number % 3} for number, key in enumerate(OK_KEYS)
    }
    columns["a.png"] |= {"score": 0.5, "caption": 'braces {} and ,"label":7, in a caption'}
    columns["c.png"] = {"caption": "no label", "nested": {"label": 5}}
    return write(tmp_path / "set", columns)


def test_only_the_columns_that_were_asked_for_are_given_and_collated(root: Path) -> None:
    dataset = LatentDataset(root, columns=["caption", "label"], missing={"label": -1})
    assert {str(sorted(item.columns)) for item in dataset} == {"['caption', 'label']"}
    [batch] = DataLoader(dataset, batch_size=3, sampler=[0, 1, 2], num_workers=0)
    assert batch.columns["caption"] == [
        'braces {} and ,"label":7, in a caption',
        *(f"picture {key}" for key in OK_KEYS[1:3]),
    ]
    assert batch.columns["label"].tolist() == [0, 1, 2]
    assert LatentDataset(root, columns=[])[0].columns == {}
    assert set(LatentDataset(root)[0].columns) == {"caption", "label", "score"}


def test_a_column_that_is_not_everywhere_is_refused_at_opening_unless_there_is_something_for_the_rest(
    root: Path,
) -> None:
    with pytest.raises(
        UsageError, match=r"7 of 8 items have no 'score'; say what they get: missing=\{'score': \.\.\.\}"
    ):
        LatentDataset(root, columns=["score"])
    assert [item.columns["score"] for item in LatentDataset(root, columns=["score"], missing={"score": -1.0})] == [
        0.5,
        *[-1.0] * 7,
    ]
    with pytest.raises(UsageError, match="has no column 'text'; its columns: caption, label, nested, score"):
        LatentDataset(root, columns=["text"])
    with pytest.raises(UsageError, match=r"missing=\{'label': \.\.\.\} is of no use"):
        LatentDataset(root, columns=["caption"], missing={"label": -1})


def test_labels_are_an_array_to_balance_classes_by(root: Path) -> None:
    dataset = LatentDataset(root, columns=["caption"])
    labels = dataset.labels
    assert labels.dtype == np.int64
    expected = [item.columns.get("label", -1) for item in LatentDataset(root)]
    assert labels.tolist() == expected
    assert -1 in expected
    weights = np.where(labels < 0, 0, 1 / np.bincount(labels + 1)[labels + 1])
    sampler = WeightedRandomSampler(weights.tolist(), 200, generator=torch.Generator().manual_seed(0))
    drawn = labels[list(sampler)]
    assert (drawn >= 0).all()
    assert (np.bincount(drawn, minlength=3) > 40).all()


def test_a_set_without_labels_has_none_to_give(tmp_path: Path) -> None:
    write(tmp_path / "plain", {})
    with pytest.raises(UsageError, match="has no column 'label'; its columns: none"):
        _ = LatentDataset(tmp_path / "plain").labels
    shard = next(iter(sorted((tmp_path / "plain" / "shards").iterdir())))
    with pytest.raises(UsageError, match="has no column 'caption'"):
        LatentDataset(shard, columns=["caption"])
    assert LatentDataset(shard).classes == ()


def test_of_several_captions_one_is_drawn_for_each_epoch_the_same_for_a_seed(tmp_path: Path) -> None:
    root = write(
        tmp_path / "set", {key: {"caption": ["one", "two", "three"][: 1 + n % 3]} for n, key in enumerate(OK_KEYS)}
    )

    def draw(seed: int) -> list[list[str]]:
        dataset = LatentDataset(root, columns=["caption"], seed=seed)
        drawn = []
        for epoch in range(20):
            dataset.set_epoch(epoch)
            drawn.append([dataset[item].columns["caption"] for item in reversed(range(len(dataset)))][::-1])
            assert drawn[-1] == [item.columns["caption"] for item in dataset]  # in whatever order, and again
        return drawn

    one = draw(1)
    assert one == draw(1) != draw(2)
    by_image = list(zip(*one, strict=True))
    assert set(by_image[2]) == {"one", "two", "three"}
    assert set(by_image[0]) == {"one"}


def test_a_dataset_goes_to_workers_with_its_columns(root: Path) -> None:
    dataset = LatentDataset(root, columns=["label"], missing={"label": -1})
    sent = multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(dataset))
    assert [item.columns for item in sent] == [item.columns for item in dataset]
    assert sent.labels.tolist() == dataset.labels.tolist()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('"label":,{}\\5 é\n'), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "x"]), inner, max_size=2),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.dictionaries(st.sampled_from(["caption", "a", "zoo", ',"label":3', "label{"]), VALUES, max_size=4),
    label=st.none() | st.integers(0, 2**40),
)
def test_a_label_is_found_whatever_stands_beside_it(root: Path, columns: dict[str, Any], label: int | None) -> None:
    row = json.loads((root / "index.jsonl").read_text().splitlines()[0])
    row["columns"] = columns | ({} if label is None else {"label": label})
    line = to_line(row if row["columns"] else {name: value for name, value in row.items() if name != "columns"})
    assert _label_of(b"before\n" + line + b"after", 7) == (-1 if label is None else label)
