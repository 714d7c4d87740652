"""Images of a call: as many as memory takes, half as many where it runs out, none lost and none out of order."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semdis_cli.errors import UnreadableImageError
from semdis_cli.model.call_sizes import CallSizes, images_that_fit
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import TokenizerSettings
from tests.worlds import tiny_model

GIB = 2**30
KEYS = [f"{i}.png" for i in range(9)]


def tiny_tokenizer(batch_size: Any = 8, dtype: Any = "float32") -> Tokenizer:
    """One that runs the plain modules, as on a GPU."""
    identity = ModelIdentity("tiny", "folder", None, "0" * 64, "1" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        return Tokenizer(tiny_model(), identity, TokenizerSettings("cpu", dtype, batch_size))


def random_images(count: int, height: int = 32, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@contextmanager
def memory_for(count: int, *layers: nn.Module) -> Iterator[None]:
    """`layers` run out of memory over more than `count` images, as on a GPU."""

    def check(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > count:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hooks = [layer.register_forward_pre_hook(check) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def limited(tokenizer: Tokenizer) -> tuple[nn.Module, nn.Module]:
    return tokenizer.model.encoder.patchify, tokenizer.model.decoder.patchify


# --- memory runs out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "settled"), [(7, 4), (4, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize("num_images", [8, 5, 1])
def test_where_memory_runs_out_calls_are_halved_and_no_image_is_lost(num_images: int, count: int, settled: int) -> None:
    tokenizer, images, keys = tiny_tokenizer(), random_images(num_images), KEYS[:num_images]
    expected = tiny_tokenizer().encode(images, keys, sample_seed=1)
    pictures = tiny_tokenizer().decode(expected, keys)
    assert tokenizer.halved_to == {}
    with memory_for(count, *limited(tokenizer)):
        latents = tokenizer.encode(images, keys, sample_seed=1)
        decoded = tokenizer.decode(latents, keys)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)
    assert int((decoded.int() - pictures.int()).abs().max()) <= 1
    assert tokenizer.halved_to == {(32, 48): settled}
    assert tokenizer.images_per_call(32, 48) == 8  # the pipeline's batches stay as they were


def test_a_halved_call_stays_halved_and_other_sizes_are_not() -> None:
    tokenizer = tiny_tokenizer()
    with memory_for(4, *limited(tokenizer)):
        before = tokenizer.encode(random_images(8), KEYS[:8])
    assert tokenizer.halved_to == {(32, 48): 4}
    assert torch.equal(tokenizer.encode(random_images(8), KEYS[:8]), before)  # with memory back: the same calls
    tokenizer.encode(random_images(8, 48, 48), KEYS[:8])
    assert tokenizer.halved_to == {(32, 48): 4}


def test_decoding_that_runs_out_of_memory_leaves_the_calls_of_encoding_whole() -> None:
    tokenizer = tiny_tokenizer()
    latents = tokenizer.encode(random_images(8), KEYS[:8])
    sizes: list[int] = []
    encoder, decoder = limited(tokenizer)
    with memory_for(2, decoder):
        tokenizer.decode(latents, KEYS[:8])
    assert tokenizer.halved_to == {(32, 48): 2}
    hook = encoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    tokenizer.encode(random_images(8), KEYS[:8])
    hook.remove()
    assert sizes == [8]
    with memory_for(4, encoder):
        tokenizer.encode(random_images(8), KEYS[:8])
    assert tokenizer.halved_to == {(32, 48): 2}  # the fewer


def test_what_auto_came_to_is_told_where_the_memory_of_a_gpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = tiny_tokenizer(batch_size="auto")
    on_cpu.images_per_call(32, 48)
    assert on_cpu.chosen_sizes == {}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 << 20, 1 << 30))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    model: Any = SimpleNamespace(config=on_cpu.model.config, device=torch.device("cuda"), dtype=torch.bfloat16)
    for batch_size in (8, None):
        fixed = CallSizes(batch_size, model)
        assert fixed.most(32, 48) > 0
        assert fixed.chosen == {}
    by_memory = CallSizes("auto", model)
    number = by_memory.most(32, 48)
    assert 1 <= number < CallSizes(None, model).most(32, 48)
    assert by_memory.chosen == {(32, 48): number}


def test_an_image_that_does_not_fit_alone_is_an_unreadable_image() -> None:
    tokenizer = tiny_tokenizer()
    with memory_for(0, *limited(tokenizer)), pytest.raises(UnreadableImageError, match="not enough memory at 32x48"):
        tokenizer.encode(random_images(3), KEYS[:3])
    latents = tokenizer.encode(random_images(3), KEYS[:3])
    with memory_for(0, *limited(tokenizer)), pytest.raises(UnreadableImageError, match="--max-pixels"):
        tokenizer.decode(latents, KEYS[:3])


def test_an_image_fails_only_if_there_is_no_memory_for_it_alone() -> None:
    """Two threads, memory for one call: whoever runs out waits for the other and has all of it."""
    tokenizer, images = tiny_tokenizer(batch_size=1), random_images(1)
    expected = tiny_tokenizer(batch_size=1).encode(images, KEYS[:1])
    lock, under_way, failed = Lock(), 0, 0

    def begin(_layer: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        nonlocal under_way, failed
        with lock:
            if under_way:
                failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            under_way += 1
        time.sleep(0.02)

    def end(_layer: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal under_way
        with lock:
            under_way -= 1

    hooks = [
        tokenizer.model.encoder.patchify.register_forward_pre_hook(begin),
        tokenizer.model.encoder.to_bottleneck.register_forward_hook(end),
    ]
    try:
        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(lambda _: tokenizer.encode(images, KEYS[:1]), range(30)))
    finally:
        for hook in hooks:
            hook.remove()
    assert failed > 0
    assert all(torch.equal(latents, expected) for latents in results)
    assert tokenizer.halved_to == {}


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="latents are"):
        tokenizer.decode(torch.zeros(2, 5, 2, 3), KEYS[:2])
    assert tokenizer.halved_to == {}


# --- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_bytes", "image_bytes", "most", "expected"),
    [
        (80 * GIB, GIB, 64, 64),  # all of them fit
        (80 * GIB, GIB, 100, 64),  # the next power of two below
        (20 * GIB, GIB, 64, 16),
        (19 * GIB, GIB, 64, 8),  # 15.2 of them
        (GIB, GIB, 64, 1),  # not even one, by the estimate: it is tried
        (0, GIB, 64, 1),
        (80 * GIB, 1, 48, 48),
    ],
)
def test_images_that_fit_are_a_power_of_two_or_as_many_as_are_wanted(
    free_bytes: int, image_bytes: int, most: int, expected: int
) -> None:
    assert images_that_fit(free_bytes, image_bytes, most) == expected


@pytest.mark.parametrize("batch_size", [None, "auto"])
def test_on_a_cpu_a_call_is_a_group_of_about_1024_patches_in_a_narrow_model(batch_size: Any) -> None:
    tokenizer = tiny_tokenizer(batch_size)
    sizes = [(16, 16), (64, 64), (256, 256), (256, 320), (384, 512), (512, 768), (1024, 1024)]
    assert [tokenizer.images_per_call(*size) for size in sizes] == [32, 32, 4, 3, 1, 1, 1]


# --- how much memory ------------------------------------------------------------------------------------------------

MEASURE = """
import ctypes, sys, torch
from pathlib import Path
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.settings import TokenizerSettings
from semdis_cli.settings import TokenizerSettings

