"""Batches: one bucket each, every item once over all ranks, and the same again from the same seed."""

import dataclasses
import json
from collections import Counter
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.errors import UsageError

Batches = list[list[int]]


@dataclasses.dataclass(frozen=True)
class Items:
    """What is sampled: the bucket of each item."""

    bucket_numbers: NDArray[np.int32]
    sha256: str = "0" * 64


def make_items(*buckets: int) -> Items:
    return Items(np.array(buckets, dtype=np.int32))


# Two large buckets, one that fills no batch, and one of a single item; mixed up.
MIXED = make_items(*np.random.default_rng(0).permutation([0] * 40 + [1] * 57 + [2] * 3 + [3]).tolist())

any_items = st.lists(st.integers(0, 4), max_size=60).map(lambda buckets: make_items(*buckets))
any_seed = st.none() | st.integers(0, 2**70)
any_size = st.integers(1, 9)
any_world = st.integers(1, 5)


def batches_of_ranks(items: Items, batch_size: int, world_size: int, epoch: int = 0, **options: Any) -> list[Batches]:
    """What each rank gets in an epoch. `len` must have said how much."""
    ranks = []
    for rank in range(world_size):
        sampler = BucketBatchSampler(items, batch_size, rank=rank, world_size=world_size, **options)
        sampler.set_epoch(epoch)
        said = len(sampler)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == said
    return ranks


def all_items(ranks: list[Batches]) -> list[int]:
    return sorted(item for batches in ranks for batch in batches for item in batch)


# --- who gets what --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(items=any_items, batch_size=any_size, world_size=any_world, seed=any_seed, epoch=st.integers(0, 2**40))
def test_every_item_comes_once_over_all_ranks(
    items: Items, batch_size: int, world_size: int, seed: int | None, epoch: int
) -> None:
    ranks = batches_of_ranks(items, batch_size, world_size, epoch, seed=seed)
    assert all_items(ranks) == list(range(len(items.bucket_numbers)))
    lengths = [len(batches) for batches in ranks]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@settings(deadline=None, max_examples=60)
@given(items=any_items, batch_size=any_size, world_size=any_world, seed=any_seed)
def test_a_batch_never_mixes_two_buckets_and_only_one_of_each_is_short(
    items: Items, batch_size: int, world_size: int, seed: int | None
) -> None:
    short: Counter[int] = Counter()
    for batch in chain.from_iterable(batches_of_ranks(items, batch_size, world_size, seed=seed)):
        buckets = set(items.bucket_numbers[batch].tolist())
        assert len(buckets) == 1
        assert len(batch) <= batch_size
        short[buckets.pop()] += len(batch) < batch_size
    assert max(short.values(), default=0) <= 1


@settings(deadline=None, max_examples=60)
@given(items=any_items, batch_size=any_size, world_size=any_world, seed=any_seed)
def test_padding_gives_all_ranks_equally_many_and_leaves_nothing_out(
    items: Items, batch_size: int, world_size: int, seed: int | None
) -> None:
    kept = batches_of_ranks(items, batch_size, world_size, seed=seed)
    padded = batches_of_ranks(items, batch_size, world_size, seed=seed, uneven="pad")
    assert {len(batches) for batches in padded} == {max(map(len, kept))}
    assert set(all_items(padded)) == set(range(len(items.bucket_numbers)))
    assert all(more[: len(batches)] == batches for more, batches in zip(padded, kept, strict=True))
    assert sum(map(len, padded)) - sum(map(len, kept)) < world_size


@settings(deadline=None, max_examples=60)
@given(items=any_items, batch_size=any_size, world_size=any_world, seed=any_seed)
def test_dropping_gives_all_ranks_equally_many_and_repeats_nothing(
    items: Items, batch_size: int, world_size: int, seed: int | None
) -> None:
    kept = batches_of_ranks(items, batch_size, world_size, seed=seed)
    dropped = batches_of_ranks(items, batch_size, world_size, seed=seed, uneven="drop")
    assert {len(batches) for batches in dropped} == {min(map(len, kept))}
    assert max(Counter(all_items(dropped)).values(), default=1) == 1
    assert sum(map(len, kept)) - sum(map(len, dropped)) < world_size


