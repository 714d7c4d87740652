"""Damaged shards at every door: refused by name, or read as the whole one; never anything else."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file
from semdis_cli.records import FileDigest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import Shard, read_shard, write_shard
from tests.fuzz import refusal
from tests.fuzz.edited_shards import (
    EDITS,
    assemble,
    edited_header,
    edited_metadata,
    edited_tensor,
    header_of,
    payload_start,
)
from tests.store import are_equal, have_equal_latents, make_shard, peak_bytes, problems


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole shard, not to be changed."""
    path = tmp_path_factory.mktemp("shards") / "whole.safetensors"
    write_shard(path, make_shard())
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path for damaged shards."""
    return tmp_path_factory.mktemp("shards") / "damaged.safetensors"


def open_and_read(path: Path) -> None:
    source = open_latents(path)
    for stored in source.shards:
        source.read(stored)


def verify(path: Path) -> None:
    if told := problems(path):
        raise StoreError(f"{path}: {told[0].what}")


def open_for_training(path: Path) -> None:
    facts_of(LatentDataset(path, verify=True))


def facts_of(dataset: LatentDataset) -> list[Any]:
    items = [(item.key, item.latents.tolist(), item.source_size.tolist(), item.image_size.tolist()) for item in dataset]
    return [dataset.provenance, *items]


DOORS: dict[str, Callable[[Path], object]] = {
    "read": read_shard,
    "open": open_and_read,
    "verify": verify,
    "train": open_for_training,
}


def read_or_none(path: Path, data: bytes, expected: FileDigest | None = None) -> Shard | None:
    """The shard in `data`, or None if it is refused by the file's name; any other exception is a failure."""
    path.write_bytes(data)
    try:
        return read_shard(path, expected)
    except StoreError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    return None


# --- edited shards --------------------------------------------------------------------------------------------------

IN_THE_LATENTS = {"sha256 of other latents"}  # noticed by `LatentDataset` only when it is asked to read them


@pytest.mark.parametrize("edit", list(EDITS))
def test_an_edited_shard_is_refused_by_name_at_every_door(written: Path, scratch: Path, edit: str) -> None:
    data = EDITS[edit](written.read_bytes())
    scratch.write_bytes(data)
    said = {name: refusal(door, scratch) for name, door in DOORS.items()}
    assert said.pop("verify")
    assert all(reason.startswith("not a semdis shard") for reason in said.values()), said
    assert read_or_none(scratch, data, digest_file(written)) is None
    assert bool(refusal(LatentDataset, scratch)) != (edit in IN_THE_LATENTS)


def test_the_tools_of_these_tests_alone_damage_nothing(written: Path, scratch: Path) -> None:
    data = written.read_bytes()
    for same in (edited_header(data), edited_tensor(data), edited_metadata(data)):
        shard = read_or_none(scratch, same)
        assert shard is not None
        assert are_equal(shard, make_shard())


