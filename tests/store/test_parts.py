"""Parts of a shard: tensors beside the latents that are written, read, checked and carried as these are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.parts import BYTES_PER_VALUE, LATENTS, LATENTS_FLIP, LOG_SNR, MASK, MASK_FLIP, PARTS
from semdis_cli.records import EncodedImage
from semdis_cli.store.exchange.stream import StreamWriter, join_shards, read_member
from semdis_cli.store.mapped_shard import MappedShard, ReadRows
from semdis_cli.store.random_access import open_latents
from semdis_cli.store.shard_header import read_shard_header, stored_tensors
from semdis_cli.store.shards import STORE_DTYPES, parse_shard, read_shard, shard_bytes, write_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying.payload import read_payload
from tests.fuzz.edited_shards import header_of
from tests.store import (
    GOOD_KEYS,
    are_alike,
    are_equal,
    contents,
    lasting,
    make_plan,
    make_shard,
    problems,
    with_settings,
    write_set,
    write_some,
)

SOME = sorted([LATENTS_FLIP, LOG_SNR, MASK])


@settings(deadline=None)
@given(
    parts=st.sets(st.sampled_from(PARTS)),
    dtype=st.sampled_from(list(STORE_DTYPES)),
    num_images=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 2)),
)
def test_any_parts_are_read_bit_for_bit_by_us_and_by_the_format_s_own_loader(
    tmp_path_factory: pytest.TempPathFactory, parts: set[str], dtype: str, num_images: int, grid: tuple[int, int]
) -> None:
    keys = tuple(f"{number}.png" for number in range(num_images))
    shard = make_shard(keys, dtype, (16 * grid[0], 16 * grid[1]), sorted(parts))
    path = tmp_path_factory.mktemp("shard") / "shard"
    write_shard(path, shard)
    assert are_equal(read_shard(path), shard)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(shard.tensors) >= {LATENTS, *parts}
        assert all(are_alike(file.get_tensor(name), tensor) for name, tensor in shard.tensors.items())
    header = read_shard_header(path)
    for mapped in _rows_of(path):
        for tensor in header.tensors:
            row = mapped[tensor.name][num_images - 1].view(STORE_DTYPES[tensor.dtype]).view(tensor.shape[1:])
            assert are_alike(row, shard.tensors[tensor.name][-1])
    layout = shard.provenance.layout
    assert header.payload_bytes == num_images * layout.latent_bytes((16 * grid[0], 16 * grid[1]))
    assert all(tensor.start % BYTES_PER_VALUE[tensor.dtype] == 0 for tensor in header.tensors)


def _rows_of(path: Path) -> list[dict[str, torch.Tensor] | dict[str, ReadRows]]:
    """The rows of a shard mapped, and read."""
    header = read_shard_header(path)
    shard = MappedShard.of(path.name, header)
    read = {tensor.name: ReadRows(path, header.payload_start, tensor) for tensor in header.tensors}
    return [shard.map(path.parent), read]


def test_a_shard_without_parts_has_the_bytes_that_it_always_had() -> None:
    data = shard_bytes(make_shard())
    assert set(header_of(data)) == {"__metadata__", LATENTS}
    assert "parts" not in json.loads(header_of(data)["__metadata__"]["semdis"])["provenance"]


def test_some_rows_of_a_shard_keep_their_parts() -> None:
    shard = make_shard(("a", "b", "c"), parts=SOME)
    some = shard.select([2, 0])
    assert all(torch.equal(tensor, shard.parts[name][[2, 0]]) for name, tensor in some.parts.items())
    assert are_equal(parse_shard(shard_bytes(some), "some"), some)


def test_statistics_are_those_of_the_latents_alone(tmp_path: Path) -> None:
    shard = make_shard(("a", "b", "c"), parts=list(PARTS))
    write_shard(tmp_path / "shard", shard)
    sums = read_payload(tmp_path / "shard", read_shard_header(tmp_path / "shard"), [0, 2]).sums
    expected = ChannelSums.of_all(shard.latents[[0, 2]])
    assert sums.count == expected.count
    np.testing.assert_allclose(sums.squares, expected.squares, rtol=1e-12)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (["latents_flop"], "a part 'latents_flop', which this version does not know"),
        ([LOG_SNR, LATENTS_FLIP], "parts that are not sorted"),
        ([LATENTS_FLIP, LATENTS_FLIP], "parts that are not sorted"),
        ([], r"parts \[\]"),
        ("mask", "parts mask"),
        ([1], r"parts \[1\]"),
    ],
)
def test_a_record_with_strange_parts_is_refused(tmp_path: Path, parts: object, why: str) -> None:
    write_shard(tmp_path / "shard", with_settings(make_shard(), parts=parts))
    with pytest.raises(StoreError, match=f"shard: not a semdis shard \\({why}"):
        read_shard(tmp_path / "shard")


@pytest.mark.parametrize("said", [[], [MASK], [LATENTS_FLIP, MASK]])
def test_a_shard_that_lacks_a_part_or_has_one_too_many_is_refused(tmp_path: Path, said: list[str]) -> None:
    shard = make_shard(parts=[LATENTS_FLIP])
    provenance = {name: value for name, value in shard.provenance.to_json().items() if name != "parts"}
    other = type(shard.provenance).from_json({**provenance, **({"parts": said} if said else {})})
    (tmp_path / "shard").write_bytes(shard_bytes(type(shard)(shard.latents, shard.records, other, shard.parts)))
    with pytest.raises(StoreError, match="its header is not what was written with its record"):
        read_shard(tmp_path / "shard")


@pytest.mark.parametrize("name", [LATENTS, *PARTS])
def test_a_flipped_bit_of_any_part_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "shard"
    write_shard(path, make_shard(parts=list(PARTS)))
    header = read_shard_header(path)
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    data = bytearray(path.read_bytes())
    data[header.payload_start + tensor.start] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="the latents do not match their sha256"):
        read_shard(path)


def test_nan_in_a_part_is_a_problem_of_its_row(tmp_path: Path) -> None:
    shard = make_shard(parts=list(PARTS))
    shard.parts[LOG_SNR][1, 0, 0, 0] = torch.nan
    shard.parts[MASK][0, 0, 0, 0] = torch.inf
    write_shard(tmp_path / "shard", shard)
    assert read_payload(tmp_path / "shard", read_shard_header(tmp_path / "shard")).bad_rows == (0, 1)


@pytest.mark.parametrize(("value", "is_bad"), [(-0.01, True), (0.0, False), (1.0, False), (1.01, True)])
def test_a_mask_beyond_its_range_is_a_problem_of_its_row(tmp_path: Path, value: float, is_bad: bool) -> None:
    shard = make_shard(parts=list(PARTS))
    shard.parts[MASK_FLIP][1, 0, 0, 0] = value
    write_shard(tmp_path / "shard", shard)
    reasons = [problem.what for problem in problems(tmp_path / "shard")]
    assert reasons == (["row 1 ('b/c.png') holds a mask beyond 0..1"] if is_bad else [])


def test_parts_come_through_a_pipe() -> None:
    shard = make_shard(("a", "b"), parts=SOME)
    written: list[bytes] = []
    stream = StreamWriter(written.append, shard.provenance, as_tar=False)
    for row, record in enumerate(shard.records):
        parts = {name: tensor[row] for name, tensor in shard.parts.items()}
        stream.add(EncodedImage(record, shard.latents[row], parts=parts))
    assert are_equal(join_shards([read_member("a member", data) for data in written]), shard)


# --- sets ---


def test_a_set_with_parts_is_whole_and_served(tmp_path: Path) -> None:
    write_set(tmp_path, make_plan(parts=SOME))
    assert problems(tmp_path) == []
    opened = open_latents(tmp_path, verify=True)
    for number, key in enumerate(GOOD_KEYS):
        item = opened.items.find(number)
        stored = read_shard(tmp_path / "shards" / opened.shards[item.shard].name)
        rows = opened.shards[item.shard].map(opened.folder)
        assert item.key == key
        for tensor in stored_tensors(opened.shards[item.shard].layout, opened.shards[item.shard].shape):
            row = rows[tensor.name][item.row].view(STORE_DTYPES[tensor.dtype]).view(tensor.shape[1:])
            assert torch.equal(row, stored.tensors[tensor.name][item.row])


def test_a_set_with_parts_opens_by_its_table_as_without(tmp_path: Path) -> None:
    write_set(tmp_path, make_plan(parts=SOME))
    by_table = open_latents(tmp_path, verify=False).shards
    (tmp_path / "items.table").unlink()
    assert open_latents(tmp_path, verify=False).shards == by_table


@pytest.mark.parametrize("num_shards", [0, 1, 3])
def test_a_stopped_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, num_shards: int) -> None:
    plan = make_plan(parts=SOME)
    write_set(tmp_path / "whole", plan)
    write_some(tmp_path / "stopped", num_shards, plan)
    write_set(tmp_path / "stopped", plan)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_set_grows_with_its_parts_and_with_no_others(tmp_path: Path) -> None:
    write_set(tmp_path / "set", make_plan(GOOD_KEYS[:4], parts=SOME))
    before = lasting(tmp_path / "set")
    for other in (make_plan(GOOD_KEYS), make_plan(GOOD_KEYS, parts=[LATENTS_FLIP])):
        with pytest.raises(UsageError, match="parts"):
            write_set(tmp_path / "set", other)
    assert lasting(tmp_path / "set") == before
    manifest = write_set(tmp_path / "set", make_plan(GOOD_KEYS, parts=SOME))
    assert manifest.num_ok == len(GOOD_KEYS)
    assert problems(tmp_path / "set") == []
