"""Checkpoints: what is written is what is published, what is accepted means the same, what is wrong is said at once."""

import contextlib
import dataclasses
import json
import math
import os
import pickletools
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from semdis_cli.errors import CheckpointError, UsageError
from semdis_cli.model import tensor_file
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.checkpoint import resolve_model
from semdis_cli.model.config import FCDMDiffAEConfig, FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from tests.reference import fcdm
from tests.worlds import save_tiny_model, tiny_config, tiny_model

# As published, to the byte.
PUBLISHED_CONFIG = """{
  "in_channels": 3,
  "patch_size": 16,
  "model_dim": 896,
  "encoder_depth": 4,
  "decoder_depth": 8,
  "decoder_start_blocks": 2,
  "decoder_end_blocks": 2,
  "bottleneck_dim": 128,
  "mlp_ratio": 4.0,
  "depthwise_kernel_size": 7,
  "adaln_low_rank_rank": 128,
  "bottleneck_posterior_kind": "diagonal_gaussian",
  "bottleneck_norm_mode": "disabled",
  "logsnr_min": -10.0,
  "logsnr_max": 10.0,
  "pixel_noise_std": 0.558
}
"""
STATS = ("latent_norm_running_mean", "latent_norm_running_var")
TIME_FREQUENCIES = "decoder.time_embed.freqs"
FLOAT32_BUFFERS = (*STATS, TIME_FREQUENCIES)
PATCHIFY = ("encoder.patchify.proj.weight", "decoder.patchify.proj.weight")
FUSE = "decoder.fuse_in.weight"  # [32,64,1,1]
OTHER_FUSE = "decoder.fuse_skip.weight"  # of the same shape

# What a refusal may reserve beside what the process holds already, and how long it may take.
SPARE_BYTES = 256 << 20
MAX_REFUSAL_S = 5.0

Tensors = dict[str, Tensor]
Header = dict[str, Any]


def random_images(*, seed: int = 1) -> Tensor:
    """Two images [2,3,32,48] in [-1,1]."""
    return 2 * torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed)) - 1


def assert_same_model(actual: FCDMDiffAE, expected: FCDMDiffAE) -> None:
    """Same config, tensors, dtypes, latents and images, bit for bit."""
    assert actual.config == expected.config
    tensors = expected.state_dict()
    assert actual.state_dict().keys() == tensors.keys()
    for name, tensor in actual.state_dict().items():
        assert tensor.dtype == tensors[name].dtype, name
        assert torch.equal(tensor, tensors[name]), name
    images, settings_ = random_images(), FCDMDiffAEInferenceConfig(2, "dpmpp_2m", pdg=True, seed=3)
    latents = expected.encode(images)
    assert torch.equal(actual.encode(images), latents)
    one, other = (model.decode(latents, 32, 48, inference_config=settings_) for model in (actual, expected))
    assert torch.equal(one, other)


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> Path:
    """Apply `change` to the tensors of a checkpoint in place."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    return folder


def split(data: bytes) -> tuple[Header, bytes]:
    """Header and payload of a safetensors file."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: Header | bytes, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


@contextlib.contextmanager
def no_room_beyond(spare_bytes: int) -> Iterator[None]:
    """Let this process reserve `spare_bytes` more than it has now; anything beyond is a `MemoryError` or worse."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + spare_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refusal(folder: Path, file: str = "model.safetensors") -> str:
    """The one line with which a folder is refused: soon, in little memory, and naming `file`."""
    started = time.monotonic()
    room = no_room_beyond(SPARE_BYTES) if sys.platform == "linux" else contextlib.nullcontext()
    with room, pytest.raises(CheckpointError) as caught:
        FCDMDiffAE.from_pretrained(folder)
    assert time.monotonic() - started < MAX_REFUSAL_S
    message = str(caught.value)
    assert str(folder / file) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 2000
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid checkpoint of the tiny model."""
    return save_tiny_model(tmp_path / "model")


# --- config.json ----------------------------------------------------------------------------------------------------


