"""A byte a value and a scale a channel: how far off values are, and that nobody takes the bytes for the values."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.parts import LATENTS, LATENTS_FLIP, LOG_SNR, QUANTISED, SCALE, SCALE_FLIP, SCALES
from semdis_cli.records import EncodedImage
from semdis_cli.store.exchange.export import check_finite, make_arrays, make_shard_file
from semdis_cli.store.exchange.stream import StreamWriter, join_shards
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.quantised import MAX_SCALE, are_sound, dequantise, quantise, real_values, store_as
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shard_header import read_shard_header
from semdis_cli.store.shards import STORE_DTYPES, parse_shard, read_shard, shard_bytes, write_shard
from semdis_cli.store.statistics import ChannelSums
from semdis_cli.store.verifying import payload
from semdis_cli.store.verifying.payload import read_payload
from semdis_cli.store.verifying.verify import NO_DATA
from tests.fuzz.edited_shards import header_of
from tests.store import (
    GOOD_KEYS,
    KEYS,
    are_alike,
    are_equal,
    contents,
    lasting,
    make_plan,
    make_shard,
    problems,
    values_of,
    with_settings,
    write_set,
    write_some,
)

each_dtype = pytest.mark.parametrize("dtype", QUANTISED)
LARGEST = {"float8_e4m3": 448.0, "int8": 127.0}
PARTS = (LATENTS_FLIP, LOG_SNR)
LEAST = 2.0**-126  # the least normal float32

Values = NDArray[np.float32]


def blocks(values: st.SearchStrategy[float]) -> st.SearchStrategy[Values]:
    return stn.arrays(np.float32, stn.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=values)


# Any values, and those of one order of magnitude, as channels have them
any_values = blocks(st.floats(-(2.0**119), 2.0**119, width=32)) | blocks(st.floats(-4, 4, width=32))


def block(*values: float) -> Tensor:
    """One channel of one row."""
    return torch.tensor(values, dtype=torch.float32)[None, None]


# --- values ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(values=any_values, dtype=st.sampled_from(QUANTISED))
def test_no_value_is_further_off_than_half_a_step(values: Values, dtype: str) -> None:
    stored, scale = quantise(torch.from_numpy(values), STORE_DTYPES[dtype])
    assert (stored.shape, scale.shape) == (values.shape, (len(values), 1, 1))
    assert are_sound({LATENTS: stored, SCALE: scale})
    exact, step = values.astype(np.float64), scale.double().numpy()
    off = np.abs(dequantise(stored, scale).double().numpy() - exact)
    half_step = step / 2 if dtype == "int8" else np.maximum(np.abs(exact) / 16, step / 1024)
    is_zero = np.broadcast_to(step == 0, values.shape)
    assert (off <= np.where(is_zero, LARGEST[dtype] * LEAST, half_step * (1 + 1e-6))).all()


@settings(deadline=None)
@given(values=any_values, dtype=st.sampled_from(QUANTISED))
def test_the_scale_is_that_of_the_largest_value_of_each_channel(values: Values, dtype: str) -> None:
    stored, scale = quantise(torch.from_numpy(values), STORE_DTYPES[dtype])
    largest = np.abs(values).max((1, 2), keepdims=True) / np.float32(LARGEST[dtype])
    np.testing.assert_array_equal(scale.numpy(), np.where(largest < LEAST, 0, largest))
    reached = stored.float().abs().amax((1, 2))
    assert set(reached.tolist()) <= {0.0, LARGEST[dtype]}
    assert torch.equal(reached == 0, scale.flatten() == 0)


@settings(deadline=None)
@given(values=any_values, dtype=st.sampled_from(QUANTISED))
def test_an_image_is_stored_alike_alone_and_among_others_and_however_it_lies(values: Values, dtype: str) -> None:
    alone = store_as(LATENTS, torch.from_numpy(values), STORE_DTYPES[dtype])
    turned = np.ascontiguousarray(np.stack([values * 0, values]).transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
    both = store_as(LATENTS, torch.from_numpy(turned), STORE_DTYPES[dtype])
    again = store_as(LATENTS, real_values(alone), STORE_DTYPES[dtype])
    for name, tensor in alone.items():
        assert are_alike(both[name][1].contiguous(), tensor)
    torch.testing.assert_close(real_values(again), real_values(alone), rtol=1e-6, atol=0)


@each_dtype
@pytest.mark.parametrize("tiny", [0.0, -0.0, 2.0**-149, -(2.0**-130), 2.0**-120])
def test_a_channel_of_zeros_or_of_next_to_nothing_is_one_of_zeros(dtype: str, tiny: float) -> None:
    stored, scale = quantise(torch.cat([block(0.0, tiny), block(3.0, tiny)]), STORE_DTYPES[dtype])
    assert (scale[0].item(), scale[1].item() > 0) == (0, True)
    assert torch.equal(dequantise(stored, scale), torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]]))


@each_dtype
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -torch.finfo(torch.float32).max])
def test_values_that_are_not_finite_or_beyond_all_scales_have_none(dtype: str, bad: float) -> None:
    stored = store_as(LATENTS, torch.cat([block(1.0, 2.0), block(bad, 2.0)]), STORE_DTYPES[dtype])
    assert not are_sound(stored)
    assert are_sound({name: tensor[:1] for name, tensor in stored.items()})


@each_dtype
def test_the_largest_scale_gives_no_infinity(dtype: str) -> None:
    stored = store_as(LATENTS, block(LARGEST[dtype] * MAX_SCALE, 1.0), STORE_DTYPES[dtype])
    assert are_sound(stored)
    assert real_values(stored).isfinite().all()
    assert real_values(stored).flatten()[0] == LARGEST[dtype] * MAX_SCALE


@pytest.mark.parametrize("nan", [0x7F, 0xFF])
def test_a_float8_that_is_none_is_not_sound(nan: int) -> None:
    bytes_of = torch.arange(256, dtype=torch.uint8)
    is_number = bytes_of & 0x7F != 0x7F
    assert torch.equal(bytes_of.view(torch.float8_e4m3fn).float().isfinite(), is_number)
    assert are_sound({LATENTS: bytes_of[is_number].view(torch.float8_e4m3fn)})
    assert not are_sound({LATENTS: torch.tensor([0, nan], dtype=torch.uint8).view(torch.float8_e4m3fn)})


# --- shards ---------------------------------------------------------------------------------------------------------


@each_dtype
def test_scales_follow_from_the_dtype_and_are_no_parts_to_ask_for(dtype: str) -> None:
    shard = make_shard(dtype=dtype, parts=PARTS)
    assert set(shard.parts) == {*PARTS, SCALE, SCALE_FLIP}
    fields = header_of(shard_bytes(shard))
    record = json.loads(fields["__metadata__"]["semdis"])
    assert (record["dtype"], record["provenance"]["dtype"]) == (dtype, dtype)
    assert record["provenance"]["parts"] == sorted(PARTS)
    assert fields[SCALE] | {"data_offsets": None} == {"dtype": "F32", "shape": [2, 3, 1, 1], "data_offsets": None}
    assert fields[LATENTS]["dtype"] == {"float8_e4m3": "F8_E4M3", "int8": "I8"}[dtype]
    assert fields[LOG_SNR]["dtype"] == "F16"


@each_dtype
def test_a_shard_is_half_as_large_as_one_of_half_precision(dtype: str) -> None:
    layouts = [make_shard(dtype=each).provenance.layout for each in ("float16", dtype)]
    half, quantised = (layout.latent_bytes((512, 512)) for layout in layouts)
    assert quantised == half // 2 + 3 * 4


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {each: tensor for each, tensor in tensors.items() if each != name}


@each_dtype
@pytest.mark.parametrize(
    "change",
    [
        lambda parts: without(parts, SCALE),
        lambda parts: without(parts, SCALE_FLIP),
        lambda parts: parts | {SCALE: parts[SCALE].half()},
        lambda parts: parts | {SCALE: parts[SCALE][:, :1]},
        lambda parts: parts | {SCALE: parts[SCALE].expand(-1, -1, 2, 2)},
        lambda parts: parts | {SCALE: parts[SCALE][:1]},
    ],
)
def test_a_shard_whose_scales_are_missing_or_others_is_refused(
    tmp_path: Path, dtype: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    shard = make_shard(dtype=dtype, parts=[LATENTS_FLIP])
    (tmp_path / "shard").write_bytes(shard_bytes(replace(shard, parts=change(dict(shard.parts)))))
    with pytest.raises(StoreError, match=r"^[^\n]*shard: not a semdis shard \(its header is not what was written"):
        read_shard(tmp_path / "shard")
    assert [problem.kind for problem in problems(tmp_path / "shard")] == ["shard"]


def test_scales_beside_a_dtype_that_needs_none_are_refused() -> None:
    shard = make_shard()
    odd = replace(shard, parts={SCALE: torch.ones(2, 3, 1, 1)})
    with pytest.raises(StoreError, match="its header is not what was written with its record"):
        parse_shard(shard_bytes(odd), "here")
    asked = with_settings(odd, parts=[SCALE])
    with pytest.raises(StoreError, match="a part 'scale', which this version does not know"):
        parse_shard(shard_bytes(asked), "here")


@each_dtype
def test_statistics_are_those_of_the_values(tmp_path: Path, dtype: str) -> None:
    shard = make_shard(("a", "b", "c"), dtype, parts=PARTS)
    write_shard(tmp_path / "shard", shard)
    sums = read_payload(tmp_path / "shard", read_shard_header(tmp_path / "shard")).sums
    assert sums == ChannelSums.of_all(shard.latents, shard.parts[SCALE]) == open_latents(tmp_path / "shard").sums()
    values = torch.stack([values_of(shard, row) for row in range(3)])
    np.testing.assert_allclose(sums.total, values.sum((0, 2, 3)).double(), rtol=1e-5)
    plain = make_shard(("a", "b", "c"), "float32")
    np.testing.assert_allclose(sums.squares, plain.latents.square().sum((0, 2, 3)).double(), rtol=0.1)


@each_dtype
@pytest.mark.parametrize("slice_values", [1, 2, 3, 5, 8])
def test_statistics_are_the_same_in_whatever_slices_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, slice_values: int
) -> None:
    shard = make_shard(("a", "b", "c"), dtype, parts=PARTS)
    write_shard(tmp_path / "shard", shard)
    monkeypatch.setattr(payload, "_SLICE_VALUES", slice_values)
    found = payload.read_payload(tmp_path / "shard", read_shard_header(tmp_path / "shard"), [0, 2])
    rows = shard.select([0, 2])
    np.testing.assert_allclose(found.sums.total, ChannelSums.of_all(rows.latents, rows.parts[SCALE]).total, rtol=1e-12)
    assert (found.bad_rows, found.bad_scales) == ((), ())
    assert found.file.sha256 == open_latents(tmp_path / "shard").sha256


@each_dtype
@pytest.mark.parametrize("name", [SCALE, SCALE_FLIP])
@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, 2.0**120])
def test_a_scale_that_none_can_be_is_a_problem_of_its_row(tmp_path: Path, dtype: str, name: str, bad: float) -> None:
    shard = make_shard(dtype=dtype, parts=PARTS)
    shard.parts[name][1, 2] = bad
    write_shard(tmp_path / "shard", shard)
    assert problems(tmp_path / "shard", NO_DATA) == []
    told = [problem.what for problem in problems(tmp_path / "shard")]
    assert "row 1 ('b/c.png') has a scale that is below 0, too large or NaN" in told
    assert all("row 1 " in what for what in told)
    with pytest.raises(StoreError, match="latents that are not finite"):
        check_finite(shard, "here")


def test_a_float8_that_is_none_is_a_problem_of_its_row(tmp_path: Path) -> None:
    shard = make_shard(dtype="float8_e4m3")
    shard.latents.view(torch.uint8)[0, 1, 1, 1] = 0xFF
    write_shard(tmp_path / "shard", shard)
    [problem] = problems(tmp_path / "shard")
    assert problem.what == "row 0 ('a.png') holds NaN or infinity"


# --- what leaves a shard --------------------------------------------------------------------------------------------


@each_dtype
def test_rows_are_given_as_values(dtype: str) -> None:
    shard = make_shard(("a", "b", "c"), dtype, parts=PARTS)
    for name in SCALES:
        assert torch.equal(real_values(shard.tensors, name, 1), values_of(shard, 1, name))
        assert torch.equal(real_values(shard.tensors, name)[2], values_of(shard, 2, name))
        assert torch.equal(real_values(shard.select([2, 0]).tensors, name)[0], values_of(shard, 2, name))
    plain = make_shard(("a", "b", "c"))
    assert real_values(plain.tensors, rows=1).dtype == torch.bfloat16


@each_dtype
def test_arrays_hold_values_and_files_what_is_stored(dtype: str) -> None:
    shard = make_shard(dtype=dtype, parts=PARTS)
    array = make_arrays(shard, 1, {LATENTS: "float32", LATENTS_FLIP: "float32"})
    assert torch.equal(torch.frombuffer(bytearray(array.data), dtype=torch.float32), values_of(shard, 1).flatten())
    twin = torch.frombuffer(bytearray(array.parts[LATENTS_FLIP]), dtype=torch.float32)
    assert torch.equal(twin, real_values(shard.tensors, LATENTS_FLIP, 1).flatten())
    assert array.record.is_exact
    assert not make_arrays(shard, 1, {LATENTS: "float16"}).record.is_exact
    file = make_shard_file(shard, 1)
    assert file.record.is_exact
    assert are_equal(parse_shard(file.data, "here"), shard.select([1]))


@each_dtype
def test_a_pipe_counts_values(dtype: str) -> None:
    shard = make_shard(("a", "b"), dtype, parts=PARTS)
    stream = StreamWriter(lambda _: None, shard.provenance, as_tar=True)
    for row, record in enumerate(shard.records):
        parts = {name: tensor[row] for name, tensor in shard.parts.items()}
        stream.add(EncodedImage(record, shard.latents[row], parts=parts))
    assert stream.sums == ChannelSums.of_all(shard.latents, shard.parts[SCALE])


class Float8Calls(TorchDispatchMode):
    """Notes what torch is asked to do with float8."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = [*tree_leaves(args), *tree_leaves(kwargs or {})]
        if any(isinstance(each, Tensor) and each.dtype == torch.float8_e4m3fn for each in flat):
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_of_float8_nothing_is_asked_that_older_versions_of_torch_do_not_have(tmp_path: Path) -> None:
    with Float8Calls() as calls:
        shard = make_shard(("a", "b", "c"), "float8_e4m3", parts=PARTS)
        write_set(tmp_path / "set", make_plan(dtype="float8_e4m3", parts=sorted(PARTS)))
        again = parse_shard(shard_bytes(shard), "here")
        some = join_shards([again.select([row]) for row in (2, 0)])
        check_finite(some, "here")
        make_arrays(some, 0, {LATENTS: "float32"})
        write_shard(tmp_path / "shard", some)
        open_latents(tmp_path / "shard").sums()
        assert problems(tmp_path / "set") == []
        dataset = LatentDataset(tmp_path / "set", flip=True)
        assert len([*dataset]) == len(GOOD_KEYS)
    made_here = {"aten.stack.default"}  # by these tests
    assert calls.names - made_here <= {
        *("aten._to_copy.default", "aten.clone.default", "aten.copy_.default", "aten.detach.default"),
        *("aten.select.int", "aten.slice.Tensor", "aten.view.default", "aten.view.dtype", "aten.unsqueeze.default"),
    }