@pytest.mark.parametrize(
    "length", [0, 2**16, 2**20, 99_999_999, 100_000_001, 2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
)
def test_a_huge_header_length_is_refused_before_anything_is_allocated(
    written: Path, scratch: Path, length: int
) -> None:
    data = length.to_bytes(8, "little") + written.read_bytes()[8:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_or_none(scratch, data) is None
    assert peak_bytes(lambda: read_or_none(scratch, data)) < 2**20
    assert peak_bytes(lambda: problems(scratch)) < 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB


# --- flipped bits ---------------------------------------------------------------------------------------------------
#
# With the manifest's sha256 every flipped bit is found. A shard on its own answers for its latents and its record; what
# goes unnoticed (a space for a tab, a capital in an escape) changes nothing of either.


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_every_flipped_bit_is_found_with_the_manifest(written: Path, scratch: Path) -> None:
    data, expected = written.read_bytes(), digest_file(written)
    for position in range(len(data)):
        damaged = flipped(data, position, position % 8)
        assert read_or_none(scratch, damaged, expected) is None, f"byte {position}"


def test_no_flipped_bit_changes_anything_of_a_shard_on_its_own(written: Path, scratch: Path) -> None:
    data, whole = written.read_bytes(), read_shard(written)
    text = json.dumps(header_of(data)["__metadata__"]["semdis"]).encode()[1:-1]
    metadata_start = data.index(text)
    metadata = range(metadata_start, metadata_start + len(text))
    for position in range(len(data)):
        for bit in {position % 8, 5} if position in metadata else range(8):
            shard = read_or_none(scratch, flipped(data, position, bit))
            if shard is not None:
                assert position in metadata, f"byte {position} bit {bit} went unnoticed"
                assert are_equal(shard, whole)


def test_no_flipped_bit_of_a_header_changes_anything_of_a_dataset(written: Path, scratch: Path) -> None:
    data, whole = written.read_bytes(), facts_of(LatentDataset(written))
    num_read = 0
    for position in range(0, payload_start(data), 3):
        scratch.write_bytes(flipped(data, position, position % 8))
        if not refusal(LatentDataset, scratch):
            assert facts_of(LatentDataset(scratch)) == whole, f"byte {position}"
            num_read += 1
    assert num_read < 0.02 * payload_start(data)


def test_a_shard_cut_short_anywhere_is_refused(written: Path, scratch: Path) -> None:
    data, expected = written.read_bytes(), digest_file(written)
    for kept in range(len(data)):
        assert read_or_none(scratch, data[:kept]) is None, f"{kept} of {len(data)} bytes"
        assert read_or_none(scratch, data[:kept], expected) is None


def test_the_size_in_the_manifest_is_held_against_the_file_first(written: Path, scratch: Path) -> None:
    data, expected = written.read_bytes(), digest_file(written)
    scratch.write_bytes(data + b"\0")
    with pytest.raises(StoreError, match=f"{len(data) + 1} bytes, but the manifest says {len(data)}; damaged"):
        read_shard(scratch, expected)


# --- anything at all ------------------------------------------------------------------------------------------------

Mutation = Callable[[bytes], bytes]


def replace(position: float, part: bytes) -> Mutation:
    def mutate(data: bytes) -> bytes:
        start = int(position * len(data))
        return data[:start] + part + data[start + len(part) :]

    return mutate


def insert(position: float, part: bytes) -> Mutation:
    return lambda data: data[: int(position * len(data))] + part + data[int(position * len(data)) :]


def delete(position: float, length: int) -> Mutation:
    return lambda data: data[: int(position * len(data))] + data[int(position * len(data)) + length :]


def replace_number(which: int, number: int) -> Mutation:
    """Another number in the place of one of the header's, its length corrected."""

    def mutate(data: bytes) -> bytes:
        header, payload = data[8 : payload_start(data)], data[payload_start(data) :]
        digits = [place for place, byte in enumerate(header) if 48 <= byte <= 57]
        place = digits[which % len(digits)] if digits else 0
        return assemble(header[:place] + str(number).encode() + header[place + 1 :], payload)

    return mutate


positions = st.floats(0, 1)
parts = st.one_of(st.binary(max_size=8), st.sampled_from([b'"', b"[", b"}", b"\\u0000", b"1e999", b"NaN", b"-", b"  "]))
mutations = st.lists(
    st.one_of(
        st.builds(replace, positions, parts),
        st.builds(insert, positions, parts),
        st.builds(delete, positions, st.integers(1, 64)),
        st.builds(replace_number, st.integers(0, 10_000), st.one_of(st.integers(), st.sampled_from([2**31, 2**64]))),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(mutations=mutations)
def test_whatever_happens_to_its_bytes_a_shard_is_refused_or_has_its_latents(
    written: Path, scratch: Path, mutations: list[Mutation]
) -> None:
    whole, damaged = written.read_bytes(), written.read_bytes()
    for mutate in mutations:
        damaged = mutate(damaged)
    checked = read_or_none(scratch, damaged, digest_file(written))
    assert (checked is not None) == (damaged == whole)
    shard = read_or_none(scratch, damaged)
    assert shard is None or have_equal_latents(shard, make_shard())
    if shard is None or refusal(verify, scratch):
        assert refusal(verify, scratch)
    else:
        assert [name for name, door in DOORS.items() if refusal(door, scratch)] == []


@settings(max_examples=100, deadline=None)
@example(header=b"{}", payload=b"")
@example(header=b'{"latents":{"dtype":"BF16","shape":[0,0,0,0],"data_offsets":[0,0]}}', payload=b"")
@given(header=st.binary(max_size=64), payload=st.binary(max_size=64))
def test_bytes_of_any_kind_are_no_shard(scratch: Path, header: bytes, payload: bytes) -> None:
    for data in (header + payload, assemble(header, payload)):
        scratch.write_bytes(data)
        assert [name for name, door in DOORS.items() if not refusal(door, scratch)] == []