def test_the_default_config_is_written_as_published_to_the_byte(tmp_path: Path) -> None:
    FCDMDiffAEConfig().save(tmp_path / "config.json")
    data = (tmp_path / "config.json").read_bytes()
    assert data == PUBLISHED_CONFIG.encode()
    assert len(data) == 431
    assert FCDMDiffAEConfig.load(tmp_path / "config.json") == FCDMDiffAEConfig()


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, []),
        ({"bottleneck_patchify_mode": "patch_2x2"}, ["bottleneck_patchify_mode"]),
        ({"latent_running_stats_eps": 1e-3}, ["latent_running_stats_eps"]),
        ({"latent_running_stats_eps": 1e-4}, []),
        (
            {"bottleneck_patchify_mode": "patch_2x2", "latent_running_stats_eps": 1e-5},
            ["bottleneck_patchify_mode", "latent_running_stats_eps"],
        ),
    ],
)
def test_later_settings_are_written_only_where_they_differ_and_come_back(
    tmp_path: Path, changes: dict[str, Any], written: list[str]
) -> None:
    config = tiny_config(**changes)
    config.save(tmp_path / "config.json")
    fields = json.loads((tmp_path / "config.json").read_bytes())
    assert list(fields) == [*json.loads(PUBLISHED_CONFIG), *written]
    assert FCDMDiffAEConfig.load(tmp_path / "config.json") == config


def test_settings_that_a_config_leaves_out_have_the_published_values(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_dim": 64, "mlp_ratio": 2}')
    expected = dataclasses.replace(FCDMDiffAEConfig(), model_dim=64, mlp_ratio=2)
    assert FCDMDiffAEConfig.load(tmp_path / "config.json") == expected


# --- saving and loading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [{}, {"bottleneck_patchify_mode": "patch_2x2"}, {"bottleneck_posterior_kind": "deterministic"}],
    ids=["plain", "folded 2x2", "deterministic"],
)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, changes: dict[str, Any], dtype: torch.dtype) -> None:
    if "bottleneck_patchify_mode" in changes:
        changes = {**changes, "patch_size": 8}  # the test images are 16 pixels times whole numbers
    model = tiny_model(**changes).to(dtype)
    model.save_pretrained(tmp_path / "a")
    loaded = FCDMDiffAE.from_pretrained(tmp_path / "a")
    assert_same_model(loaded, model)
    assert loaded.has_latent_stats
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_holds_the_published_names_shapes_and_one_dtype(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    expected = fcdm.expected_parameter_shapes(cast(fcdm.Config, dataclasses.asdict(tiny_config())))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_saved_model_is_two_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "deep", tmp_path / "b"
    save_tiny_model(first)
    FCDMDiffAE.from_pretrained(first).save_pretrained(second)
    for path in (first, second):
        assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_model_can_be_saved_over_the_files_it_was_loaded_from(folder: Path) -> None:
    model = FCDMDiffAE.from_pretrained(folder)
    model.save_pretrained(folder)
    assert_same_model(FCDMDiffAE.from_pretrained(folder), model)
    assert_same_model(model, tiny_model())


def test_a_model_that_cannot_be_written_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"file: cannot be written"):
        tiny_model().save_pretrained(tmp_path / "file")


# --- what is accepted -----------------------------------------------------------------------------------------------


def as_patches(name: str) -> Callable[[Tensors], None]:
    """Store a patchify weight [C,768,1,1] as the convolution [C,3,16,16] that it is."""

    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].reshape(-1, 3, 16, 16)

    return change


