"""Bars as pictures: well-formed, of the sizes that the shares say, whatever the names."""

import io
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.images.charts import Bar, Chart, Part, chart_png, chart_svg

SVG = "{http://www.w3.org/2000/svg}"
CHART = Chart(
    "Where & why <now>",
    (
        Bar("encode", (Part("reading", 0.6), Part("model", 0.3), Part("waiting", 0.1, is_idle=True))),
        Bar("decode", (Part("model", 1.0),)),
    ),
)


def rectangles(svg: str, height: str) -> list[tuple[float, float, str]]:
    """(x, width, colour) of the rectangles of that height."""
    found = [one.attrib for one in ET.fromstring(svg).iter(f"{SVG}rect")]
    return [(float(one["x"]), float(one["width"]), one["fill"]) for one in found if one["height"] == height]


def test_parts_are_as_long_as_their_shares_and_lie_end_to_end() -> None:
    reading, model, waiting, alone = rectangles(chart_svg(CHART), "34.0")
    whole = alone[1]
    assert [part[1] / whole for part in (reading, model, waiting)] == pytest.approx([0.6, 0.3, 0.1], abs=1e-3)
    assert model[0] == pytest.approx(reading[0] + reading[1], abs=0.1)
    assert waiting[0] == pytest.approx(model[0] + model[1], abs=0.1)


def test_a_part_has_one_colour_in_all_bars_and_others_have_another() -> None:
    reading, model, waiting, alone = rectangles(chart_svg(CHART), "34.0")
    assert model[2] == alone[2]
    assert len({reading[2], model[2], waiting[2]}) == 3


def test_text_is_written_as_it_is() -> None:
    texts = [one.text for one in ET.fromstring(chart_svg(CHART)).iter(f"{SVG}text")]
    assert texts == ["Where & why <now>", "encode", "reading 60%", "model 30%", "waiting 10%", "decode", "model 100%"]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_categories=["C"])), st.floats(0, 1)), max_size=9)
)
def test_any_names_make_a_well_formed_picture(parts: list[tuple[str, float]]) -> None:
    total = sum(share for _, share in parts) or 1.0
    bar = Bar("bar", tuple(Part(name, share / total) for name, share in parts))
    ET.fromstring(chart_svg(Chart("title", (bar,))))


def test_the_png_shows_the_same_bars() -> None:
    svg = ET.fromstring(chart_svg(CHART))
    with Image.open(io.BytesIO(chart_png(CHART))) as image:
        assert image.format == "PNG"
        assert image.size == (2 * int(svg.attrib["width"]), 2 * int(svg.attrib["height"]))
        colours = {colour for _, colour in image.getcolors(1 << 20) or []}
    drawn = {tuple(bytes.fromhex(colour[1:])) for _, _, colour in rectangles(chart_svg(CHART), "34.0")}
    assert drawn <= colours
