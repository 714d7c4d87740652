"""Latents for training: what was stored and is to be used, bit for bit, one by one and from loader workers."""

import dataclasses
import json
import multiprocessing
import os
import tracemalloc
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

import semdis_cli
from semdis_cli.dataset import latent_dataset as dataset_module
from semdis_cli.dataset.latent_dataset import LatentDataset, LatentItem
from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.errors import SemdisError, StoreError, UsageError
from semdis_cli.files.atomic import digest_file
from semdis_cli.files.json_text import to_line
from semdis_cli.provenance import Provenance
from semdis_cli.store.index import IndexRow
from semdis_cli.store.manifest import Manifest, ShardEntry
from semdis_cli.store.shards import STORE_DTYPES, Shard, write_shard
from semdis_cli.store.statistics import ChannelSums
from tests.store import CHANNELS, PLAIN_DTYPES, PROVENANCE, latents_of, make_shard, with_keys, with_settings

WIDE, SQUARE = (16, 32), (32, 32)
WHITENING = {"mean": [0.5, -1.25, 3.0], "std": [2.0, 0.75, 1.5]}


@dataclasses.dataclass(frozen=True)
class SetByHand:
    """A finished set in `root`, of `shards` by file name; written anew after each change of `rows` or `totals`."""

    root: Path
    shards: dict[str, Shard]
    rows: list[dict[str, Any]]
    totals: dict[str, int]

    def publish(self, **changes: Any) -> Path:
        """Write index and manifest as they are now, `changes` being to the manifest's fields."""
        (self.root / "index.jsonl").write_bytes(b"".join(map(to_line, self.rows)))
        entries = [
            ShardEntry(name, len(shard.keys), digest_file(self.root / "shards" / name))
            for name, shard in self.shards.items()
        ]
        manifest = Manifest(
            provenance=next(iter(self.shards.values())).provenance if self.shards else Provenance.from_json(PROVENANCE),
            plan_sha256="0" * 64,
            num_ok=self.totals["ok"],
            num_failed=0,
            num_removed=self.totals["removed"],
            num_superseded=self.totals["superseded"],
            shards=tuple(entries),
            index=digest_file(self.root / "index.jsonl"),
            sums=ChannelSums.zero(CHANNELS),
        )
        (self.root / "manifest.json").write_bytes(dataclasses.replace(manifest, **changes).to_bytes())
        return self.root


def set_by_hand(root: Path, *shards: Shard, removed: Collection[str] = ()) -> SetByHand:
    """A set of `shards`; of a key that is in several, the last one counts, and those in `removed` do not."""
    (root / "shards").mkdir(parents=True)
    named = {f"{n:08d}-{s.latents.shape[2]}x{s.latents.shape[3]}.safetensors": s for n, s in enumerate(shards)}
    rows: dict[str, dict[str, Any]] = {}
    for name, shard in named.items():
        write_shard(root / "shards" / name, shard)
        for number, record in enumerate(shard.records):
            row = IndexRow.of_image(record, name, number)
            rows[record.key] = dataclasses.replace(row, is_removed=record.key in removed).to_json()
    num_rows = sum(len(shard.keys) for shard in shards)
    num_removed = len(rows.keys() & set(removed))
    totals = {"ok": len(rows) - num_removed, "removed": num_removed, "superseded": num_rows - len(rows)}
    by_hand = SetByHand(root, named, [rows[key] for key in sorted(rows)], totals)
    by_hand.publish()
    return by_hand


def bits(latents: Tensor) -> bytes:
    return latents.contiguous().view(torch.uint8).numpy().tobytes()


