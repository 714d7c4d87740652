"""A plan in a file: it comes back whole, is read bit by bit, leads to the same bytes, and damage is said in a line."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import SemdisError, StoreError
from semdis_cli.events import Failure, LeftOut
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.json_text import to_line
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.named import NamedSources
from semdis_cli.sources.recorded import RecordedImages
from semdis_cli.store.writing.changes import Changes, Contents
from semdis_cli.store.writing.filed_plan import plan_of
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.plan import SetPlan, plan_shards
from semdis_cli.store.writing.plan_file import PlanFile, write_plan
from tests.store import KEYS, SmallPlan, hashes_of, lasting, make_plan, write_next, write_set, write_some

FORM = RecordedImages(NamedSources((Path("images"),)), has_beside=False)
LAYOUT = make_plan().layout
ABOUT = {"sources": ["images"], "number": 3}


def write(path: Path, plan: SetPlan, base_sha256: str | None = None) -> PlanFile:
    write_plan(path, plan, base_sha256, ABOUT, FORM)
    return read(path)


def read(path: Path) -> PlanFile:
    file = PlanFile.read(path)
    assert file is not None
    return file


def facts_of(images: Sequence[SourceImage]) -> list[object]:
    return [(image.key, *image.stamp, image.place) for image in images]


def all_of(plan: SetPlan) -> dict[str, object]:
    """Everything of a plan as plain values."""
    changes = plan.changes
    names = ("returned", "removed", "forgotten", "num_changed", "failed_before", "num_failed", "num_left_out")
    return {
        "shards": [(shard.name, shard.version, shard.bucket, len(shard.images)) for shard in plan.shards],
        "images": [facts_of([image.source for image in shard.images]) for shard in plan.shards],
        "buckets": [{image.bucket for image in shard.images} for shard in plan.shards],
        "failures": list(plan.failures),
        "left_out": list(plan.left_out),
        "classes": plan.classes,
        "sha256": plan.sha256,
        "num_inputs": plan.num_inputs,
        "kept": facts_of(changes.kept),
        **{name: getattr(changes, name) for name in (*names, "set_aside", "lacks_times")},
    }


# ---- What comes back ----


def test_a_plan_comes_back_with_what_is_noted_beside_it(tmp_path: Path) -> None:
    plan = make_plan().on(Base(tmp_path, tmp_path))
    file = write(tmp_path / "plan", plan, "a" * 64)
    assert all_of(plan_of(file, FORM)) == all_of(plan)
    assert (file.about, file.base_sha256, file.plan_sha256) == (ABOUT, "a" * 64, plan.sha256)
    assert file.num_images == sum(len(shard.images) for shard in plan.shards)
    assert PlanFile.read(tmp_path / "none") is None


def test_the_same_plan_has_the_same_bytes(tmp_path: Path) -> None:
    plan = make_plan().on(Base(tmp_path, tmp_path))
    write(tmp_path / "one", plan)
    write(tmp_path / "other", plan_of(read(tmp_path / "one"), FORM))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


KEY = st.binary(min_size=1, max_size=4).map(os.fsdecode).filter(lambda key: not {"/", "\0"} & {*key} and "." not in key)
SIZE = st.integers(0, 2**50)
TIME = st.none() | st.integers(-(2**60), 2**60)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
IMAGES = st.dictionaries(KEY, st.tuples(SIZE, TIME, TIME), max_size=12).map(
    lambda found: [SourceImage(key, ON_DISK, f"images/{key}", *stamp) for key, stamp in sorted(found.items())]
)
REASONS = st.dictionaries(KEY, TEXT, max_size=4)
PX = st.tuples(st.integers(1, 999), st.integers(1, 999))
CHANGES = st.builds(
    Changes,
    to_encode=st.builds(ImageList),
    kept=IMAGES.map(ImageList),
    returned=st.frozensets(KEY, max_size=4),
    removed=st.frozensets(KEY, max_size=4),
    forgotten=st.frozensets(KEY, max_size=4),
    num_changed=SIZE,
    failed_before=REASONS,
    num_failed=SIZE,
    left_out=st.just(()),
    num_left_out=st.dictionaries(TEXT, SIZE, max_size=2),
    set_aside=REASONS,
    contents=st.builds(Contents),
    is_on_record=st.just(False),
    lacks_times=st.booleans(),
)
FAILURES = st.builds(Failure, KEY, TEXT, st.none() | SIZE, TIME, TIME)
LEFT_OUT = st.builds(LeftOut, KEY, TEXT, SIZE, TIME, TIME, st.none() | PX, st.none() | st.just("b" * 64))
PLANS = st.builds(
    SetPlan,
    shards=IMAGES.map(
        lambda images: plan_shards(
            [PlannedImage(image, (16, 32)) for image in images], LAYOUT, shard_bytes=1, shard_images=5, version=1
        )
    ),
    failures=st.lists(FAILURES, max_size=4).map(tuple),
    changes=CHANGES,
    sha256=st.just("c" * 64),
    classes=st.lists(TEXT, max_size=3, unique=True).map(tuple),
    left_out=st.lists(LEFT_OUT, max_size=4).map(tuple),
)


@given(PLANS)
def test_any_plan_comes_back(tmp_path_factory: pytest.TempPathFactory, plan: SetPlan) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan"
    assert all_of(plan_of(write(path, plan), FORM)) == all_of(plan)


# ---- What is read of it ----


def test_of_a_shard_its_own_images_are_read_and_no_others(tmp_path: Path) -> None:
    plan = make_plan().on(Base(tmp_path, tmp_path))
    file = write(tmp_path / "plan", plan)
    taken = file.shards[1]
    data = bytearray((tmp_path / "plan").read_bytes())
    for shard in file.shards:
        if shard is not taken:
            data[shard.line.offset : shard.line.offset + shard.line.num_bytes] = bytes(shard.line.num_bytes)
    (tmp_path / "plan").write_bytes(data)
    shards = plan_of(read(tmp_path / "plan"), FORM).shards
    assert [(shard.name, shard.bucket, len(shard.images)) for shard in shards] == [
        (shard.name, shard.bucket, len(shard.images)) for shard in plan.shards
    ]
    assert list(shards[1].images) == list(plan.shards[1].images)
    with pytest.raises(StoreError, match=r"plan: the plan is damaged \(.*\); make it again with semdis plan"):
        list(shards[0].images)


def test_many_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    failures = tuple(Failure(f"{number:06d}.png", "is empty") for number in range(10_000))
    file = write(tmp_path / "plan", SetPlan((), failures, Changes(), "c" * 64))
    found = plan_of(file, FORM).failures
    assert len(file.lists["failures"]) == 3
    assert (len(found), found[0], found[4096], found[-1]) == (10_000, failures[0], failures[4096], failures[-1])
    assert found[4095:4098] == list(failures[4095:4098])
    assert tuple(found) == failures
    with pytest.raises(IndexError):
        found[10_000]


def test_many_images_that_are_kept_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    found = [SourceImage(f"{number:05d}.png", ON_DISK, f"images/{number:05d}.png", number, 5) for number in range(9000)]
    images = ImageList(found)
    file = write(tmp_path / "plan", SetPlan((), (), Changes(kept=images), "c" * 64))
    kept = plan_of(file, FORM).changes.kept
    assert len(file.lists["kept"]) == 3
    assert (len(kept), kept[4096], kept[-1], list(kept)) == (9000, found[4096], found[-1], found)
    assert (kept[4090:4100], kept[4100:4090:-1]) == (found[4090:4100], found[4100:4090:-1])
    assert list(kept.facts()) == list(images.facts())
    assert kept.facts_of(0, 0) == ((), (), (), ())
    assert list(kept.pick([8191, 8192, 3])) == [found[8191], found[8192], found[3]]
    other = replace(found[7], num_bytes=1)
    assert list(kept.changed([other])) == [*found[:7], other, *found[8:]]


# ---- Sets that are made of it ----


def write_from_file(root: Path, plan: SmallPlan) -> None:
    """Write what is missing of a set by a plan that was written to a file, and read from it."""
    with LatentSetWriter(root, plan.provenance) as latents:
        while True:
            planned = plan.on(latents.base)
            file = write(root.with_suffix(".plan"), planned, latents.base.sha256)
            if latents.begin(plan_of(file, FORM), hashes_of):
                break
        while latents.remaining:
            write_next(latents)
        latents.finish()


def test_a_set_that_is_made_of_a_plan_in_a_file_has_the_same_bytes(tmp_path: Path) -> None:
    write_set(tmp_path / "one")
    write_from_file(tmp_path / "other", make_plan())
    assert lasting(tmp_path / "one") == lasting(tmp_path / "other")


def test_a_set_that_was_begun_goes_on_with_a_plan_in_a_file(tmp_path: Path) -> None:
    write_set(tmp_path / "one")
    write_some(tmp_path / "other", 2)
    write_from_file(tmp_path / "other", make_plan())
    assert lasting(tmp_path / "one") == lasting(tmp_path / "other")


def test_a_set_that_grows_by_a_plan_in_a_file_has_the_same_bytes(tmp_path: Path) -> None:
    keys = ("0.png", "a.png", "b/bad.png", "b/c.png", "c.png", "x.png", "y.png")
    grown = replace(make_plan(keys), failures=(Failure("d.jpg", "is a folder"),), more_bytes={"c.png": 2})
    back = make_plan(KEYS[:-1])
    for plan in (make_plan(), grown, back):
        write_set(tmp_path / "one", plan)
        write_from_file(tmp_path / "other", plan)
        assert lasting(tmp_path / "one") == lasting(tmp_path / "other")
        assert (tmp_path / "one/seen.jsonl").read_bytes() == (tmp_path / "other/seen.jsonl").read_bytes()


# ---- Damaged and hostile files ----


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan in a file, to be copied."""
    path = tmp_path_factory.mktemp("plan") / "plan"
    write(path, make_plan().on(Base(path, path)))
    return path


