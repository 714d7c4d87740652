"""Stacked bars as a picture: one layout, drawn as SVG or as PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw, ImageFont

_WIDTH_PX, _BAR_PX, _MARGIN_PX, _LINE_PX = 900, 34, 24, 20
_FONT_PX, _TITLE_PX = 13, 17
_INK, _PAPER, _FAINT = "#1f2933", "#ffffff", "#d9dee4"
# Told apart in the common kinds of colour blindness too (after Okabe and Ito 2008, and Tol 2021).
_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f7f7f"),
    *("#332288", "#44aa99", "#882255", "#999933", "#117733", "#ddcc77"),
)
_LETTER_WIDTH = 0.56  # of a letter, in units of the font's size


@dataclass(frozen=True)
class Part:
    """Piece of a bar: `share` of its whole length, 0..1, and what is written in the legend."""

    name: str
    share: float
    is_idle: bool = False


@dataclass(frozen=True)
class Bar:
    """Line of text and a bar below it. The shares of its parts add up to at most 1, but for rounding."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chart:
    """Bars one below the other."""

    title: str
    bars: tuple[Bar, ...]


def chart_svg(chart: Chart) -> str:
    """Draw the chart as the text of an SVG file."""
    shapes, height = _layout(chart)
    size = f'width="{_WIDTH_PX}" height="{height}" viewBox="0 0 {_WIDTH_PX} {height}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">']
    lines += [shape.svg() for shape in shapes]
    return "\n".join([*lines, "</svg>\n"])


def chart_png(chart: Chart) -> bytes:
    """Draw the chart as a PNG file, twice as fine as its SVG."""
    shapes, height = _layout(chart)
    scale = 2
    image = Image.new("RGB", (_WIDTH_PX * scale, height * scale), _PAPER)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        shape.draw(draw, scale)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float
    colour: str

    def svg(self) -> str:
        place = f'x="{self.x:.1f}" y="{self.y:.1f}" width="{self.width:.1f}" height="{self.height:.1f}"'
        return f'<rect {place} fill="{self.colour}"/>'

    def draw(self, draw: ImageDraw.ImageDraw, scale: int) -> None:
        corners = (self.x, self.y, self.x + self.width, self.y + self.height)
        draw.rectangle([round(scale * corner) for corner in corners], fill=self.colour)


@dataclass(frozen=True)
class _Text:
    """`x`, `y`: where its base line begins."""

    x: float
    y: float
    text: str
    size: int
    colour: str = _INK

    def svg(self) -> str:
        place = f'x="{self.x:.1f}" y="{self.y:.1f}" font-size="{self.size}" fill="{self.colour}"'
        return f"<text {place}>{escape(self.text)}</text>"

    def draw(self, draw: ImageDraw.ImageDraw, scale: int) -> None:
        font = ImageFont.load_default(scale * self.size)
        anchor = "ls" if isinstance(font, ImageFont.FreeTypeFont) else None  # where Pillow has no FreeType
        draw.text((scale * self.x, scale * self.y), self.text, fill=self.colour, font=font, anchor=anchor)


def _layout(chart: Chart) -> tuple[list[_Box | _Text], int]:
    """Lay out the shapes of a chart, from back to front, and the height of it all in px."""
    names = dict.fromkeys(part.name for bar in chart.bars for part in bar.parts if not part.is_idle)
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    shapes: list[_Box | _Text] = [_Text(_MARGIN_PX, _MARGIN_PX + _TITLE_PX, chart.title, _TITLE_PX)]
    y = float(2 * _MARGIN_PX + _TITLE_PX)
    for bar in chart.bars:
        added, y = _lay_out_bar(bar, colours, y)
        shapes += added
    paper = _Box(0, 0, _WIDTH_PX, y, _PAPER)
    return [paper, *shapes], round(y)


def _lay_out_bar(bar: Bar, colours: dict[str, str], y: float) -> tuple[list[_Box | _Text], float]:
    """Lay out a bar with its title above and its legend below, from `y` on; also where the next one begins."""
    length = _WIDTH_PX - 2 * _MARGIN_PX
    shapes: list[_Box | _Text] = [_Text(_MARGIN_PX, y + _FONT_PX, bar.title, _FONT_PX)]
    x, top = float(_MARGIN_PX), y + _LINE_PX
    for part in bar.parts:
        colour = _FAINT if part.is_idle else colours[part.name]
        shapes.append(_Box(x, top, part.share * length, _BAR_PX, colour))
        x += part.share * length
    legend, bottom = _lay_out_legend(bar.parts, colours, top + _BAR_PX + _LINE_PX)
    return shapes + legend, bottom + _MARGIN_PX


def _lay_out_legend(parts: Sequence[Part], colours: dict[str, str], y: float) -> tuple[list[_Box | _Text], float]:
    shapes: list[_Box | _Text] = []
    x = float(_MARGIN_PX)
    for part in parts:
        text = f"{part.name} {part.share:.0%}"
        width = _LINE_PX + len(text) * _LETTER_WIDTH * _FONT_PX + _MARGIN_PX
        if x + width > _WIDTH_PX and x > _MARGIN_PX:
            x, y = float(_MARGIN_PX), y + _LINE_PX
        shapes.append(_Box(x, y - _FONT_PX + 2, _FONT_PX, _FONT_PX, _FAINT if part.is_idle else colours[part.name]))
        shapes.append(_Text(x + _LINE_PX, y, text, _FONT_PX))
        x += width
    return shapes, y
