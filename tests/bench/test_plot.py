"""Bars as pictures: well-formed, of the lengths that the shares say, the same every time, whatever the names."""

import io
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.bench.plot import Bar, check_matplotlib, draw_bars, plot_bars
from semdis_cli.errors import ExitCode, MissingExtraError
from tests.extras import needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

TITLE = "Where & why <now>, $5 and $6"
BARS = [Bar("encode", {"reading": 0.6, "model": 0.3, "short of the limit": 0.1}), Bar("decode", {"model": 1.0})]


@pytest.fixture(autouse=True)
def with_matplotlib() -> None:
    needs("matplotlib")


def texts(svg: bytes) -> list[str | None]:
    return [one.text for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def boxes(axes: "Axes") -> list["Rectangle"]:
    from matplotlib.patches import Rectangle

    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_parts_are_as_long_as_their_shares_and_lie_end_to_end() -> None:
    encode, decode = draw_bars(TITLE, BARS).axes
    assert [box.get_width() for box in boxes(encode)] == pytest.approx([0.6, 0.3, 0.1])
    assert [box.get_x() for box in boxes(encode)] == pytest.approx([0, 0.6, 0.9])
    assert [box.get_width() for box in boxes(decode)] == [1.0]
    assert encode.get_xlim() == decode.get_xlim() == (0, 1)


def test_a_part_has_one_colour_in_all_bars_and_others_have_another() -> None:
    encode, decode = draw_bars(TITLE, BARS).axes
    reading, model, short = (patch.get_facecolor() for patch in encode.patches)
    assert model == decode.patches[0].get_facecolor()
    assert len({reading, model, short}) == 3


def test_text_is_written_as_it_is() -> None:
    found = texts(plot_bars(TITLE, BARS, "svg"))
    wanted = [TITLE, "encode", "reading 60%", "model 30%", "short of the limit 10%", "decode", "model 100%"]
    assert sorted(map(str, found)) == sorted(wanted)


@settings(deadline=None, max_examples=10)
@given(names=st.lists(st.text(), min_size=1, max_size=9, unique=True))
def test_any_names_make_a_well_formed_picture_without_a_warning(names: list[str]) -> None:
    ET.fromstring(plot_bars("".join(names), [Bar(names[0], dict.fromkeys(names, 1 / len(names)))], "svg"))


def test_the_png_shows_the_same_bars() -> None:
    from matplotlib.colors import to_rgb

    with Image.open(io.BytesIO(plot_bars(TITLE, BARS, "png"))) as image:
        assert (image.format, image.width) == ("PNG", 1800)
        found = {colour[:3] for _, colour in image.getcolors(1 << 20) or [] if isinstance(colour, tuple)}
    drawn = [to_rgb(box.get_facecolor()) for axes in draw_bars(TITLE, BARS).axes for box in boxes(axes)]
    assert {tuple(round(255 * value) for value in colour) for colour in drawn} <= found


@pytest.mark.parametrize("plot_format", ["png", "svg"])
def test_the_same_bars_give_the_same_bytes(plot_format: str) -> None:
    first, second = (plot_bars(TITLE, BARS, plot_format) for _ in range(2))  # type: ignore[arg-type]
    assert first == second


def test_nothing_global_is_touched() -> None:
    import matplotlib as mpl

    names = [name for name in mpl.rcParams if name != "backend"]  # asking for it would choose one
    before = [mpl.rcParams[name] for name in names]
    plot_bars(TITLE, BARS, "svg")
    assert [mpl.rcParams[name] for name in names] == before
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        MissingExtraError, match=r"^--plot needs matplotlib: pip install 'semdis\[plots\]' \("
    ) as caught:
        check_matplotlib()
    assert caught.value.exit_code is ExitCode.USAGE
