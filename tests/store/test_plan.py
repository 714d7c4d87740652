"""The cut of images into shards: the same for equal inputs, every image once, nothing larger than asked for."""

import os
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.events import Failure
from semdis_cli.provenance import LatentLayout, Provenance
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.sources.files import ON_DISK
from semdis_cli.store.checks import check_shard_name
from semdis_cli.store.writing.plan import PlannedShard, plan_sha256, plan_shards

LAYOUT = LatentLayout(patch_size=16, channels=128, dtype="bfloat16")
BUCKETS = [(16, 16), (16, 32), (32, 16), (256, 256), (512, 16)]
FAILURE = Failure("bad.png", "is empty")


def planned(key: str, bucket: tuple[int, int] = (16, 16), num_bytes: int = 1, folder: str = "images") -> PlannedImage:
    return PlannedImage(SourceImage(key, ON_DISK, f"{folder}/file", num_bytes), bucket)


quick = settings(deadline=None)

keys = st.binary(min_size=1, max_size=4).map(os.fsdecode)
image_lists = st.dictionaries(keys, st.sampled_from(BUCKETS), max_size=40).map(
    lambda found: [planned(key, bucket) for key, bucket in sorted(found.items())]
)
shard_bytes = st.integers(1, 200_000)
shard_images = st.one_of(st.none(), st.integers(1, 7))


@quick
@given(images=image_lists, size=shard_bytes, count=shard_images)
def test_every_image_is_in_one_shard_once_and_in_the_order_of_keys(
    images: list[PlannedImage], size: int, count: int | None
) -> None:
    shards = plan_shards(images, LAYOUT, shard_bytes=size, shard_images=count)
    by_bucket = sorted(images, key=lambda image: (image.bucket, image.source.key))
    assert [image for shard in shards for image in shard.images] == by_bucket
    assert all(shard.images for shard in shards)


@quick
@given(images=image_lists, size=shard_bytes, count=shard_images)
def test_a_shard_has_one_bucket_and_a_name_that_says_its_number_and_grid(
    images: list[PlannedImage], size: int, count: int | None
) -> None:
    shards = plan_shards(images, LAYOUT, shard_bytes=size, shard_images=count)
    for number, shard in enumerate(shards):
        assert {image.bucket for image in shard.images} == {shard.bucket}
        height, width = shard.bucket
        assert shard.name == f"{number:08d}-{height // 16}x{width // 16}.safetensors"
        assert check_shard_name(shard.name) == shard.name


def sizes_by_bucket(shards: Sequence[PlannedShard]) -> list[tuple[tuple[int, int], list[int]]]:
    return [
        (bucket, [len(shard.images) for shard in group])
        for bucket, group in groupby(shards, lambda shard: shard.bucket)
    ]


@quick
@given(images=image_lists, count=st.integers(1, 7), size=shard_bytes)
def test_shards_have_exactly_the_number_of_images_asked_for_but_the_last_of_a_bucket(
    images: list[PlannedImage], count: int, size: int
) -> None:
    for _, sizes in sizes_by_bucket(plan_shards(images, LAYOUT, shard_bytes=size, shard_images=count)):
        assert set(sizes[:-1]) <= {count}
        assert sizes[-1] <= count


@quick
@given(images=image_lists, size=shard_bytes)
def test_shards_are_as_large_as_asked_for_and_not_larger_unless_one_image_is(
    images: list[PlannedImage], size: int
) -> None:
    for bucket, sizes in sizes_by_bucket(plan_shards(images, LAYOUT, shard_bytes=size)):
        one = LAYOUT.latent_bytes(bucket)
        assert max(sizes) * one <= max(size, one)
        assert all((number + 1) * one > size for number in sizes[:-1])


