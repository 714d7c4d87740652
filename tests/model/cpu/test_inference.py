"""Packed weights on a CPU: the plain modules' function, no further from float32, the same bytes always."""

import copy
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.cpu.inference import PackedNetwork, images_of_a_group
from semdis_cli.model.cpu.kernels import onednn_works, rows_at_once
from semdis_cli.model.devices import find_dtype
from semdis_cli.model.network import PlainNetwork, choose_network
from semdis_cli.model.pixels import float_to_images, images_to_float, images_to_patches, patches_to_images
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import DtypeName, TokenizerSettings
from tests.forks import python
from tests.worlds import tiny_model

needs_onednn = pytest.mark.skipif(not onednn_works(torch.bfloat16), reason="this CPU or PyTorch has no such kernels")
ONE_STEP = FCDMDiffAEInferenceConfig()
GUIDED = FCDMDiffAEInferenceConfig(3, "dpmpp_2m", "cosine", pdg=True, pdg_strength=1.5)
# Some images of a group, many, an odd grid, one that is cut into pieces (40 x 30 patches), and one whose weights are
# scaled in place of its maps (48 x 48).
SIZES = [(256, 256), (32, 48), (80, 144), (640, 480), (768, 768)]

DTYPES: tuple[DtypeName, ...] = ("bfloat16", "float32")
every_dtype = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not onednn_works(find_dtype(name, torch.device("cpu"))),
                reason="this CPU or PyTorch has no such kernels",
            ),
        )
        for name in DTYPES
    ],
)
every_size = pytest.mark.parametrize("size", SIZES, ids=[f"{height}x{width}" for height, width in SIZES])


def smooth_images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    noise = torch.randn(count, 3, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(seed))
    return float_to_images(torch.nn.functional.interpolate(noise, size, mode="bilinear") * 0.7)


def model_pair(**changes: Any) -> tuple[FCDMDiffAE, FCDMDiffAE]:
    """A float32 model and its bfloat16 twin, with the same weights: those of the twin."""
    half = tiny_model(**changes).bfloat16()
    return copy.deepcopy(half).float(), half


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def decode_float(model: FCDMDiffAE, latents: Tensor, noise: Tensor, config: FCDMDiffAEInferenceConfig) -> Tensor:
    return model.decode(latents, *noise.shape[2:], inference_config=config, noise=noise)


def tiny_tokenizer(dtype: DtypeName = "bfloat16", **changes: Any) -> Tokenizer:
    identity = ModelIdentity("tiny", "folder", None, "0" * 64, "1" * 64)
    return Tokenizer(tiny_model(**changes), identity, TokenizerSettings("cpu", dtype))


# --- the same function ----------------------------------------------------------------------------------------------


@needs_onednn
@every_size
@torch.inference_mode()
def test_packed_encoding_is_as_close_to_float32_as_the_plain_modules(size: tuple[int, int]) -> None:
    full, half = model_pair(depthwise_kernel_size=7)
    images = smooth_images(3, size)
    expected = full.encode_posterior(images_to_float(images))
    plain, packed = PlainNetwork(half).posterior(images), PackedNetwork(half).posterior(images)
    for name in ("mean", "logsnr"):
        assert getattr(packed, name).dtype == torch.float32
        errors = [relative_error(getattr(p, name), getattr(expected, name)) for p in (packed, plain)]
        assert errors[0] < max(1.15 * errors[1], 0.001)
        assert errors[0] < 0.02


@needs_onednn
@every_size
@pytest.mark.parametrize(
    "config",
    [pytest.param(ONE_STEP, id="one step"), pytest.param(GUIDED, id="three guided steps", marks=pytest.mark.slow)],
)
@torch.inference_mode()
def test_packed_decoding_is_as_close_to_float32_as_the_plain_modules(
    size: tuple[int, int], config: FCDMDiffAEInferenceConfig
) -> None:
    full, half = model_pair()
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 8, size[0] // 16, size[1] // 16, generator=generator)
    noise = 0.558 * torch.randn(3, 3, *size, generator=generator)
    expected = float_to_images(decode_float(full, latents, noise, config))
    plain, packed = (network(half).images(latents, noise, config) for network in (PlainNetwork, PackedNetwork))
    errors = [relative_error(images, expected) for images in (packed, plain)]
    assert errors[0] < max(1.15 * errors[1], 0.001)


