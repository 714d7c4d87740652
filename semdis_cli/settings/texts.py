"""Texts of options that are read by ourselves, and limits of errors."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from semdis_cli.errors import UsageError


def parse_number_or_share(text: str, option: str) -> tuple[Fraction, bool]:
    """`10` or `0.5%` -> the number, and whether it is a percentage. Raises `UsageError` for more than 100 % too."""
    match = re.fullmatch(r"([0-9]{1,18})|([0-9]{1,18}(?:\.[0-9]{1,18})?)%", text)
    if match is None or (match[2] and Fraction(match[2]) > 100):
        raise UsageError(f"{option} is a number like 10, or a share up to 100% like 0.5%, not {text!r:.60}")
    return Fraction(match[1] or match[2]), match[1] is None


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """`32` or `auto`. Raises `UsageError`."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise UsageError(f"--batch-size is a number from 1 on, or auto, not {text!r:.60}")
    return int(text)


def parse_devices(text: str) -> tuple[int, ...] | Literal["all"]:
    """`all`, or numbers of devices like `0,2`, each once. Raises `ValueError`."""
    if text == "all":
        return "all"
    numbers = tuple(map(int, text.split(","))) if re.fullmatch(r"[0-9]{1,3}(,[0-9]{1,3})*", text) else ()
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{text!r:.60} names no devices; write all, or numbers like 0,2, each once")
    return numbers


def parse_size(text: str) -> int | tuple[int, ...]:
    """`256`, or `256,512` for several. Raises `ValueError`."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise ValueError(f"{text!r:.60} is no size; write 256, or 256,512 for several")
    sizes = tuple(map(int, text.split(",")))
    return sizes if len(sizes) > 1 else sizes[0]


def parse_bucket(text: str) -> tuple[int, int]:
    """`512x288`, width by height -> (288, 512), height and width as everywhere else. Raises `ValueError`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if match is None:
        raise ValueError(f"{text!r:.60} is no bucket; write width and height like 512x288")
    return int(match[2]), int(match[1])


def parse_colour(text: str) -> tuple[int, int, int]:
    """`#rrggbb` -> (red, green, blue), each 0..255. Raises `ValueError`."""
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text)
    if match is None:
        raise ValueError(f"{text!r} is no colour; write it like #ffffff")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue


def spell_colour(colour: tuple[int, int, int]) -> str:
    """Spell (red, green, blue) as `parse_colour` reads it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@dataclass(frozen=True)
class ErrorLimit:
    """Limit of inputs that may fail: `value` of them or, if `is_share`, `value` percent. `text`: as the user wrote."""

    text: str
    value: Fraction
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> "ErrorLimit":
        """Read `10` or `0.5%`. Raises `UsageError`."""
        return cls(text, *parse_number_or_share(text, "--max-errors"))

    def is_exceeded(self, num_failed: int, num_inputs: int) -> bool:
        """Tell whether `num_failed` of `num_inputs` are too many; exactly, so 2 of 200 are not more than 1 %."""
        return num_failed > (self.value * num_inputs / 100 if self.is_share else self.value)
