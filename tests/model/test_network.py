"""Compiled blocks: the eager function, from any thread, and a reason where they cannot be compiled."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.cpu_kernels import onednn_works
from semdis_cli.model.tokenizer import DtypeName, ModelIdentity, Tokenizer, TokenizerSettings
from tests.worlds import tiny_model

GUIDED = FCDMDiffAEInferenceConfig(2, pdg=True)


def tiny_tokenizer(*, compile_: bool, dtype: DtypeName = "float32") -> Tokenizer:
    settings = TokenizerSettings("cpu", dtype, batch_size=2, compile=compile_)
    return Tokenizer(tiny_model(), ModelIdentity("tiny", "folder", None, "", ""), settings)


def random_images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


COMPILED = """
import torch
from concurrent.futures import ThreadPoolExecutor
from tests.model.test_network import GUIDED, random_images, tiny_tokenizer
eager, compiled = (tiny_tokenizer(compile_=compile_) for compile_ in (False, True))
batches = [random_images(count, *size) for size in ((32, 48), (48, 48)) for count in (2, 1)]

def work(images):
    keys = ["a", "b"][: len(images)]
    latents = compiled.encode(images, keys)
    torch.testing.assert_close(latents, eager.encode(images, keys), rtol=0, atol=2e-5)
    difference = compiled.decode(latents, keys, GUIDED).int() - eager.decode(latents, keys, GUIDED).int()
    assert difference.abs().max() <= 1
    return latents

with ThreadPoolExecutor(2) as pool:
    latents = list(pool.map(work, batches))
assert torch.equal(latents[0][:1], latents[1])
print(compiled.kernels, compiled.compile_note)
"""


def run_in_a_process_of_its_own(source: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source],
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
def test_without_a_compiler_the_blocks_stay_eager_and_say_why(tmp_path: Path) -> None:
    kernels, _, note = run_in_a_process_of_its_own(
        COMPILED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), CXX="/nonexistent/c++", PATH=str(tmp_path)
    ).partition(" ")
    assert kernels == "torch"
    assert note.startswith("not compiled: ")
    assert len(note) < 250


@pytest.mark.skipif(not onednn_works(torch.bfloat16), reason="this CPU or PyTorch has no such kernels")
def test_packed_weights_are_not_compiled_and_say_why() -> None:
    tokenizer = tiny_tokenizer(compile_=True, dtype="bfloat16")
    assert tokenizer.kernels == "onednn"
    assert tokenizer.compile_note == "not compiled: packed weights are as fast on a CPU"
    assert tiny_tokenizer(compile_=False, dtype="bfloat16").compile_note is None


def test_what_was_not_asked_for_is_not_compiled() -> None:
    tokenizer = tiny_tokenizer(compile_=False)
    assert (tokenizer.kernels, tokenizer.compile_note) == ("torch", None)


def test_a_warm_tokenizer_gives_what_a_cold_one_gives() -> None:
    images = random_images(2, 32, 48)
    warm = tiny_tokenizer(compile_=False)
    warm.warm_up(32, 48)
    with ThreadPoolExecutor(1) as pool:
        latents = pool.submit(warm.encode, images, ["a", "b"]).result()
    assert torch.equal(latents, tiny_tokenizer(compile_=False).encode(images, ["a", "b"]))
