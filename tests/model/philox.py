"""Noise as its definition has it, in Python's own numbers: Philox4x64-10 after the paper, and the normal values by erf.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and table 2.
"""

import hashlib
import math
import struct
from collections.abc import Iterator
from functools import cache

_64_BITS = (1 << 64) - 1
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # golden ratio, sqrt(3) - 1


def block(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four words of 64 bits."""
    left, a, right, b = counter
    for number in range(10):
        keys = [(word + number * weyl) & _64_BITS for word, weyl in zip(key, _WEYL, strict=True)]
        of_left, of_right = left * _MULTIPLIERS[0], right * _MULTIPLIERS[1]
        left, a = (of_right >> 64) ^ a ^ keys[0], of_right & _64_BITS
        right, b = (of_left >> 64) ^ b ^ keys[1], of_left & _64_BITS
    return left, a, right, b


def words(key: tuple[int, int], number: int) -> list[int]:
    """The first words of a key: those of the counters 1, 2, ..."""
    blocks = (block((counter, 0, 0, 0), key) for counter in range(1, -(-number // 4) + 1))
    return [word for four in blocks for word in four][:number]


def rounded(value: float) -> float:
    """The nearest float32."""
    nearest: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return nearest


def quantile(number: int) -> float:
    """The normal value below which are (32,768 + number + 1/2) / 65,536 of all, by Newton's method."""
    x = 0.0 if number == 0 else quantile_start(number)
    for _ in range(60):
        if x < 1:
            excess = math.erf(x / math.sqrt(2)) - (2 * number + 1) / 65536
        else:
            excess = (65535 - 2 * number) / 65536 - math.erfc(x / math.sqrt(2))
        step = excess / (math.sqrt(2 / math.pi) * math.exp(-x * x / 2))
        x -= step
        if abs(step) <= 1e-16 * x:
            break
    return x


def quantile_start(number: int) -> float:
    """Something near it, from where Newton's method goes there."""
    return min(3.0, math.sqrt(-2 * math.log((65535 - 2 * number) / 65536)))


@cache
def exact_values() -> tuple[float, ...]:
    """Halves of the 65,536 values, before they are float32."""
    upper = [quantile(number) for number in range(32767)]
    upper.append(math.sqrt(32768 - math.fsum(value**2 for value in upper)))  # so that the variance is 1
    return (*(-value / 2 for value in reversed(upper)), *(value / 2 for value in upper))


def noise(purpose: str, seed: int, key: str, number: int) -> Iterator[float]:
    """The values of an image's noise, in their order."""
    name = hashlib.sha256(f"{purpose}\0{seed}\0{key}".encode(errors="surrogatepass")).digest()
    drawn = words((int.from_bytes(name[:8], "little"), int.from_bytes(name[8:16], "little")), -(-number // 4))
    table = exact_values()
    for i in range(number):
        row, column = divmod(i, len(drawn))
        a, b, c, d = (rounded(table[drawn[column] >> shift & 0xFFFF]) for shift in (0, 16, 32, 48))
        left, right = ((a + c), (b + d)) if row < 2 else ((a - c), (b - d))
        yield rounded(rounded(left) + (rounded(right) if row % 2 == 0 else -rounded(right)))