@pytest.mark.parametrize("names", [PATCHIFY[:1], PATCHIFY[1:], PATCHIFY], ids=["encoder", "decoder", "both"])
def test_patchify_weights_may_be_stored_as_patches(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        rewrite(folder, as_patches(name))
    assert_same_model(FCDMDiffAE.from_pretrained(folder), tiny_model())


def test_patchify_weights_stored_as_patches_are_those_of_a_strided_convolution(folder: Path) -> None:
    rewrite(folder, as_patches(PATCHIFY[0]))
    stored, images = load_file(folder / "model.safetensors"), random_images()
    expected = functional.conv2d(images, stored[PATCHIFY[0]], stored["encoder.patchify.proj.bias"], stride=16)
    features = FCDMDiffAE.from_pretrained(folder).encoder.patchify(images)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def without_stats(tensors: Tensors) -> None:
    for name in STATS:
        del tensors[name]


def test_a_model_without_statistics_has_raw_latents_and_is_saved_without_them_again(folder: Path) -> None:
    rewrite(folder, without_stats)
    model, complete = FCDMDiffAE.from_pretrained(folder), tiny_model()
    assert not model.has_latent_stats
    images = random_images()
    raw = complete.encode_posterior(images).mode()
    assert torch.equal(model.encode(images), raw)
    settings_ = FCDMDiffAEInferenceConfig(seed=1)
    expected = complete.decode(complete.whiten(raw), 32, 48, inference_config=settings_)
    torch.testing.assert_close(model.decode(raw, 32, 48, inference_config=settings_), expected, rtol=0, atol=1e-4)
    model.save_pretrained(folder / "again")
    assert not set(STATS) & set(load_file(folder / "again" / "model.safetensors"))
    assert not FCDMDiffAE.from_pretrained(folder / "again").has_latent_stats


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_load_as_stored_and_keep_their_buffers_in_float32(
    folder: Path, dtype: torch.dtype
) -> None:
    def halve(tensors: Tensors) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    rewrite(folder, halve)
    stored = load_file(folder / "model.safetensors")
    model = FCDMDiffAE.from_pretrained(folder)
    assert model.dtype == dtype
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == (torch.float32 if name in FLOAT32_BUFFERS else dtype), name
        # Rounded time frequencies would be off by whole radians at t = 1: they are computed afresh.
        expected = tiny_model().decoder.time_embed.freqs if name == TIME_FREQUENCIES else stored[name].to(tensor.dtype)
        assert torch.equal(tensor, expected), name
    whole = FCDMDiffAE.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(whole.encode(random_images()), tiny_model().encode(random_images()), rtol=0, atol=0.1)


def test_a_bfloat16_file_may_keep_some_tensors_in_float32(folder: Path) -> None:
    def halve(tensors: Tensors) -> None:
        kept = ("grn.gamma", "grn.beta", "layer_scale", *FLOAT32_BUFFERS)
        tensors.update({name: t.bfloat16() for name, t in tensors.items() if not name.endswith(kept)})

    model = FCDMDiffAE.from_pretrained(rewrite(folder, halve))
    reference = tiny_model().to(torch.bfloat16)
    torch.testing.assert_close(model.encode(random_images()), reference.encode(random_images()), rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_time_frequencies_other_than_the_formula_s_are_used_as_stored_and_said(
    folder: Path, dtype: torch.dtype
) -> None:
    def other(tensors: Tensors) -> None:
        tensors[TIME_FREQUENCIES] = (tensors[TIME_FREQUENCIES] * 0.9).to(dtype)

    rewrite(folder, other)
    stored = load_file(folder / "model.safetensors")[TIME_FREQUENCIES].float()
    with pytest.warns(UserWarning, match=r"with time frequencies of its own \(used as stored\)"):
        model = FCDMDiffAE.from_pretrained(folder)
    assert torch.equal(model.decoder.time_embed.freqs, stored)
    latents, settings_ = torch.zeros(1, 8, 2, 3), FCDMDiffAEInferenceConfig(seed=0)
    one, other_one = (m.decode(latents, 32, 48, inference_config=settings_) for m in (model, tiny_model()))
    assert not torch.equal(one, other_one)
    assert "time frequencies of its own" in Tokenizer.load(str(folder)).description


def test_time_frequencies_of_the_formula_in_other_last_bits_are_used_as_stored_without_a_word(folder: Path) -> None:
    exact = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float64) / 127).float()
    rewrite(folder, lambda tensors: tensors.update({TIME_FREQUENCIES: exact}))
    assert torch.equal(FCDMDiffAE.from_pretrained(folder).decoder.time_embed.freqs, exact)
    assert "frequencies" not in Tokenizer.load(str(folder)).description


CASTS: dict[str, Callable[[FCDMDiffAE], FCDMDiffAE]] = {
    "to(bfloat16)": lambda model: model.to(torch.bfloat16),
    "bfloat16()": lambda model: model.bfloat16(),
    "half()": lambda model: model.half(),
    "to(device, dtype)": lambda model: model.to("cpu", torch.bfloat16),
    "to(device=, dtype=)": lambda model: model.to(device="cpu", dtype=torch.float16),
    "there and back": lambda model: model.to(torch.bfloat16).float(),
    "double()": lambda model: model.double(),
}