@quick
@given(images=image_lists, size=shard_bytes, count=shard_images)
def test_equal_inputs_give_equal_plans(images: list[PlannedImage], size: int, count: int | None) -> None:
    one = plan_shards(images, LAYOUT, shard_bytes=size, shard_images=count)
    other = plan_shards(iter(list(images)), LAYOUT, shard_bytes=size, shard_images=count)
    assert one == other
    settings = Provenance.from_json({"a": 1, "b": [2]}), Provenance.from_json({"b": [2], "a": 1})
    assert plan_sha256(settings[0], one, [FAILURE]) == plan_sha256(settings[1], other, [FAILURE])


@quick
@given(images=image_lists, count=st.integers(1, 7))
def test_one_bucket_s_shards_do_not_depend_on_the_images_of_others(images: list[PlannedImage], count: int) -> None:
    alone = [image for image in images if image.bucket == (16, 32)]
    shards = plan_shards(images, LAYOUT, shard_bytes=1, shard_images=count)
    assert [shard.images for shard in shards if shard.bucket == (16, 32)] == [
        shard.images for shard in plan_shards(alone, LAYOUT, shard_bytes=1, shard_images=count)
    ]


def test_no_images_are_no_shards() -> None:
    assert plan_shards([], LAYOUT, shard_bytes=1) == []


@pytest.mark.parametrize(("dtype", "num_bytes"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_the_size_of_latents_follows_from_patch_channels_and_dtype(dtype: str, num_bytes: int) -> None:
    layout = LatentLayout(16, 128, dtype)
    assert layout.grid((256, 512)) == (16, 32)
    assert layout.latent_bytes((256, 512)) == 16 * 32 * 128 * num_bytes


def test_128_channels_in_bfloat16_cost_one_byte_a_pixel() -> None:
    assert LAYOUT.latent_bytes((256, 512)) == 256 * 512


# --- the plan's hash ------------------------------------------------------------------------------------------------


def sha256_of(
    *images: PlannedImage, count: int = 2, failures: Sequence[Failure] = (FAILURE,), dtype: str = "bfloat16"
) -> str:
    shards = plan_shards(images, LAYOUT, shard_bytes=1, shard_images=count)
    return plan_sha256(Provenance.from_json({"dtype": dtype}), shards, failures)


ONE, TWO, THREE = planned("1.png"), planned("2.png"), planned("3.png", (32, 32))

OTHERS = {
    "another setting": sha256_of(ONE, TWO, THREE, dtype="float32"),
    "an image less": sha256_of(ONE, TWO),
    "an image more": sha256_of(ONE, TWO, THREE, planned("4.png", (32, 32))),
    "an image renamed": sha256_of(planned("0.png"), TWO, THREE),
    "an image that changed in size": sha256_of(planned("1.png", num_bytes=2), TWO, THREE),
    "an image of another bucket": sha256_of(ONE, planned("2.png", (32, 32)), THREE),
    "another cut": sha256_of(ONE, TWO, THREE, count=1),
    "a failure less": sha256_of(ONE, TWO, THREE, failures=[]),
    "a failure more": sha256_of(ONE, TWO, THREE, failures=[FAILURE, Failure("worse.png", "is empty")]),
    "a failure renamed": sha256_of(ONE, TWO, THREE, failures=[Failure("c.png", "is empty")]),
    "an image that is a failure now": sha256_of(ONE, THREE, failures=[Failure("2.png", "is empty"), FAILURE]),
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_the_hash_tells_a_plan_from(other: str) -> None:
    assert OTHERS[other] != sha256_of(ONE, TWO, THREE)


def test_the_hashes_of_different_plans_all_differ() -> None:
    assert len(set(OTHERS.values())) == len(OTHERS)


def test_the_hash_does_not_depend_on_where_the_images_lie_or_why_one_failed() -> None:
    moved = [planned(image.source.key, image.bucket, folder="elsewhere") for image in (ONE, TWO, THREE)]
    assert sha256_of(*moved, failures=[Failure("bad.png", "gone")]) == sha256_of(ONE, TWO, THREE)
