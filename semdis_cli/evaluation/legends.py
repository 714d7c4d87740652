"""Legends of pictures of latents, as SVG: they hold numbers alone, so nothing in them has to be escaped."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from semdis_cli.evaluation.pca import LatentBasis

_COLOURS = ("red", "green", "blue")
_RAMPS = ("#f00", "#0f0", "#00f")
_MOST_BARS = 32
_WIDTH = 640


def pca_legend(basis: LatentBasis) -> str:
    """Draw which colour is which component, with its range, and the share of the variance of the first ones."""
    lines = []
    for number, (colour, ramp) in enumerate(zip(_COLOURS, _RAMPS, strict=True)):
        share = basis.explained[number] if number < len(basis.explained) else 0.0
        top = 44 + 26 * number
        lines += [
            _ramp(colour, ramp),
            f'<rect x="16" y="{top}" width="150" height="16" fill="url(#{colour})"/>',
            _text(
                178,
                top + 13,
                f"{colour}: component {number + 1}, {share:.1%} of the variance, "
                f"{basis.low[number]:.3g} to {basis.high[number]:.3g}",
            ),
        ]
    shown = basis.explained[:_MOST_BARS]
    title = f"Share of the variance of the first {len(shown)} of {len(basis.explained)} components"
    lines += [_text(16, 146, title), *_bars(shown, 156)]
    return _svg(_WIDTH, 300, "Latents as colours: three principal components of the whole set", lines)


def channel_legend(low: NDArray[np.float64], high: NDArray[np.float64], across: int) -> str:
    """Draw where each channel is, and from which value to which it goes from black to white."""
    lines = [
        _ramp("grey", "#fff"),
        '<rect x="16" y="36" width="150" height="16" fill="url(#grey)" stroke="#888"/>',
        _text(178, 49, "black: 1st percentile of the channel in the whole set, white: 99th; both below its number"),
    ]
    for number, (least, most) in enumerate(zip(low, high, strict=True)):
        left, top = 16 + 62 * (number % across), 70 + 46 * (number // across)
        lines += [
            f'<rect x="{left}" y="{top}" width="60" height="44" fill="#eee"/>',
            _text(left + 4, top + 14, f"{number}"),
            _text(left + 4, top + 27, f"{least:.2f}", 10),
            _text(left + 4, top + 39, f"{most:.2f}", 10),
        ]
    width = max(_WIDTH, 32 + 62 * across)
    return _svg(width, 90 + 46 * -(-len(low) // across), "Channels of latents, from left to right", lines)


def _bars(shares: Sequence[float], top: int) -> Iterator[str]:
    """A bar for each share, and how much the first ones have together, as a line of points."""
    wide, tall = (_WIDTH - 32) / max(len(shares), 1), 110
    together = 0.0
    for number, share in enumerate(shares):
        together += share
        left = 16 + wide * number
        size = f'width="{wide * 0.7:.1f}" height="{tall * share:.1f}"'
        yield f'<rect x="{left:.1f}" y="{top + tall * (1 - share):.1f}" {size} fill="#456"/>'
        yield f'<circle cx="{left + wide * 0.35:.1f}" cy="{top + tall - tall * together:.1f}" r="2" fill="#c60"/>'
    yield _text(16, top + tall + 18, f"bars: each; points: together, {together:.1%} at the right end; the top is 100%")


def _ramp(name: str, end: str) -> str:
    return (
        f'<linearGradient id="{name}"><stop stop-color="#000"/><stop offset="1" stop-color="{end}"/></linearGradient>'
    )


def _text(left: float, top: float, text: str, size: int = 12) -> str:
    return f'<text x="{left}" y="{top}" font-size="{size}">{text}</text>'


def _svg(width: int, height: int, title: str, lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">\n'
        f'<title>{title}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{_text(16, 24, title, 14)}\n{body}\n</svg>\n"
    )