def status_bytes(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) * 1024

half, dtype, height, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tokenizer = Tokenizer.load("semdis-small", TokenizerSettings("cpu", dtype))
tokenizer.warm_up(64, 64)
keys = ["a"] * tokenizer.images_per_call(height, width)
images = torch.zeros(len(keys), 3, height, width, dtype=torch.uint8)
latents = torch.zeros(len(keys), tokenizer.latent_channels, height // 16, width // 16)
ctypes.CDLL(None).malloc_trim(0)
before = status_bytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
if half == "encode":
    tokenizer.encode(images, keys)
else:
    tokenizer.decode(latents, keys, FCDMDiffAEInferenceConfig(2, "dpmpp_2m", pdg=True))
least = tokenizer.least_call_bytes((height, width), len(keys), half, is_guided=True)
print(status_bytes("VmHWM") - before, tokenizer.call_bytes(height, width, half), least)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("size", [(1024, 1024), (1536, 2048)])
@pytest.mark.parametrize("half", ["encode", "decode"])
def test_a_calls_memory_is_estimated_within_a_factor_of_two(half: str, dtype: str, size: tuple[int, int]) -> None:
    arguments = [sys.executable, "-c", MEASURE, half, dtype, *map(str, size)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=True)
    measured, estimated, least = map(int, done.stdout.split())
    assert measured / 2 < estimated < 2 * measured, f"{measured / 2**20:.0f} MiB, estimated {estimated / 2**20:.0f}"
    assert 0.5 * measured < least < 1.5 * measured, f"{measured / 2**20:.0f} MiB, at least {least / 2**20:.0f}"
