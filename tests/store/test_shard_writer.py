"""One shard of a set that is being written: the same file however its rows come, and whoever sums them up."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semdis_cli.events import Failure
from semdis_cli.files.atomic import digest_file
from semdis_cli.parts import LATENTS, LATENTS_FLIP, MASK, SCALE
from semdis_cli.records import EncodedImage, PlannedImage, SourceImage
from semdis_cli.sources.files import ON_DISK
from semdis_cli.store.shards import Shard, shard_bytes
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.writing.plan import PlannedShard
from semdis_cli.store.writing.shard_writer import EncodedShard, ShardRows, publish_shard
from tests.store import make_shard

BUCKET = (32, 32)
KEYS = tuple(f"{number:02d}.png" for number in range(20))
SHARDS = {
    "plain": make_shard(KEYS),
    "quantised, with parts": make_shard(KEYS, "int8", parts=(LATENTS_FLIP, MASK)),
}


def empty_rows(shard: Shard, keys: Sequence[str] = KEYS) -> ShardRows:
    images = tuple(PlannedImage(SourceImage(key, ON_DISK, key, 1), BUCKET) for key in keys)
    return ShardRows(PlannedShard("00000000-2x2.safetensors", images), shard.provenance.layout)


def images_of(shard: Shard) -> list[EncodedImage]:
    return [
        EncodedImage(record, shard.latents[row], parts={name: part[row] for name, part in shard.parts.items()})
        for row, record in enumerate(shard.records)
    ]


def rows_of(shard: Shard, first: int, end: int) -> dict[str, Tensor]:
    return {name: tensor[first:end] for name, tensor in shard.tensors.items()}


def sums_of(shard: Shard) -> ChannelSums:
    return ChannelSums.of_all(shard.latents, shard.parts.get(SCALE))


@settings(deadline=None)
@given(kind=st.sampled_from(sorted(SHARDS)), cuts=st.sets(st.integers(1, 19)), whole=st.sets(st.integers(0, 19)))
def test_a_shard_is_the_same_however_its_images_come(kind: str, cuts: set[int], whole: set[int]) -> None:
    shard, images = SHARDS[kind], images_of(SHARDS[kind])
    rows = empty_rows(shard)
    with ThreadPoolExecutor(3) as threads:
        folding = []
        for first, end in pairwise([0, *sorted(cuts), 20]):
            rows.add_call(images[first:end], rows_of(shard, first, end) if first in whole else None)
            folding.append(threads.submit(rows.fold))
        done = rows.finish()
    assert [fold.result() for fold in folding] == [None] * len(folding)
    assert done == EncodedShard(done.planned, done.blocks, tuple(shard.records), done.seen, (), *facts(shard))


def facts(shard: Shard) -> tuple[str, ChannelSums]:
    """What is known of the tensors of a shard once they are all there: as its file says, and their sums."""
    rows = empty_rows(shard)
    rows.add_call(images_of(shard), shard.tensors)
    return rows.finish().latents_sha256, sums_of(shard)


@pytest.mark.parametrize("kind", SHARDS)
def test_its_file_is_that_of_a_shard_with_the_same_rows(tmp_path: Path, kind: str) -> None:
    shard = SHARDS[kind]
    rows = empty_rows(shard)
    rows.add_call(images_of(shard)[:7], rows_of(shard, 0, 7))
    rows.add_call(images_of(shard)[7:], None)
    written = publish_shard(rows.finish(), tmp_path, shard.provenance)
    path = tmp_path / written.name
    assert path.read_bytes() == shard_bytes(shard)
    assert written.file == digest_file(path)
    assert written.num_ok == 20


def test_rows_that_lie_otherwise_in_memory_and_images_that_failed_change_nothing(tmp_path: Path) -> None:
    shard = SHARDS["plain"]
    rows = empty_rows(shard, [*KEYS, "bad.png"])
    strided = torch.stack([shard.latents, shard.latents], dim=1)[:, 0]
    rows.add_call(images_of(shard), {LATENTS: strided})
    assert not rows.is_full
    rows.add_failure(Failure("bad.png", "is empty"))
    written = publish_shard(rows.finish(), tmp_path, shard.provenance)
    assert (tmp_path / written.name).read_bytes() == shard_bytes(shard)