@pytest.mark.parametrize("cast_model", CASTS.values(), ids=CASTS.keys())
def test_statistics_and_time_frequencies_stay_in_float32_through_every_cast(
    cast_model: Callable[[FCDMDiffAE], FCDMDiffAE],
) -> None:
    model, before = cast_model(tiny_model()), tiny_model().state_dict()
    for name in FLOAT32_BUFFERS:
        assert model.state_dict()[name].dtype == torch.float32
        assert torch.equal(model.state_dict()[name], before[name])
    others = {tensor.dtype for name, tensor in model.state_dict().items() if name not in FLOAT32_BUFFERS}
    assert others == {model.dtype}


# --- wrong tensors --------------------------------------------------------------------------------------------------


def set_first(name: str, value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[0] = value

    return change


def drop(*names: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in names:
            del tensors[name]

    return change


def store_as(dtype: torch.dtype) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({FUSE: tensors[FUSE].to(dtype)})


def replace(**tensors: Tensor) -> Callable[[Tensors], None]:
    """Keywords have `__` for a dot."""
    return lambda all_tensors: all_tensors.update({name.replace("__", "."): t for name, t in tensors.items()})


def everything_at_once(tensors: Tensors) -> None:
    del tensors[FUSE], tensors[STATS[0]]
    tensors["decoder.extra"] = torch.zeros(3)
    tensors["decoder.latent_up.bias"] = torch.zeros(31)
    tensors[PATCHIFY[0]] = tensors[PATCHIFY[0]].reshape(32, 16, 16, 3)


WRONG_TENSORS: dict[str, tuple[Callable[[Tensors], object], list[str]]] = {
    "one is missing": (drop(FUSE), [f"1 missing: {FUSE}"]),
    "three are missing": (
        drop(FUSE, OTHER_FUSE, "encoder.to_bottleneck.bias"),
        ["3 missing", FUSE, OTHER_FUSE, "encoder.to_bottleneck.bias"],
    ),
    "all are missing": (lambda tensors: tensors.clear(), ["missing: decoder.adaln_base.proj.bias", "more"]),
    "one is surplus": (replace(decoder__norm_in__weight=torch.zeros(2)), ["1 surplus: decoder.norm_in.weight"]),
    "one has another shape": (
        replace(decoder__latent_up__bias=torch.zeros(31)),
        ["1 of another shape: decoder.latent_up.bias is [31], not [32]"],
    ),
    "one has another number of axes": (
        lambda tensors: tensors.update({FUSE: tensors[FUSE].flatten(1)}),
        [f"{FUSE} is [32, 64], not [32, 64, 1, 1]"],
    ),
    "one is a scalar": (replace(encoder__patchify__proj__weight=torch.zeros(())), ["is [], not [32, 768, 1, 1]"]),
    "many things at once": (
        everything_at_once,
        [
            f"2 missing: {FUSE}, {STATS[0]}",
            "1 surplus: decoder.extra",
            "2 of another shape",
            "decoder.latent_up.bias is [31], not [32]",
            f"{PATCHIFY[0]} is [32, 16, 16, 3], not [32, 768, 1, 1]",
        ],
    ),
    "the mean without the variance": (drop(STATS[1]), [f"1 missing: {STATS[1]}"]),
    "the variance without the mean": (drop(STATS[0]), [f"1 missing: {STATS[0]}"]),
    "NaN": (set_first(FUSE, math.nan), ["1 with NaN or infinity", FUSE]),
    "two with infinity": (
        lambda tensors: [set_first(name, -math.inf)(tensors) for name in (FUSE, OTHER_FUSE)],
        [f"2 with NaN or infinity: {FUSE}, {OTHER_FUSE}"],
    ),
    "NaN among the statistics": (set_first(STATS[1], math.nan), [f"NaN or infinity: {STATS[1]}"]),
    "a negative variance": (set_first(STATS[1], -1e-3), [f"{STATS[1]} has negative entries"]),
    **{
        f"{dtype} weights": (store_as(dtype), [f"1 neither float32, bfloat16 nor float16: {FUSE} is {dtype}"])
        for dtype in (torch.int8, torch.uint8, torch.bool, torch.float64, torch.complex64, torch.float8_e4m3fn)
    },
}


@pytest.mark.parametrize("title", WRONG_TENSORS)
def test_wrong_tensors_are_all_listed_in_one_line(folder: Path, title: str) -> None:
    change, fragments = WRONG_TENSORS[title]
    message = refusal(rewrite(folder, change))
    for fragment in fragments:
        assert fragment in message


def test_statistics_and_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", encoder_depth=3, bottleneck_dim=16)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    message = refusal(folder)
    assert "10 surplus: encoder.blocks.2." not in message  # nine tensors in an encoder block
    assert "9 surplus: encoder.blocks.2.dwconv.bias" in message
    assert "latent_norm_running_mean is [16], not [8]" in message


# --- wrong files ----------------------------------------------------------------------------------------------------


def change_header(change: Callable[[Header], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        header, payload = split(data)
        change(header)
        return join(header, payload)

    return apply


def with_length(length: int) -> Callable[[bytes], bytes]:
    return lambda data: struct.pack("<Q", length) + data[8:]


def claim(shape: list[int], num_bytes: int) -> Callable[[bytes], bytes]:
    """Say of one tensor that it has this shape and occupies so many bytes."""

    def change(header: Header) -> None:
        start = header[FUSE]["data_offsets"][0]
        header[FUSE].update(shape=shape, data_offsets=[start, start + num_bytes])

    return change_header(change)


def only_a_petabyte(_data: bytes) -> bytes:
    return join({FUSE: {"dtype": "F32", "shape": [1 << 48], "data_offsets": [0, 1 << 50]}}, b"")


def name_twice(data: bytes) -> bytes:
    """The same tensor two times: first with the bytes of another one."""
    header, payload = split(data)
    first = json.dumps({FUSE: header[OTHER_FUSE]})
    return join(f"{first[:-1]}, {json.dumps(header)[1:]}".encode(), payload)


WRONG_FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "seven bytes": lambda data: data[:7],
    "the length alone": lambda data: data[:8],
    "cut in the header": lambda data: data[:1000],
    "cut in the payload": lambda data: data[:-100_000],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "text": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 355\n",
    "zeros": lambda data: bytes(len(data)),
    "a header of 2^63 bytes": with_length(1 << 63),
    "a header of 2^64 - 1 bytes": with_length((1 << 64) - 1),
    "a header of 1 TB": with_length(1 << 40),
    "a header as long as the file": lambda data: with_length(len(data) - 8)(data),
    "no header": lambda data: join(b"", split(data)[1]),
    "a header that is no JSON": lambda data: join(b"hello", split(data)[1]),
    "a header that is a list": lambda data: join(b"[]", split(data)[1]),
    "a header that is not UTF-8": lambda data: join(b'{"\xff": 1}', split(data)[1]),
    "a nested header": lambda data: join(b'{"a":' * 100_000, split(data)[1]),
    "nested metadata": lambda data: join(b'{"__metadata__":' + b"[" * 100_000, split(data)[1]),
    "metadata that is no text": change_header(lambda header: header.update(__metadata__={"format": 1})),
    "an unknown dtype": change_header(lambda header: header[FUSE].update(dtype="Q4")),
    "a dtype of another size": change_header(lambda header: header[FUSE].update(dtype="F16")),
    "a tensor of a petabyte": claim([1 << 48, 1, 1, 1], 1 << 50),
    "only a tensor of a petabyte": only_a_petabyte,
    "a shape of a petabyte over few bytes": claim([1 << 48, 1, 1, 1], 8192),
    "a shape beyond 64 bits": claim([1 << 32, 1 << 32, 1, 1], 8192),
    "a negative shape": claim([-32, -64, 1, 1], 8192),
    "bytes that end before they start": claim([32, 64, 1, 1], -8192),
    "overlapping tensors": change_header(
        lambda header: header[FUSE].update(data_offsets=header[OTHER_FUSE]["data_offsets"])
    ),
    "a gap between tensors": change_header(lambda header: header.pop("decoder.fuse_in.bias")),
    "a tensor that is named twice": name_twice,
}


@pytest.mark.parametrize("title", WRONG_FILES)
def test_a_damaged_or_hostile_weights_file_is_refused_in_one_line(folder: Path, title: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(WRONG_FILES[title](path.read_bytes()))
    refusal(folder)


def test_a_header_with_very_many_names_is_refused_in_one_short_line(folder: Path) -> None:
    path = folder / "model.safetensors"
    header, payload = split(path.read_bytes())
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path.write_bytes(join({**{f"extra.{i}": nothing for i in range(100_000)}, **header}, payload))
    assert "100000 surplus" in refusal(folder)


def test_a_name_from_a_hostile_header_stays_one_short_line(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"x\nsemdis: all is well\x1b[2K" + "x" * 10_000: torch.zeros(1)}))
    assert "\x1b" not in refusal(folder)


# The pickle "os.mkdir(PATH)", and a torch zip archive around it.
def bomb(marker: Path) -> bytes:
    return b"cos\nmkdir\n(V" + os.fsencode(marker) + b"\ntR."


def zipped_bomb(marker: Path, path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bomb(marker))
        archive.writestr("archive/version", "3\n")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["pickle", "zip", "pickle beside it"])
def test_nothing_is_ever_unpickled(folder: Path, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "it-ran"
    assert [op.name for op, *_ in pickletools.genops(bomb(marker))] == [
        "GLOBAL",
        "MARK",
        "UNICODE",
        "TUPLE",
        "REDUCE",
        "STOP",
    ]
    path = folder / "model.safetensors"
    if kind == "pickle beside it":
        path.unlink()
        (folder / "pytorch_model.bin").write_bytes(bomb(marker))
    else:
        path.write_bytes(bomb(marker) if kind == "pickle" else zipped_bomb(marker, tmp_path / "bomb.zip"))
    refusal(folder)
    assert not marker.exists()


# --- wrong configs and folders --------------------------------------------------------------------------------------

WRONG_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"model_dims": 32}, "unknown settings model_dims"),
    "text for a number": ({"model_dim": "32"}, "model_dim = '32' is not a whole number"),
    "true for a number": ({"encoder_depth": True}, "encoder_depth = True is not a whole number"),
    "a fraction for a whole number": ({"model_dim": 32.0}, "model_dim = 32.0 is not a whole number"),
    "null": ({"patch_size": None}, "patch_size = None is not a whole number"),
    "a list": ({"bottleneck_norm_mode": []}, "bottleneck_norm_mode = [] is not one of disabled, channel_wise"),
    "an unknown choice": ({"bottleneck_posterior_kind": "vae"}, "diagonal_gaussian, deterministic"),
    "NaN": ({"pixel_noise_std": math.nan}, "pixel_noise_std = nan is not a finite number"),
    "infinity": ({"logsnr_max": math.inf}, "logsnr_max = inf is not a finite number"),
    "an integer beyond the floats": ({"mlp_ratio": 10**400}, "mlp_ratio"),
    "a negative size": ({"model_dim": -32}, "model_dim = -32 is outside"),
    "a size of zero": ({"model_dim": 0}, "model_dim = 0 is outside"),
    "no hidden channels": ({"model_dim": 49, "mlp_ratio": 1 / 49}, "mlp_ratio"),
    "an absurd size": ({"model_dim": 1 << 40}, f"model_dim = {1 << 40} is outside"),
    "an even kernel": ({"depthwise_kernel_size": 4}, "depthwise_kernel_size = 4 is even"),
    "blocks that do not add up": (
        {"decoder_depth": 3, "decoder_start_blocks": 2, "decoder_end_blocks": 2},
        "decoder_start_blocks + decoder_end_blocks exceed decoder_depth",
    ),
    "a log-SNR range the wrong way round": ({"logsnr_min": 10.0, "logsnr_max": -10.0}, "logsnr_min is not below"),
    "no pixel noise": ({"pixel_noise_std": 0.0}, "must be above zero"),
    "a kilobyte of nonsense": ({"patch_size": "x" * 100_000}, "patch_size"),
    "a key of several lines": ({"a\nb\x1b[2K" + "x" * 100_000: 1}, "unknown settings"),
}