# --- sets -----------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("num_shards", [0, 1, 3])
def test_a_stopped_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, dtype: str, num_shards: int) -> None:
    plan = make_plan(dtype=dtype, parts=sorted(PARTS))
    write_set(tmp_path / "whole", plan)
    write_some(tmp_path / "stopped", num_shards, plan)
    write_set(tmp_path / "stopped", plan)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert problems(tmp_path / "stopped") == []


@each_dtype
def test_a_set_grows_in_its_dtype_and_in_no_other(tmp_path: Path, dtype: str) -> None:
    root, plan = tmp_path / "set", make_plan(GOOD_KEYS[:4], dtype=dtype)
    write_set(root, plan)
    before = lasting(root)
    others = [other for other in STORE_DTYPES if other != dtype]
    for other in others:
        with pytest.raises(UsageError, match=rf"\(dtype: {dtype} -> {other}\); give the same ones"):
            write_set(root, make_plan(KEYS, dtype=other))
    assert lasting(root) == before
    assert write_set(root, make_plan(KEYS, dtype=dtype)).num_ok == len(GOOD_KEYS)
    assert problems(root) == []


@each_dtype
def test_values_of_images_that_leave_a_set_leave_its_statistics(tmp_path: Path, dtype: str) -> None:
    write_set(tmp_path / "grown", make_plan(GOOD_KEYS, dtype=dtype))
    write_set(tmp_path / "grown", make_plan(GOOD_KEYS[2:], dtype=dtype))
    write_set(tmp_path / "new", make_plan(GOOD_KEYS[2:], dtype=dtype))
    grown, new = (Manifest.read(tmp_path / name).sums for name in ("grown", "new"))
    np.testing.assert_allclose(grown.squares, new.squares, rtol=1e-12)
    assert problems(tmp_path / "grown") == []


@settings(deadline=None, max_examples=25)
@given(dtype=st.sampled_from(QUANTISED), place=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_no_flipped_bit_gives_other_values(dtype: str, place: int, bit: int) -> None:
    data = bytearray(shard_bytes(make_shard(dtype=dtype)))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(StoreError):
        parse_shard(bytes(data), "here")


@pytest.mark.parametrize("dtype", ["float8_e5m2", "uint8", "int4"])
def test_a_dtype_that_is_not_known_is_refused(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "shard").write_bytes(shard_bytes(with_settings(make_shard(dtype="int8"), dtype=dtype)))
    with pytest.raises(StoreError, match=rf"shard: not a semdis shard \(dtype {dtype}\)"):
        read_shard(tmp_path / "shard")
