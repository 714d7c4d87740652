"""Philox4x64-10: the vectors of its authors, NumPy in C, and PyTorch's integers, which stand for those of a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semdis_cli.model.philox import philox_on_cpu, philox_on_device
from tests.model import philox

ALL_BITS = (1 << 64) - 1
CPU = torch.device("cpu")
PI = (  # the digits of pi, as in the authors' file of vectors
    (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
    (0x452821E638D01377, 0xBE5466CF34E90C6C),
)

words_of_64_bits = st.integers(0, ALL_BITS)
every_path = pytest.mark.parametrize("path", ["C", "integers"])


def words(path: str, keys: NDArray[np.uint64], number: int) -> list[list[int]]:
    found = philox_on_cpu(keys, number) if path == "C" else philox_on_device(keys, number, CPU).numpy()
    return [list(map(int, row)) for row in found.view(np.uint64)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
        (
            (ALL_BITS,) * 4,
            (ALL_BITS,) * 2,
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (*PI, (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6)),
    ],
)
def test_the_definition_gives_the_vectors_of_its_authors(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox.block(counter, key) == expected


@every_path
@given(keys=st.lists(st.tuples(words_of_64_bits, words_of_64_bits), min_size=1, max_size=4), number=st.integers(1, 41))
@example(keys=[(0, 0), (ALL_BITS, ALL_BITS), (1 << 63, 0), (0xFFFFFFFF, 1 << 32)], number=9)
@settings(max_examples=100, deadline=None)
def test_every_path_gives_the_words_of_the_definition(path: str, keys: list[tuple[int, int]], number: int) -> None:
    assert words(path, np.array(keys, np.uint64), number) == [philox.words(key, number) for key in keys]


def test_a_hundred_thousand_words_are_the_same_on_both_paths() -> None:
    keys = np.random.default_rng(0).integers(0, ALL_BITS, (3, 2), np.uint64, endpoint=True)
    assert words("C", keys, 100_001) == words("integers", keys, 100_001)