@pytest.mark.parametrize("title", WRONG_SETTINGS)
def test_a_config_that_describes_no_model_is_refused_in_one_line(folder: Path, title: str) -> None:
    changes, fragment = WRONG_SETTINGS[title]
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    message = refusal(folder, "config.json")
    assert fragment in message
    assert "\x1b" not in message


def test_every_wrong_setting_is_listed(folder: Path) -> None:
    fields = {"model_dim": 0.5, "patch_size": "16", "logsnr_min": None}
    (folder / "config.json").write_text(json.dumps(fields))
    message = refusal(folder, "config.json")
    for name in fields:
        assert name in message


WRONG_CONFIG_FILES = {
    "empty": b"",
    "text": b"model_dim: 32\n",
    "cut": PUBLISHED_CONFIG.encode()[:200],
    "a list": b"[]",
    "a number": b"1",
    "nested": b"[" * 500_000,
    "nested objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"model_dim": "\xff"}',
    "a number of 100,000 digits": b'{"model_dim": ' + b"1" * 100_000 + b"}",
    "huge": b" " * (64 << 20),
}


@pytest.mark.parametrize("title", WRONG_CONFIG_FILES)
def test_a_config_that_is_no_object_of_json_is_refused_in_one_line(folder: Path, title: str) -> None:
    (folder / "config.json").write_bytes(WRONG_CONFIG_FILES[title])
    refusal(folder, "config.json")


