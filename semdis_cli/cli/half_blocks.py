"""Pictures in a terminal: each character is two pixels, one above the other."""

import sys
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_UPPER_HALF = "\u2580"
_GAP = "  "
_LEAST_WIDTH, _MOST_WIDTH = 24, 80


def can_show() -> bool:
    """Tell whether stdout is a terminal that shows colours and blocks."""
    console = Console()
    can_colour = console.color_system in {"256", "truecolor", "windows"} and not console.no_color
    return sys.stdout.isatty() and can_colour and console.encoding.startswith("utf") and console.width >= _LEAST_WIDTH


def side_px() -> int:
    """Return the width in pixels that each of two pictures beside one another has."""
    return (min(Console().width, _MOST_WIDTH) - len(_GAP)) // 2


def show_pair(left: "NDArray[np.uint8]", right: "NDArray[np.uint8]") -> None:
    """Print two pictures of one size, uint8 [H,W,3] sRGB, side by side."""
    console = Console()
    for top in range(0, len(left), 2):
        line = Text(no_wrap=True)
        for picture in (left, right):
            lower_row = [*map(_colour, picture[top + 1])] if top + 1 < len(picture) else [None] * len(picture[top])
            for upper, lower in zip(picture[top], lower_row, strict=True):
                line.append(_UPPER_HALF, Style(color=_colour(upper), bgcolor=lower))
            line.append(_GAP if picture is left else "")
        console.print(line)


def _colour(pixel: "NDArray[np.uint8]") -> Color:
    return Color.from_rgb(*map(int, pixel))
