"""Noise: the same bits on every path and by its definition, normal, and nothing alike in two images."""

import hashlib
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semdis_cli.model.noise import (
    fill_on_cpu,
    fill_on_device,
    noise_of_images,
    noise_of_streams,
    noise_stream,
    normal_values,
)
from tests.model import philox

SHAPES = [(1,), (2, 3), (3, 5, 7), (4, 32, 32), (3, 256, 256), (3, 600, 900)]
NORMAL = NormalDist()
BEGINNING = [-0.5503339767456055, -0.7812937498092651, 0.1416618824005127, -0.9345021843910217]
SHA256 = "3bd20953cbb2038a0e9d442fafff04b736891fc425e0a579a34f0ec2659fbf63"


def image_noise(purpose: str, seed: int, key: str, shape: tuple[int, ...]) -> Tensor:
    return noise_of_images(purpose, seed, [key], shape)[0]


def much_noise(num_images: int) -> NDArray[np.float32]:
    """[num_images,196608]."""
    return noise_of_images("pixels", 1, [f"{number}.jpg" for number in range(num_images)], (3 * 256 * 256,)).numpy()


# --- bits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a.jpg", "b/ü.png", "c \udcff.jpg"])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 16, 17, 210])
def test_noise_is_that_of_its_definition(key: str, number: int) -> None:
    assert image_noise("pixels", 3, key, (number,)).tolist() == list(philox.noise("pixels", 3, key, number))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_of_pytorch_give_the_bits_that_numpy_gives(shape: tuple[int, ...]) -> None:
    keys = np.random.default_rng(1).integers(0, 1 << 64, (3, 2), np.uint64, endpoint=False)
    num_words = -(-math.prod(shape) // 4)
    on_device, on_cpu = torch.empty(3, 4, num_words), torch.empty(3, 4, num_words)
    fill_on_device(on_device, keys)
    fill_on_cpu(on_cpu.numpy(), keys)
    assert torch.equal(on_device, on_cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gpu_gives_the_bits_that_a_cpu_gives(shape: tuple[int, ...]) -> None:
    keys = [f"{number}.jpg" for number in range(5)]
    on_gpu = noise_of_images("pixels", 3, keys, shape, torch.device("cuda"))
    assert torch.equal(on_gpu.cpu(), noise_of_images("pixels", 3, keys, shape))


def test_the_bits_are_those_of_the_first_day() -> None:
    noise = torch.cat([image_noise("pixels", seed, "a.jpg", (3, 64, 64)).flatten() for seed in (0, 1)])
    assert noise[:4].tolist() == BEGINNING
    assert hashlib.sha256(noise.numpy().astype("<f4").tobytes()).hexdigest() == SHA256


def test_the_values_are_quantiles_whatever_the_math_library_says_of_their_last_bits() -> None:
    exact = np.array(philox.exact_values())
    values = normal_values()
    assert np.array_equal(values, exact.astype(np.float32))
    above, below = (np.nextafter(values, np.float32(end)).astype(float) for end in (np.inf, -np.inf))
    to_another = np.minimum(abs((values + above) / 2 - exact), abs((values + below) / 2 - exact)) / abs(exact)
    assert to_another.min() > 1e-12  # 4,000 units in the last place
    assert np.array_equal(values, -values[::-1])
    assert np.square(2 * values.astype(float)).mean() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("num_images", [1, 2, 40])
@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 64, 64), (3, 256, 272)], ids=str)
def test_an_images_noise_is_the_same_in_any_company(num_images: int, shape: tuple[int, ...]) -> None:
    keys = [f"{number}.jpg" for number in range(num_images)]
    together = noise_of_images("pixels", 3, keys, shape)
    assert together.shape == (num_images, *shape)
    assert together.is_contiguous()
    assert together.dtype == torch.float32
    for key, noise in zip(keys, together, strict=True):
        assert torch.equal(noise, image_noise("pixels", 3, key, shape))


def test_streams_may_differ_in_purpose() -> None:
    streams = [noise_stream("posterior", 3, "a"), noise_stream("posterior flip", 3, "a")]
    noise = noise_of_streams(streams, (4, 2, 3))
    assert torch.equal(noise[0], image_noise("posterior", 3, "a", (4, 2, 3)))
    assert torch.equal(noise[1], image_noise("posterior flip", 3, "a", (4, 2, 3)))