def test_an_honest_config_of_an_enormous_model_asks_for_no_memory(folder: Path) -> None:
    config = tiny_config(model_dim=16384, mlp_ratio=64.0, encoder_depth=64, decoder_depth=64, adaln_low_rank_rank=4096)
    (folder / "config.json").write_text(config.to_json())
    assert "missing" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["missing", "a folder", "a dangling link"])
def test_a_file_that_is_not_there_is_named(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    if kind == "a folder":
        (folder / name).mkdir()
    elif kind == "a dangling link":
        (folder / name).symlink_to(folder / "gone")
    assert "cannot be read" in refusal(folder, name)


def test_a_pipe_for_a_config_does_not_hang(folder: Path) -> None:
    path = folder / "config.json"
    path.unlink()
    os.mkfifo(path)
    refusals: list[CheckpointError] = []

    def load() -> None:
        try:
            FCDMDiffAEConfig.load(path)
        except CheckpointError as error:
            refusals.append(error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(2.0)
    hangs = thread.is_alive()
    while thread.is_alive():  # whoever waits for the pipe is let go
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        thread.join(0.05)
    assert not hangs
    assert len(refusals) == 1


def test_a_pipe_for_weights_does_not_hang(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.unlink()
    os.mkfifo(path)
    with subprocess.Popen(["sh", "-c", 'sleep 2; : > "$0"', path]) as rescuer:  # lets go whoever waits for the pipe
        started = time.monotonic()
        try:
            assert "cannot be read" in refusal(folder)
            assert time.monotonic() - started < 1.5
        finally:
            rescuer.kill()


# --- any bytes at all -----------------------------------------------------------------------------------------------

MICRO: dict[str, Any] = {"patch_size": 2, "model_dim": 4, "encoder_depth": 1, "decoder_depth": 3, "bottleneck_dim": 2}
flips = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=3)
often = settings(max_examples=80, deadline=None)


@pytest.fixture(scope="module")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("micro"), **MICRO)


def damage(data: bytes, changes: list[tuple[int, int]], length: int, within: int) -> bytes:
    """Set bytes among the first `within`, then cut to `length`."""
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % within] = value
    return bytes(damaged[:length])