def stored(shard: Shard, key: str) -> Tensor:
    return shard.latents[shard.keys.index(key)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five latents in two buckets and three shards, keys in another order than shards."""
    return set_by_hand(
        tmp_path / "latents",
        make_shard(("b/c.png", "ü.png"), bucket=WIDE),
        make_shard(("a.png", "d.jpg"), bucket=SQUARE),
        make_shard(("c.png",), bucket=SQUARE),
    ).root


# --- what is given --------------------------------------------------------------------------------------------------


def test_items_come_in_the_order_of_keys_with_all_that_training_needs(root: Path) -> None:
    dataset = LatentDataset(root)
    assert [item.key for item in dataset] == ["a.png", "b/c.png", "c.png", "d.jpg", "ü.png"]
    assert [dataset.key(index) for index in range(len(dataset))] == [item.key for item in dataset]
    latents, key, source_size, image_size, columns, resized_size, crop, is_flipped, mask = dataset[1]
    assert (columns, bool(is_flipped), tuple(mask.shape)) == ({}, False, (0, 1, 2))
    assert bits(latents) == bits(latents_of(key, WIDE).to(torch.bfloat16))
    assert (source_size.tolist(), image_size.tolist()) == ([100, 90], [15, 31])
    assert (resized_size.tolist(), crop.tolist()) == ([50, 45], [1, 2])
    assert dataset.grids == ((1, 2), (2, 2))
    assert dataset.bucket_numbers.tolist() == [1, 0, 1, 1, 0]
    assert dataset.provenance == PROVENANCE
    assert dataset.sha256 == digest_file(root / "manifest.json").sha256


@pytest.mark.parametrize("dtype", PLAIN_DTYPES)
def test_latents_are_those_stored_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    shard = make_shard(("a.png", "b.png", "c.png"), dtype)
    shard.latents.view(-1)[:2] = torch.tensor([-0.0, torch.finfo(STORE_DTYPES[dtype]).smallest_normal / 4])
    root = set_by_hand(tmp_path / "latents", shard).root
    for dataset in (LatentDataset(root), LatentDataset(root, verify=True), LatentDataset(next(root.glob("shards/*")))):
        assert dataset.dtype == STORE_DTYPES[dtype]
        assert [bits(item.latents) for item in dataset] == [bits(stored(shard, item.key)) for item in dataset]


def test_indices_count_from_either_end_and_no_further(root: Path) -> None:
    dataset = LatentDataset(root)
    assert dataset[-5].key == dataset[np.int64(0)].key == "a.png"
    assert dataset.key(-1) == "ü.png"
    for index in (5, -6):
        with pytest.raises(IndexError):
            dataset[index]
        with pytest.raises(IndexError):
            dataset.key(index)
    with pytest.raises(TypeError):
        dataset["a.png"]  # type: ignore[index]


def test_several_items_at_once_are_the_items(root: Path) -> None:
    dataset = LatentDataset(root)
    for indices in ([0, 2, 3, 0], [4, 1], [0, 1, 2], [2]):
        for item, index in zip(dataset.__getitems__(indices), indices, strict=True):
            assert item.key == dataset[index].key
            assert bits(item.latents) == bits(dataset[index].latents)
            assert item.source_size.tolist() == dataset[index].source_size.tolist()


def test_what_is_done_to_an_item_is_done_to_nothing_else(root: Path) -> None:
    dataset = LatentDataset(root)
    before = [bits(item.latents) for item in dataset]
    files = [path.read_bytes() for path in sorted(root.glob("shards/*"))]
    for item in (*dataset, *dataset.__getitems__([0, 2, 3])):
        item.latents.zero_()
        item.source_size.zero_()
    assert [bits(item.latents) for item in dataset] == before
    assert dataset[0].source_size.tolist() == [100, 90]
    assert [path.read_bytes() for path in sorted(root.glob("shards/*"))] == files


def test_a_shard_alone_is_a_dataset_of_its_own(tmp_path: Path) -> None:
    shard = make_shard(("z.png", "a.png", "m.png"))
    write_shard(tmp_path / "mailed", shard)
    dataset = LatentDataset(str(tmp_path / "mailed"))
    assert [item.key for item in dataset] == ["a.png", "m.png", "z.png"]
    assert [bits(item.latents) for item in dataset] == [bits(stored(shard, item.key)) for item in dataset]


def test_a_relative_path_is_that_of_the_opening(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    dataset = LatentDataset("latents")
    monkeypatch.chdir("/")
    assert len(list(dataset)) == 5


def test_it_is_part_of_the_public_interface() -> None:
    assert semdis_cli.LatentDataset is LatentDataset
    assert semdis_cli.BucketBatchSampler is BucketBatchSampler
    assert {"LatentDataset", "BucketBatchSampler"} <= set(dir(semdis_cli))


def test_no_latents_at_all_are_an_empty_dataset(tmp_path: Path) -> None:
    dataset = LatentDataset(set_by_hand(tmp_path / "latents").root)
    assert (len(dataset), dataset.grids, list(dataset)) == (0, (), [])
    assert list(BucketBatchSampler(dataset, 4)) == []
    gone = LatentDataset(set_by_hand(tmp_path / "gone", make_shard(), removed=["a.png", "b/c.png"]).root)
    assert (len(gone), list(BucketBatchSampler(gone, 4))) == (0, [])


@pytest.mark.parametrize("dtype", [None, "float64", ["bfloat16"]])
def test_no_latents_of_no_known_dtype_are_refused(tmp_path: Path, dtype: Any) -> None:
    by_hand = set_by_hand(tmp_path / "latents")
    with pytest.raises(StoreError, match="does not say of which dtype"):
        LatentDataset(by_hand.publish(provenance=Provenance.from_json({**PROVENANCE, "dtype": dtype})))


# --- what is not to be used -----------------------------------------------------------------------------------------


def test_removed_and_superseded_rows_are_never_given(tmp_path: Path) -> None:
    old = make_shard(("a.png", "b.png", "c.png"))
    new = dataclasses.replace(make_shard(("b.png", "d.png"), bucket=WIDE), provenance=old.provenance)
    dataset = LatentDataset(set_by_hand(tmp_path / "latents", old, new, removed=["c.png"]).root)
    assert [item.key for item in dataset] == ["a.png", "b.png", "d.png"]
    assert bits(dataset[1].latents) == bits(stored(new, "b.png"))
    assert dataset[1].latents.shape == (CHANNELS, 1, 2)


names = st.sampled_from("abcdefgh").map(lambda letter: f"{letter}.png")


@settings(max_examples=30, deadline=None)
@given(
    contents=st.lists(st.tuples(st.sets(names, min_size=1), st.sampled_from([WIDE, SQUARE])), max_size=5),
    removed=st.sets(names),
    dtype=st.sampled_from(PLAIN_DTYPES),
)
def test_whatever_became_of_a_set_only_what_counts_is_given(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[tuple[set[str], tuple[int, int]]],
    removed: set[str],
    dtype: str,
) -> None:
    shards = [make_shard(tuple(sorted(keys)), dtype, bucket) for keys, bucket in contents]
    shards = [dataclasses.replace(shard, latents=shard.latents + n) for n, shard in enumerate(shards)]
    expected = {key: bits(stored(shard, key)) for shard in shards for key in shard.keys if key not in removed}
    dataset = LatentDataset(set_by_hand(tmp_path_factory.mktemp("sets") / "set", *shards, removed=removed).root)
    assert [(item.key, bits(item.latents)) for item in dataset] == sorted(expected.items())
    assert [dataset.grids[number] for number in dataset.bucket_numbers] == [
        tuple(item.latents.shape[1:]) for item in dataset
    ]


# Undecodable bytes of names are surrogates; no name has others.
any_key = st.text(st.characters(exclude_categories=["Cs"])) | st.binary(max_size=9).map(os.fsdecode)


@settings(max_examples=40, deadline=None)
@given(keys=st.sets(any_key, min_size=1, max_size=6))
def test_any_key_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, keys: set[str]) -> None:
    path = tmp_path_factory.mktemp("keys") / "shard"
    write_shard(path, with_keys(make_shard(tuple("abcdef"[: len(keys)])), tuple(keys)))
    assert [item.key for item in LatentDataset(path)] == sorted(keys)


# --- raw, whitened, dtype -------------------------------------------------------------------------------------------


@pytest.fixture
def whitened(tmp_path: Path) -> Path:
    shard = with_settings(make_shard(), whitened=True, whitening=WHITENING)
    return set_by_hand(tmp_path / "whitened", shard).root


def test_raw_latents_are_the_whitened_ones_times_std_plus_mean(whitened: Path) -> None:
    mean, std = (torch.tensor(WHITENING[name]).view(-1, 1, 1) for name in ("mean", "std"))
    shard = make_shard()
    dataset = LatentDataset(whitened, whitened=False, dtype=torch.float32)
    assert not dataset.is_whitened
    for item in dataset:
        assert item.latents.dtype == torch.float32
        assert torch.equal(item.latents, stored(shard, item.key).float() * std + mean)
    for item, exact in zip(LatentDataset(whitened, whitened=False), dataset, strict=True):
        assert torch.equal(item.latents, exact.latents.bfloat16())


@pytest.mark.parametrize("asked", [None, True])
def test_whitened_latents_are_given_as_stored(whitened: Path, asked: bool | None) -> None:
    dataset = LatentDataset(whitened, whitened=asked)
    assert dataset.is_whitened
    assert bits(dataset[0].latents) == bits(make_shard().latents[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_dtype_on_request(root: Path, dtype: torch.dtype) -> None:
    for item, original in zip(LatentDataset(root, dtype=dtype), LatentDataset(root), strict=True):
        assert item.latents.dtype == dtype
        assert bits(item.latents) == bits(original.latents.to(dtype))


def test_integers_are_no_latents(root: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be given as torch\.int8"):
        LatentDataset(root, dtype=torch.int8)


def test_raw_latents_cannot_be_given_whitened(tmp_path: Path) -> None:
    root = set_by_hand(tmp_path / "raw", with_settings(make_shard(), whitened=False, whitening=None)).root
    for asked in (None, False):
        dataset = LatentDataset(root, whitened=asked)
        assert not dataset.is_whitened
        assert bits(dataset[0].latents) == bits(make_shard().latents[0])
    with pytest.raises(UsageError, match=rf"^{root}: holds raw latents"):
        LatentDataset(root, whitened=True)


def test_a_record_without_statistics_gives_no_raw_latents(root: Path) -> None:
    with pytest.raises(UsageError, match="does not say how its latents were whitened"):
        LatentDataset(root, whitened=False)


@pytest.mark.parametrize(
    "whitening",
    [
        {"mean": [0.0] * 3},
        {"mean": [0.0] * 3, "std": [1.0] * 2},
        {"mean": [0.0] * 3, "std": ["1"] * 2 + ["x"]},
        {"mean": [0.0] * 3, "std": [1.0, 1e300, 1.0]},
        {"mean": 0.0, "std": 1.0},
        [],
        "none",
    ],
    ids=str,
)
def test_statistics_that_are_none_are_refused(tmp_path: Path, whitening: Any) -> None:
    root = set_by_hand(tmp_path / "set", with_settings(make_shard(), whitening=whitening)).root
    assert len(LatentDataset(root)) == 2
    with pytest.raises(StoreError, match="its mean and standard deviation of raw latents are damaged"):
        LatentDataset(root, whitened=False)


@pytest.mark.parametrize("value", [None, "yes", 1])
def test_a_set_that_does_not_say_whether_it_is_whitened_is_refused(tmp_path: Path, value: Any) -> None:
    root = set_by_hand(tmp_path / "set", with_settings(make_shard(), whitened=value)).root
    with pytest.raises(StoreError, match="does not say whether its latents are whitened"):
        LatentDataset(root)


# --- loaders --------------------------------------------------------------------------------------------------------

in_workers = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than this machine has cores
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("num_workers", "start"),
    [(0, None), pytest.param(2, "fork", marks=in_workers), pytest.param(1, "spawn", marks=in_workers)],
)
def test_a_loader_gives_every_latent_once_an_epoch(tmp_path: Path, num_workers: int, start: Any) -> None:
    if start is not None and start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    shards = [make_shard(("a", "c", "e", "g", "i")), make_shard(("b", "d"), bucket=WIDE), make_shard(("f", "h"))]
    by_hand = set_by_hand(tmp_path / "latents", *(with_settings(s, whitening=WHITENING) for s in shards), removed=["d"])
    dataset = LatentDataset(by_hand.root, whitened=False)
    expected = {item.key: bits(item.latents) for item in dataset}  # all shards are mapped before the workers start
    sampler = BucketBatchSampler(dataset, 2, seed=0)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        multiprocessing_context=start,
        persistent_workers=num_workers > 0,
    )
    for epoch in range(2):
        sampler.set_epoch(epoch)
        found: list[tuple[str, bytes]] = []
        for batch in loader:
            assert isinstance(batch, LatentItem)
            assert batch.source_size.shape == batch.image_size.shape == (len(batch.key), 2)
            assert batch.resized_size.tolist() == [[50, 45]] * len(batch.key)
            assert batch.crop.tolist() == [[1, 2]] * len(batch.key)
            found += zip(batch.key, map(bits, batch.latents), strict=True)
        assert sorted(found) == sorted(expected.items())
        assert len(loader) == len(sampler)


def test_mappings_are_of_one_process_alone_and_keep_no_file_open(root: Path) -> None:
    dataset = LatentDataset(root)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else None
    assert len(list(dataset)) == 5
    if before is not None:
        assert len(list(descriptors.iterdir())) == before
    assert len(dataset._mapped) == 3
    assert dataset.__getstate__()["_mapped"] == {}


def test_where_files_cannot_be_mapped_rows_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [(item.key, bits(item.latents)) for item in LatentDataset(root)]

    def from_file(*_: object, **__: object) -> None:
        raise RuntimeError("unable to mmap 512 bytes from file: No such device (19)")

    monkeypatch.setattr(torch, "from_file", from_file)
    dataset = LatentDataset(root)
    assert [(item.key, bits(item.latents)) for item in dataset] == expected
    assert [(item.key, bits(item.latents)) for item in dataset.__getitems__([0, 1])] == expected[:2]
    for path in (root / "shards").iterdir():
        os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(StoreError, match="shorter"):
        list(dataset)


def test_only_so_many_shards_are_mapped_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "_MAX_MAPPED", 2)
    dataset = LatentDataset(root)
    expected = [bits(item.latents) for item in LatentDataset(root)]
    for _ in range(3):
        assert [bits(item.latents) for item in dataset] == expected
        assert len(dataset._mapped) <= 2


def test_opening_keeps_little_of_each_latent_and_needs_little_more(tmp_path: Path) -> None:
    num_shards, num_rows = 4, 1500
    shards = [
        make_shard_of_zeros(tuple(f"folder/of/images/{shard:04d}/{row:08d}.jpg" for row in range(num_rows)))
        for shard in range(num_shards)
    ]
    root = set_by_hand(tmp_path / "latents", *shards).root
    tracemalloc.start()
    try:
        dataset = LatentDataset(root)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset) == num_shards * num_rows
    assert kept < 100 * len(dataset)
    assert peak < 150 * len(dataset) + 2000 * num_rows


def make_shard_of_zeros(keys: tuple[str, ...]) -> Shard:
    one = make_shard(("a",), bucket=(16, 16))
    records = tuple(dataclasses.replace(one.records[0], key=key) for key in keys)
    return Shard(one.latents.new_zeros(len(keys), CHANNELS, 1, 1), records, one.provenance)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_unfinished_set_is_refused(root: Path) -> None:
    (root / "manifest.json").unlink()
    (root / "journal").mkdir()
    with pytest.raises(StoreError, match=f"^{root}: .*not a finished set"):
        LatentDataset(root)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such latents"):
        LatentDataset(tmp_path / "nowhere")


def replace_by(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


OF_OTHER_SETTINGS = with_settings(make_shard(("b/c.png", "ü.png"), bucket=WIDE), posterior={"kind": "made"})
OF_OTHER_KEYS = make_shard(("b/d.png", "ü.png"), bucket=WIDE)
FIRST = "shards/00000000-1x2.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "cannot be read"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 1), "but the manifest says"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "but the manifest says"),
    "empty": (lambda path: path.write_bytes(b""), "but the manifest says"),
    "a folder": (lambda path: replace_by(path, os.mkdir), "not a regular file"),
    "a pipe": (lambda path: replace_by(path, os.mkfifo), "not a regular file"),
    "of other settings": (lambda path: write_shard(path, OF_OTHER_SETTINGS), "made with other settings"),
    "of other keys": (lambda path: write_shard(path, OF_OTHER_KEYS), "has no latents of 'b/c.png' in row 0"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_shard_of_a_set_is_refused_on_opening(root: Path, damage: str) -> None:
    act, message = DAMAGE[damage]
    act(root / FIRST)
    with pytest.raises(StoreError, match=f"^{root / FIRST}: .*{message}"):
        LatentDataset(root)


def test_a_number_of_images_that_the_shard_does_not_have_is_refused(root: Path) -> None:
    fields = json.loads((root / "manifest.json").read_bytes())
    fields["shards"][0]["num_images"] += 1
    fields["shards"][1]["num_images"] -= 1
    (root / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(StoreError, match="holds 2 latents, but the manifest says 3"):
        LatentDataset(root)


def test_flipped_latents_are_found_when_asked_for(root: Path) -> None:
    data = (root / FIRST).read_bytes()
    (root / FIRST).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert len(LatentDataset(root)) == 5
    for path, message in (
        (root, "do not match the sha256 in the manifest"),
        (root / FIRST, "do not match their sha256"),
    ):
        with pytest.raises(StoreError, match=f"^{root / FIRST}: .*{message}"):
            LatentDataset(path, verify=True)


@pytest.mark.parametrize("damage", ["missing", "cut short", "longer"])
def test_a_shard_that_changes_between_opening_and_reading_is_refused(root: Path, damage: str) -> None:
    dataset = LatentDataset(root)
    DAMAGE[damage][0](root / FIRST)
    assert dataset[0].key == "a.png"
    with pytest.raises(StoreError, match=f"^{root / FIRST}: "):
        dataset[1]


def test_errors_reach_the_loop_through_a_loader(root: Path) -> None:
    dataset = LatentDataset(root)
    (root / FIRST).unlink()
    with pytest.raises(SemdisError):
        list(DataLoader(dataset, batch_sampler=BucketBatchSampler(dataset, 2)))