@needs_onednn
@pytest.mark.parametrize(
    "changes",
    [
        {"bottleneck_patchify_mode": "patch_2x2"},
        {"bottleneck_norm_mode": "channel_wise"},
        {"bottleneck_posterior_kind": "deterministic"},
        {"patch_size": 8},
        {"encoder_depth": 0, "decoder_depth": 0, "decoder_start_blocks": 0, "decoder_end_blocks": 0},
    ],
    ids=["folded", "normed", "deterministic", "patch 8", "no blocks"],
)
@torch.inference_mode()
def test_every_kind_of_model_can_be_packed(changes: dict[str, Any]) -> None:
    full, half = model_pair(**changes)
    images = smooth_images(2, (64, 96))
    network = PackedNetwork(half)
    expected, packed = full.encode_posterior(images_to_float(images)).mode(), network.posterior(images).mode()
    assert packed.shape == expected.shape
    assert relative_error(packed, expected) < 0.02
    noise = 0.558 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    latents = full.whiten(expected)
    decoded = network.images(latents, noise, GUIDED)
    assert relative_error(decoded, float_to_images(decode_float(full, latents, noise, GUIDED))) < 0.02


@pytest.mark.skipif(not onednn_works(torch.float32), reason="this CPU or PyTorch has no such kernels")
@every_size
@torch.inference_mode()
def test_packed_float32_is_float32(size: tuple[int, int]) -> None:
    """A dozen roundings of 6e-8 away from float64, like the plain modules."""
    model = tiny_model(depthwise_kernel_size=7)
    exact = copy.deepcopy(model).double()
    images = smooth_images(3, size)
    noise = 0.558 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    posterior = PackedNetwork(model).posterior(images)
    expected = exact.encode_posterior(images.double() / 127.5 - 1)
    for name in ("mean", "logsnr"):
        assert relative_error(getattr(posterior, name), getattr(expected, name)) < 2e-6
    latents = model.whiten(posterior.mode())
    plain, packed = (network(model).images(latents, noise, GUIDED) for network in (PlainNetwork, PackedNetwork))
    assert (plain.int() - packed.int()).abs().max() <= 1
    assert (plain != packed).float().mean() < 1e-3


@needs_onednn
@torch.inference_mode()
def test_a_channel_that_is_zero_everywhere_stays_finite() -> None:
    half = tiny_model().bfloat16()
    for block in half.encoder.blocks:
        block.get_parameter("pwconv1.weight").zero_()
        block.get_parameter("pwconv1.bias").zero_()
    assert PackedNetwork(half).posterior(smooth_images(1, (32, 32))).mean.isfinite().all()


# --- the same bytes -------------------------------------------------------------------------------------------------


@every_dtype
@every_size
def test_an_images_bytes_do_not_depend_on_how_many_come_with_it_nor_on_its_place(
    size: tuple[int, int], dtype: DtypeName
) -> None:
    tokenizer = tiny_tokenizer(dtype, depthwise_kernel_size=7)
    count = tokenizer.images_per_call(*size)
    images = smooth_images(count, size)
    keys = [f"{i}" for i in range(count)]
    together = tokenizer.encode(images, keys)
    decoded = tokenizer.decode(together, keys, GUIDED)
    for i in {0, count // 2, count - 1}:
        alone = tokenizer.encode(images[i : i + 1], keys[i : i + 1])
        assert torch.equal(alone[0], together[i])
        assert torch.equal(tokenizer.decode(alone, keys[i : i + 1], GUIDED)[0], decoded[i])
    backwards = tokenizer.encode(images.flip(0), keys[::-1])
    assert torch.equal(backwards.flip(0), together)


@every_dtype
def test_a_larger_batch_size_changes_no_byte(dtype: DtypeName) -> None:
    images, keys = smooth_images(7, (192, 192)), [f"{i}" for i in range(7)]
    identity = ModelIdentity("tiny", "folder", None, "", "")
    seven = Tokenizer(tiny_model(), identity, TokenizerSettings("cpu", dtype, batch_size=7))
    latents = seven.encode(images, keys)
    assert torch.equal(tiny_tokenizer(dtype).encode(images[:3], keys[:3]), latents[:3])


@every_dtype
def test_calls_at_once_in_several_threads_give_the_same_bytes(dtype: DtypeName) -> None:
    tokenizer, calm, num_threads = tiny_tokenizer(dtype), tiny_tokenizer(dtype), 4
    batches = [smooth_images(1, size, seed) for seed, size in enumerate(SIZES)]
    expected = [calm.encode(batch, ["a"]) for batch in batches]
    pictures = [calm.decode(latents, ["a"], GUIDED) for latents in expected]
    start = Barrier(num_threads)

    def work(_: int) -> None:
        start.wait()  # the first calls, which pack the weights, come together
        for batch, latents, picture in zip(batches, expected, pictures, strict=True):
            assert torch.equal(tokenizer.encode(batch, ["a"]), latents)
            assert torch.equal(tokenizer.decode(latents, ["a"], GUIDED), picture)

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(work, range(num_threads)))