def loads_or_is_refused(folder: Path) -> None:
    """The expected tensors, or a `CheckpointError`: nothing else escapes."""
    expected = {name: tensor.shape for name, tensor in tiny_model(**MICRO).state_dict().items()}
    try:
        model, _ = FCDMDiffAE.from_folder(folder)
    except CheckpointError:
        return
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == expected


@given(changes=flips, cut=st.one_of(st.none(), st.floats(0.0, 1.0)))
@often
def test_a_weights_file_with_any_damage_loads_the_right_shapes_or_is_refused(
    micro_folder: Path, changes: list[tuple[int, int]], cut: float | None
) -> None:
    data = (micro_folder / "model.safetensors").read_bytes()
    header_bytes = 8 + struct.unpack("<Q", data[:8])[0]
    with tempfile.TemporaryDirectory() as copy:
        FCDMDiffAEConfig.load(micro_folder / "config.json").save(Path(copy) / "config.json")
        length = len(data) if cut is None else int(cut * len(data))
        (Path(copy) / "model.safetensors").write_bytes(damage(data, changes, length, header_bytes))
        loads_or_is_refused(Path(copy))


@given(changes=flips, cut=st.one_of(st.none(), st.floats(0.0, 1.0)))
@often
def test_a_config_with_any_damage_loads_or_is_refused(
    micro_folder: Path, changes: list[tuple[int, int]], cut: float | None
) -> None:
    data = (micro_folder / "config.json").read_bytes()
    length = len(data) if cut is None else int(cut * len(data))
    with tempfile.TemporaryDirectory() as copy:
        (Path(copy) / "config.json").write_bytes(damage(data, changes, length, len(data)))
        (Path(copy) / "model.safetensors").symlink_to(micro_folder / "model.safetensors")
        loads_or_is_refused(Path(copy))