@given(st.data())
def test_any_change_of_a_byte_and_any_cut_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan"
    write(path, make_plan().on(Base(path, path)))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    with pytest.raises(StoreError, match="the plan is damaged") as raised:
        all_of(plan_of(read(path), FORM))
    assert "\n" not in str(raised.value)


def signed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the head of a plan, as somebody would who knows the format."""
    *lines, head, _ = path.read_bytes().splitlines(keepends=True)
    fields = json.loads(head)
    change(fields)
    head, start = to_line(fields), sum(map(len, lines))
    path.write_bytes(b"".join(lines) + head + to_line({"head": start, "sha256": hashlib.sha256(head).hexdigest()}))
    return path


BAD_HEADS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("of version 2", lambda head: head.update(version=2)),
    ("no sha256", lambda head: head.update(plan_sha256="x")),
    ("no object", lambda head: head.update(about=[])),
    ("no shard name", lambda head: head["shards"][0].__setitem__(0, "../../x.safetensors")),
    ("comes twice", lambda head: head["shards"].append(head["shards"][0])),
    ("a line beyond its end", lambda head: head["shards"][0].__setitem__(5, 1 << 40)),
    ("a line beyond its end", lambda head: head["shards"][0].__setitem__(3, 1 << 15)),
    ("a shard of 0 images", lambda head: head["shards"][0].__setitem__(3, 0)),
    ("a shard of 3 images", lambda head: head["shards"][0].__setitem__(2, [0, 16])),
    ("other images than it says", lambda head: head["shards"][0].__setitem__(3, 2)),
    ("neither true nor false", lambda head: head["changes"].update(lacks_times=1)),
    ("no count", lambda head: head["changes"].update(num_failed=-1)),
    ("two classes", lambda head: head.update(classes=["a", "a"])),
]


@pytest.mark.parametrize(("reason", "change"), BAD_HEADS)
def test_a_head_that_says_what_cannot_be_is_refused(
    tmp_path: Path, reason: str, change: Callable[[dict[str, Any]], object]
) -> None:
    write(tmp_path / "plan", make_plan().on(Base(tmp_path, tmp_path)))
    with pytest.raises(StoreError, match=reason):
        all_of(plan_of(read(signed(tmp_path / "plan", change)), FORM))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_hostile_heads_are_refused_in_a_line_or_read(written: Path, data: st.DataObject) -> None:
    path = written.with_name("hostile")
    path.write_bytes(written.read_bytes())

    def change(head: dict[str, Any]) -> None:
        spot: Any = head
        for _ in range(data.draw(st.integers(0, 3))):
            inner = list(spot.values()) if isinstance(spot, dict) else spot
            inner = [each for each in inner if isinstance(each, dict | list) and each]
            spot = data.draw(st.sampled_from(inner)) if inner else spot
        name = data.draw(st.sampled_from(sorted(spot) if isinstance(spot, dict) else range(len(spot))))
        spot[name] = data.draw(JSON)

    try:
        all_of(plan_of(read(signed(path, change)), FORM))
    except SemdisError as error:
        assert "\n" not in str(error)  # noqa: PT017 (some changes are of no consequence)


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        PlanFile.read(tmp_path / "plan")