def test_a_call_in_a_new_thread_uses_one_thread() -> None:
    tokenizer, before = tiny_tokenizer(), torch.get_num_threads()
    torch.set_num_threads(3)  # what a new thread starts with

    def threads_in_use() -> tuple[int, int]:
        at_first = torch.get_num_threads()
        tokenizer.encode(smooth_images(1, (32, 32)), ["a"])
        return at_first, torch.get_num_threads()

    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads_in_use).result() == (3, 1)
        assert tokenizer.num_threads == 1
    finally:
        torch.set_num_threads(before)


@every_size
def test_pixels_of_any_strides_are_the_same_image(size: tuple[int, int]) -> None:
    tokenizer = tiny_tokenizer()
    rows = smooth_images(1, size)[0].permute(1, 2, 0).contiguous()  # [H,W,3] in memory, as images are read
    view = rows.permute(2, 0, 1)[None]
    assert not view.is_contiguous()
    assert torch.equal(tokenizer.encode(view, ["a"]), tokenizer.encode(view.contiguous(), ["a"]))


# --- patches --------------------------------------------------------------------------------------------------------


def test_patches_are_in_the_order_of_pixel_unshuffle_and_come_back() -> None:
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    patches = images_to_patches(images, 4)
    unshuffled = torch.nn.functional.pixel_unshuffle(images, 4)  # [2,48,2,3]
    assert torch.equal(patches, unshuffled.permute(0, 2, 3, 1).reshape(12, 48))
    assert torch.equal(patches_to_images(patches, 4, (2, 3)), images)


@pytest.mark.parametrize(
    ("hidden_dim", "grid", "count"),
    [
        (3584, (1, 1), 32),
        (3584, (4, 4), 32),
        (3584, (16, 16), 2),
        (3584, (16, 33), 1),
        (3584, (64, 64), 1),
        (1152, (4, 4), 32),
        (1152, (16, 16), 4),
        (1152, (16, 33), 1),
        (1152, (64, 64), 1),
    ],
)
def test_a_group_fills_the_rows_of_a_map_but_never_beyond(hidden_dim: int, grid: tuple[int, int], count: int) -> None:
    assert images_of_a_group(grid, hidden_dim) == count
    assert count == 1 or count * grid[0] * grid[1] <= rows_at_once(hidden_dim)


# --- where it does not run ------------------------------------------------------------------------------------------


def test_a_dtype_without_operators_stays_with_the_plain_modules() -> None:
    network, note = choose_network(tiny_model().double())
    assert network.kernels == "torch"
    assert note is None


def test_pytorchs_switch_for_onednn_switches_packed_weights_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    network, _ = choose_network(tiny_model())
    assert network.kernels == "torch"


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_off_the_patch_grid_and_other_latents_are_refused(dtype: DtypeName) -> None:
    tokenizer = tiny_tokenizer(dtype)
    with pytest.raises(ValueError, match="not a multiple of 16 pixels"):
        tokenizer.encode(torch.zeros(1, 3, 40, 32, dtype=torch.uint8), ["a"])
    with pytest.raises(ValueError, match="latents are"):
        tokenizer.decode(torch.zeros(1, 5, 2, 3), ["a"])


FALLBACK = """
import torch
from tests.model.cpu.test_inference import smooth_images, tiny_tokenizer
from semdis_cli.settings import TokenizerSettings
tokenizer = tiny_tokenizer()
images = smooth_images(3, (32, 48))
with torch.inference_mode():
    expected = tokenizer.model.encode(images / 127.5 - 1)
error = (tokenizer.encode(images, ["a", "b", "c"]) - expected).abs().max() / expected.abs().max()
print(tokenizer.kernels, float(error) < 0.02)
"""


def test_a_cpu_without_bfloat16_kernels_gets_the_plain_modules() -> None:
    """oneDNN is told to take the CPU for an older one, whose bfloat16 its operators refuse."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [*python(), "-c", FALLBACK], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.split() == ["torch", "True"]