FIELD_NAMES = [field.name for field in dataclasses.fields(FCDMDiffAEConfig)]
CHOICES = [choice for hint in get_type_hints(FCDMDiffAEConfig).values() for choice in get_args(hint)]
json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.integers(),
    st.sampled_from([10**400, -(10**400)]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(CHOICES),
    st.lists(st.integers(), max_size=2),
)


@given(fields=st.dictionaries(st.one_of(st.sampled_from(FIELD_NAMES), st.text(max_size=5)), json_values, max_size=5))
@settings(max_examples=500, deadline=None)
def test_any_settings_at_all_describe_a_model_or_are_refused(fields: dict[str, Any]) -> None:
    try:
        config = FCDMDiffAEConfig.from_fields(fields)
    except CheckpointError:
        return
    assert config.hidden_dim >= 1
    assert config.num_middle_blocks >= 0
    assert FCDMDiffAEConfig.from_fields(json.loads(config.to_json())) == config


# --- names ----------------------------------------------------------------------------------------------------------


def test_the_bundled_model_is_found_by_its_name() -> None:
    location = resolve_model("semdis-small")
    assert location.revision is None
    model, found = FCDMDiffAE.from_folder(location.folder)
    assert model.has_latent_stats
    assert len(found.sha256) == 64
    assert found.describe() == "bfloat16 and float32, patchify as 1x1, with latent statistics"
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_folder_is_found_by_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), "model", "./model", "./model/", "~/model"):
        location = resolve_model(name)
        assert location.folder.samefile(folder)
        assert (location.name, location.source, location.revision) == (os.path.normpath(name), "folder", None)


@pytest.mark.parametrize(
    "name",
    ["nope", "/nope", "./nope", "../nope", "~/nope", "a/b/c", "no:such", "x" * 300, "~nobody-of-that-name/model"],
    ids=lambda name: name[:20],
)
def test_a_name_that_leads_nowhere_says_what_would(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_model(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert len(message) < len(name) + 200
    assert len(message.splitlines()) == 1
    for hint in ("config.json and model.safetensors", "repository id", "semdis-small"):
        assert hint in message


def test_a_file_is_not_mistaken_for_a_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(CheckpointError, match="give a folder"):
        resolve_model("model/model.safetensors")


# --- Disks ------------------------------------------------------------------------------------------------------------


def test_weights_are_read_where_files_cannot_be_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def safe_open(*_: object, **__: object) -> None:
        raise OSError("No such device (os error 19)")

    expected = FCDMDiffAE.from_pretrained(folder)
    monkeypatch.setattr(tensor_file, "safe_open", safe_open)
    assert_same_model(FCDMDiffAE.from_pretrained(folder), expected)
    (folder / "model.safetensors").write_bytes(b"torn")
    assert "not a whole safetensors file" in refusal(folder)