@settings(deadline=None, max_examples=60)
@given(items=any_items, batch_size=any_size, world_size=any_world, seed=any_seed)
def test_without_last_batches_all_are_full(items: Items, batch_size: int, world_size: int, seed: int | None) -> None:
    ranks = batches_of_ranks(items, batch_size, world_size, seed=seed, drop_last=True)
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    served = np.array(all_items(ranks), dtype=np.int64)
    assert len(set(served.tolist())) == len(served)
    for bucket, size in zip(*np.unique(items.bucket_numbers, return_counts=True), strict=True):
        assert (items.bucket_numbers[served] == bucket).sum() == size // batch_size * batch_size


@settings(deadline=None, max_examples=60)
@given(items=any_items, batch_size=any_size, world_size=any_world, seed=any_seed)
def test_at_most_steps_all_ranks_have_the_same_bucket(
    items: Items, batch_size: int, world_size: int, seed: int | None
) -> None:
    ranks = batches_of_ranks(items, batch_size, world_size, seed=seed)
    steps = [[batch for batch in step if batch] for step in zip_longest(*ranks)]
    num_mixed = sum(len({int(items.bucket_numbers[batch[0]]) for batch in step}) > 1 for step in steps)
    num_batches = -(-np.bincount(items.bucket_numbers, minlength=1) // batch_size)
    assert num_mixed <= -(-int((num_batches % world_size).sum()) // world_size)


# --- in which order -------------------------------------------------------------------------------------------------


def test_the_order_of_a_seed_is_the_same_for_good() -> None:
    sampler = BucketBatchSampler(make_items(0, 0, 0, 1, 1, 1, 1, 0, 0), 2, seed=7)
    assert list(sampler) == [[1, 8], [6, 5], [2, 7], [0], [4, 3]]
    sampler.set_epoch(1)
    assert list(sampler) == [[8, 0], [1, 2], [7], [6, 5], [4, 3]]


def test_two_samplers_of_one_seed_agree_whatever_was_read_before() -> None:
    one, other = (BucketBatchSampler(MIXED, 8, seed=3) for _ in range(2))
    list(one), list(one)
    one.set_epoch(5)
    other.set_epoch(5)
    assert list(one) == list(other)
    assert list(one) == list(other)


def test_epochs_and_seeds_differ_in_batches_and_in_their_order() -> None:
    orders = []
    for seed in range(3):
        for epoch in range(3):
            (batches,) = batches_of_ranks(MIXED, 8, 1, epoch, seed=seed)
            orders.append((batches, [int(MIXED.bucket_numbers[batch[0]]) for batch in batches]))
    assert len({json.dumps(batches) for batches, _ in orders}) == 9
    assert len({json.dumps(buckets) for _, buckets in orders}) > 6
    assert len({json.dumps(sorted(sorted(batch) for batch in batches)) for batches, _ in orders}) == 9


def test_other_epochs_leave_out_other_batches() -> None:
    items = make_items(0, 1, 2)
    epochs = [all_items(batches_of_ranks(items, 1, 2, epoch, seed=0, uneven="drop")) for epoch in range(30)]
    assert {tuple(served) for served in epochs} == {(0, 1), (0, 2), (1, 2)}


def test_without_a_seed_items_come_bucket_by_bucket_in_their_order() -> None:
    items = make_items(1, 0, 1, 0, 0, 1, 1)
    assert list(BucketBatchSampler(items, 2)) == [[1, 3], [4], [0, 2], [5, 6]]
    assert batches_of_ranks(items, 2, 2, epoch=9) == [[[1, 3], [0, 2]], [[4], [5, 6]]]


def test_items_are_spread_evenly_over_the_places_of_an_epoch() -> None:
    items = make_items(*[0] * 64)
    places = np.zeros((64, 8))
    for epoch in range(200):
        (batches,) = batches_of_ranks(items, 8, 1, epoch, seed=0)
        for place, batch in enumerate(batches):
            places[batch, place] += 1
    expected = 200 / 8
    chi_squared = (np.square(places - expected) / expected).sum()  # 64 * 7 degrees of freedom: 448, give or take 30
    assert 330 < chi_squared < 570


# --- going on -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    items=any_items,
    batch_size=any_size,
    world_size=any_world,
    uneven=st.sampled_from(["keep", "drop", "pad"]),
    data=st.data(),
)
def test_a_resumed_epoch_gives_the_batches_that_were_left(
    items: Items, batch_size: int, world_size: int, uneven: Any, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    options: Any = {"seed": 5, "rank": rank, "world_size": world_size, "uneven": uneven}
    before, after = (BucketBatchSampler(items, batch_size, **options) for _ in range(2))
    before.set_epoch(3)
    batches = list(before)
    num_done = data.draw(st.integers(0, len(batches)))
    after.resume(json.loads(json.dumps(before.state(num_done))))
    assert len(after) == len(batches) - num_done
    assert list(after) == batches[num_done:]
    after.set_epoch(4)
    before.set_epoch(4)
    assert list(after) == list(before)


def test_a_state_of_a_resumed_epoch_counts_from_the_start_of_the_epoch() -> None:
    sampler = BucketBatchSampler(MIXED, 8, seed=0)
    batches = list(sampler)
    sampler.resume(sampler.state(4))
    sampler.resume(sampler.state(6))
    assert list(sampler) == batches[6:]


def test_telling_the_epoch_again_does_not_undo_a_resume() -> None:
    sampler = BucketBatchSampler(MIXED, 8, seed=0)
    sampler.set_epoch(3)
    batches = list(sampler)
    sampler.resume(sampler.state(4))
    for tell in (sampler.set_epoch, sampler.sampler.set_epoch):
        tell(3)
        assert list(sampler) == batches[4:]
    sampler.set_epoch(4)
    sampler.set_epoch(3)
    assert list(sampler) == batches


def test_an_epoch_before_the_resumed_one_is_refused_unless_it_is_meant() -> None:
    sampler = BucketBatchSampler(MIXED, 8, seed=0)
    first = list(sampler)
    sampler.resume({**sampler.state(4), "epoch": 3})
    with pytest.raises(UsageError, match=r"epoch 0, but the sampler was resumed in epoch 3.*or give a start_batch"):
        sampler.set_epoch(0)
    sampler.set_epoch(0, 0)
    assert list(sampler) == first


def test_no_attribute_tells_a_wrapper_of_full_batches() -> None:
    sampler = BucketBatchSampler(MIXED, 8, drop_last=True)
    assert not hasattr(sampler, "batch_size")
    assert not hasattr(sampler, "drop_last")
    assert BucketBatchSampler(MIXED, 8, uneven="drop").drop_last is True
    with pytest.raises(UsageError, match="deals its batches out to 2 ranks"):
        _ = BucketBatchSampler(MIXED, 8, world_size=2).drop_last


def test_one_rank_s_state_serves_the_others() -> None:
    ranks = batches_of_ranks(MIXED, 8, 3, epoch=2, seed=1)
    first, last = (BucketBatchSampler(MIXED, 8, seed=1, rank=rank, world_size=3) for rank in (0, 2))
    first.set_epoch(2)
    last.resume(first.state(3))
    assert list(last) == ranks[2][3:]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seed: 1 -> 2", {"seed": 2}),
        ("batch_size: 8 -> 9", {"batch_size": 9}),
        ("world_size: 2 -> 3", {"world_size": 3}),
        ("uneven: keep -> pad", {"uneven": "pad"}),
        ("drop_last: False -> True", {"drop_last": True}),
        ("latents_sha256: 0", {"dataset": dataclasses.replace(MIXED, sha256="1" * 64)}),
    ],
)
def test_a_state_of_another_order_is_refused_with_the_difference(name: str, options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"dataset": MIXED, "batch_size": 8, "seed": 1, "world_size": 2}
    state = BucketBatchSampler(**arguments).state(1)
    with pytest.raises(UsageError, match=f"in another order than before .{name}"):
        BucketBatchSampler(**{**arguments, **options}).resume(state)


@pytest.mark.parametrize("state", [{}, {"order": None}, {"order": {}, "epoch": 0}, [], None])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(UsageError):
        BucketBatchSampler(MIXED, 8).resume(state)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"rank": 2, "world_size": 2},
        {"rank": -1},
        {"world_size": 0},
        {"seed": -1},
        {"uneven": "even"},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BucketBatchSampler(**{"dataset": MIXED, "batch_size": 8, **options})


def test_an_epoch_before_the_first_is_refused() -> None:
    sampler = BucketBatchSampler(MIXED, 8)
    for arguments in ((-1,), (0, -1)):
        with pytest.raises(UsageError, match="both count from 0"):
            sampler.set_epoch(*arguments)


def test_nothing_to_sample_is_no_batch() -> None:
    for uneven in ("keep", "drop", "pad"):
        assert batches_of_ranks(make_items(), 4, 2, uneven=uneven) == [[], []]
