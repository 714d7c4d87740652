"""Compiled blocks: the eager function, from any thread, and a reason where they cannot be compiled."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semdis_cli.model import network as network_module
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.cpu.kernels import onednn_works
from semdis_cli.model.decoder import DecoderGrid
from semdis_cli.model.network import CompiledNetwork, PlainNetwork, choose_network
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import DtypeName, TokenizerSettings
from tests.forks import TRAINING, python
from tests.worlds import tiny_model

GUIDED = FCDMDiffAEInferenceConfig(2, pdg=True)


def compiled_and_eager() -> tuple[CompiledNetwork, PlainNetwork]:
    return CompiledNetwork(tiny_model().requires_grad_(False)), PlainNetwork(tiny_model().requires_grad_(False))


def tiny_tokenizer(*, compile_: bool, dtype: DtypeName = "float32") -> Tokenizer:
    settings = TokenizerSettings("cpu", dtype, batch_size=2, compile="on" if compile_ else "off")
    return Tokenizer(tiny_model(), ModelIdentity("tiny", "folder", None, "", ""), settings)


def random_images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def test_what_the_calls_of_a_time_grid_share_is_computed_once_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model().requires_grad_(False)
    network, latents, noise = PlainNetwork(model), torch.randn(2, 8, 2, 3), torch.randn(2, 3, 32, 48)
    configs = [FCDMDiffAEInferenceConfig(2), GUIDED, FCDMDiffAEInferenceConfig(3), FCDMDiffAEInferenceConfig(2)]
    expected = [PlainNetwork(model).images(latents, noise, config) for config in configs]
    last = FCDMDiffAEInferenceConfig(4)
    of_last = PlainNetwork(model).images(latents, noise, last)
    grids: list[int] = []
    make = model.decoder_grid

    def counted(config: FCDMDiffAEInferenceConfig) -> DecoderGrid:
        grids.append(config.num_steps)
        return make(config)

    monkeypatch.setattr(model, "decoder_grid", counted)
    for config, images in zip(configs, expected, strict=True):
        assert torch.equal(network.images(latents, noise, config), images)
    assert grids == [2, 3], "guidance takes the same steps"
    monkeypatch.setattr(network_module, "_MOST_GRIDS", 2)
    for _ in range(2):
        assert torch.equal(network.images(latents, noise, last), of_last)
    assert grids == [2, 3, 4, 4], "with many kept, no more are"


COMPILED = """
import torch
from concurrent.futures import ThreadPoolExecutor
from tests.model.test_network import GUIDED, compiled_and_eager, random_images
compiled, eager = compiled_and_eager()
batches = [random_images(count, *size) for size in ((32, 48), (48, 48)) for count in (2, 1)]

@torch.inference_mode()
def work(images):
    mean = compiled.posterior(images).mean
    torch.testing.assert_close(mean, eager.posterior(images).mean, rtol=0, atol=2e-5)
    noise = 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    difference = compiled.images(mean, noise, GUIDED).int() - eager.images(mean, noise, GUIDED).int()
    assert difference.abs().max() <= 1
    return mean

with ThreadPoolExecutor(2) as pool:
    means = list(pool.map(work, batches))
assert torch.equal(work(batches[0]), means[0])
print(compiled.kernels, compiled.note)
"""


MANY_SIZES = """
import os, torch
from concurrent.futures import ThreadPoolExecutor
from semdis_cli.model import compiling, network
from semdis_cli.errors import UsageError
from tests.model.test_network import compiled_and_eager, random_images
from semdis_cli.settings import TokenizerSettings
compiling._MOST_COMPILED = int(os.environ["MOST"])
network.compiler_trouble = lambda device: None  # without torch's own code generator there is none to find
compile_block = network.FCDMBlock.compile
network.FCDMBlock.compile = lambda block, **options: compile_block(block, backend="eager", **options)
compiled, _ = compiled_and_eager()

@torch.inference_mode()
def work(side):
    compiled.posterior(random_images(1, 32, side))

with ThreadPoolExecutor(2) as pool:
    try:
        for side in range(32, 32 + 16 * 12, 16):
            pool.submit(work, side).result()
    except UsageError as error:
        print(error)
    else:
        print(torch._dynamo.utils.counters["stats"]["unique_graphs"], compiled.kernels)
"""


def run_in_a_process_of_its_own(source: str, command: Sequence[str] = (sys.executable,), **environment: str) -> str:
    done = subprocess.run(
        [*command, "-c", source],
        check=False,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_compiled_blocks_agree_with_eager_ones_from_two_threads(tmp_path: Path) -> None:
    assert run_in_a_process_of_its_own(COMPILED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path)) == "inductor None"


@pytest.mark.slow
def test_more_sizes_than_torch_compiles_by_itself_are_compiled_in_any_thread() -> None:
    assert run_in_a_process_of_its_own(MANY_SIZES, python(*TRAINING), MOST="1024") == "12 inductor"


def test_a_size_too_many_is_told_and_never_runs_uncompiled() -> None:
    said = run_in_a_process_of_its_own(MANY_SIZES, python(*TRAINING), MOST="9")
    assert said.startswith("compiling for 1x3x32x176 failed (")
    assert said.endswith("); use --compile off")


@pytest.mark.slow
def test_without_a_compiler_the_blocks_stay_eager_and_say_why(tmp_path: Path) -> None:
    kernels, _, note = run_in_a_process_of_its_own(
        COMPILED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), CXX="/nonexistent/c++", PATH=str(tmp_path)
    ).partition(" ")
    assert kernels == "torch"
    assert note.startswith("not compiled: ")
    assert len(note) < 250


@pytest.mark.skipif(not onednn_works(torch.float32), reason="this CPU or PyTorch has no such kernels")
def test_packed_weights_are_not_compiled_and_say_why() -> None:
    tokenizer = tiny_tokenizer(compile_=True)
    assert tokenizer.kernels == "onednn"
    assert tokenizer.compile_note == "not compiled: packed weights are as fast on a CPU"
    assert tiny_tokenizer(compile_=False).compile_note is None


def test_what_was_not_asked_for_is_not_compiled() -> None:
    network, note = choose_network(tiny_model().double())
    assert (network.kernels, note) == ("torch", None)


def test_a_warm_tokenizer_gives_what_a_cold_one_gives() -> None:
    images = random_images(2, 32, 48)
    warm = tiny_tokenizer(compile_=False)
    warm.warm_up(32, 48)
    with ThreadPoolExecutor(1) as pool:
        latents = pool.submit(warm.encode, images, ["a", "b"]).result()
    assert torch.equal(latents, tiny_tokenizer(compile_=False).encode(images, ["a", "b"]))