class _Operations(TorchDispatchMode):
    """Notes the shapes of what goes to a device, and refuses an operation on tensors of two."""

    def __init__(self, copied: list[tuple[int, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._copied = copied

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given_ = {one.device.type for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        made = {one.device.type for one in tree_leaves(result) if isinstance(one, Tensor)}
        assert len(given_) < 2, func
        if given_ == {"cpu"} and made == {"meta"}:
            self._copied.append(tuple(result.shape))
        return result


def test_only_the_keys_go_to_the_device() -> None:
    """A meta tensor knows what a GPU's would: device, shape and dtype."""
    for expected in ([(10, 2, 2, 1), (3, 2, 1, 1), (65536,)], [(10, 2, 2, 1)]):  # tables once for all calls
        copied: list[tuple[int, ...]] = []
        with _Operations(copied):
            noise = noise_of_images("pixels", 0, ["a", "b"], (3, 32, 32), torch.device("meta"))
        assert copied == expected
        assert (noise.device.type, noise.shape, noise.dtype) == ("meta", (2, 3, 32, 32), torch.float32)


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("purpose", "seed", "key"),
    [("posterior", 3, "a.jpg"), ("pixels", 4, "a.jpg"), ("pixels", -3, "a.jpg"), ("pixels", 3, "b.jpg")],
)
def test_another_purpose_seed_or_key_gives_other_noise(purpose: str, seed: int, key: str) -> None:
    noise, other = (image_noise(*stream, (100_000,)) for stream in (("pixels", 3, "a.jpg"), (purpose, seed, key)))
    assert abs(float(torch.corrcoef(torch.stack([noise, other]))[0, 1])) < 5 / math.sqrt(100_000)


def test_seed_and_key_do_not_run_into_each_other() -> None:
    assert not torch.equal(image_noise("pixels", 1, "2.jpg", (8,)), image_noise("pixels", 12, ".jpg", (8,)))


code_points = st.one_of(st.integers(0, 0x10FFFF), st.integers(0xD800, 0xDFFF))  # the latter are surrogates


@given(key=st.lists(code_points.map(chr), max_size=8).map("".join), seed=st.integers())
@settings(max_examples=200, deadline=None)
def test_any_key_and_seed_give_noise(key: str, seed: int) -> None:
    assert image_noise("pixels", seed, key, (2,)).isfinite().all()


@pytest.mark.parametrize("key", [chr(0xDCFF), chr(0xD800), "a\0b", "\x1b[2J", ""])
def test_odd_keys_have_noise_of_their_own(key: str) -> None:
    noise = image_noise("pixels", 0, key, (8,))
    assert torch.equal(noise, image_noise("pixels", 0, key, (8,)))
    assert not torch.equal(noise, image_noise("pixels", 0, "plain.jpg", (8,)))


# --- how normal it is -----------------------------------------------------------------------------------------------


def test_the_moments_are_those_of_a_normal_distribution() -> None:
    noise = much_noise(20).astype(float)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((noise**power).mean() - moment) < 4 * math.sqrt(variance / noise.size), power


def test_the_largest_gap_to_the_normal_distribution_is_that_of_chance() -> None:
    """Kolmogorov and Smirnov: sqrt(n) times the gap is above 1.95 once in a thousand."""
    noise = np.sort(much_noise(5), axis=None).astype(float)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in noise.tolist()])
    ranks = np.arange(noise.size + 1) / noise.size
    gap = max((ranks[1:] - below).max(), (below - ranks[:-1]).max())
    assert gap * math.sqrt(noise.size) < 1.95


def test_a_thousand_intervals_of_equal_probability_get_as_many_values() -> None:
    noise = much_noise(40)
    edges = [NORMAL.inv_cdf(number / 1000) for number in range(1, 1000)]
    counts = np.bincount(np.searchsorted(edges, noise.ravel()), minlength=1000)
    expected = noise.size / 1000
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 999) < 4 * math.sqrt(2 * 999)


@pytest.mark.parametrize("side", [1, -1])
def test_the_tails_are_as_heavy_as_they_should_be(side: int) -> None:
    noise = side * much_noise(80)
    for limit in (2.0, 3.0, 4.0, 4.5, 5.0):
        expected = noise.size * 0.5 * math.erfc(limit / math.sqrt(2))  # 4.5 beyond 5
        assert abs(int((noise > limit).sum()) - expected) < 4 * math.sqrt(expected), limit


def test_neighbours_and_mixed_values_do_not_know_of_each_other() -> None:
    noise = much_noise(10).astype(float)
    mixed = noise.shape[1] // 4  # values that far apart come from one word
    for distance in (1, 2, 3, 4, 256, 65536, mixed, 2 * mixed, 3 * mixed):
        here, there = noise[:, :-distance], noise[:, distance:]
        bound = 4 / math.sqrt(here.size)
        assert abs((here * there).mean()) < bound, distance
        assert abs(((here**2 - 1) * (there**2 - 1)).mean() / 2) < bound, distance
        assert abs(((here**3 - 3 * here) * there).mean() / math.sqrt(6)) < bound, distance


def test_images_do_not_know_of_each_other() -> None:
    noise = torch.from_numpy(much_noise(30))
    correlations = torch.corrcoef(noise).fill_diagonal_(0).abs()
    assert float(correlations.max()) < 5 / math.sqrt(noise.shape[1])


# --- the noise of before --------------------------------------------------------------------------------------------


def test_the_noise_of_before_is_drawn_by_pytorch() -> None:
    [noise] = noise_of_images("pixels", 3, ["a.jpg"], (3, 5, 7), kind="torch")
    seed = int.from_bytes(hashlib.sha256(b"pixels\x003\x00a.jpg").digest()[:8], "big") >> 1
    assert torch.equal(noise, torch.randn((3, 5, 7), generator=torch.Generator().manual_seed(seed)))
