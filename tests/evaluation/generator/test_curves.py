"""Curves as pictures: well-formed, with what the figures say, the same every time, whatever the names."""

import io
import sys
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from semdis_cli.errors import ExitCode, MissingExtraError
from semdis_cli.evaluation.generator.curves import check_matplotlib, draw_curves, plot_curves
from semdis_cli.evaluation.generator.summary import SetCurves
from tests.evaluation.generator.test_summary import curve
from tests.extras import needs

TITLE, NOTE = "How fast <it> & $5 learn", "1.3 million parameters\nA loss curve is no FID."
SETS = [
    SetCurves("a $x$", (curve(2.0, 1.0, 0.5), curve(2.0, 1.5, 0.7)), (1.0, 1.0), 2.0),
    SetCurves("/x" * 40 + "/the end\x00", (curve(2.0, 1.8, 1.4), curve(2.0, 1.5, 1.3)), (1.0, 2.0), 2.0),
]


@pytest.fixture(autouse=True)
def with_matplotlib() -> None:
    needs("matplotlib")


def test_lines_go_through_the_means_and_bands_through_the_intervals() -> None:
    over_steps, over_time = draw_curves(TITLE, NOTE, SETS).axes
    lines = [line for line in over_steps.lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    for line, one in zip(lines, SETS, strict=True):
        assert list(line.get_xdata()) == [0, 10, 20]  # type: ignore[arg-type]
        assert list(line.get_ydata()) == [one.relative_at(number).mean for number in range(3)]  # type: ignore[arg-type]
    assert len(over_steps.collections) == len(over_time.collections) == 2
    middles = over_time.lines[0].get_xdata()
    assert list(middles) == [0.25, 0.75]  # type: ignore[arg-type]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_one_seed_has_no_band() -> None:
    alone = SetCurves("a", (curve(2.0, 1.0, 0.5),), (1.0, 1.0), 2.0)
    assert not any(axes.collections for axes in draw_curves(TITLE, NOTE, [alone]).axes)


def test_text_is_written_as_it_is_and_long_names_are_cut() -> None:
    svg = plot_curves(TITLE, NOTE, SETS, "svg")
    found = [one.text for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    for text in (TITLE, "a $x$", *NOTE.splitlines(), "t: 0 clean, 1 noise", "The same by time, after 20 steps", "20"):
        assert text in found
    cut = [text for text in found if text and text.startswith("…")]
    assert [len(text) for text in cut] == [40]
    assert cut[0].endswith("/the end\ufffd")


def test_equal_curves_give_equal_bytes_and_a_picture() -> None:
    for kind in ("svg", "png"):
        assert plot_curves(TITLE, NOTE, SETS, kind) == plot_curves(TITLE, NOTE, SETS, kind)
    with Image.open(io.BytesIO(plot_curves(TITLE, NOTE, SETS, "png"))) as image:
        assert image.width > 1200


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    expected = r"^--generator needs matplotlib: pip install 'semdis\[eval\]' \("
    with pytest.raises(MissingExtraError, match=expected) as caught:
        check_matplotlib()
    assert caught.value.exit_code is ExitCode.USAGE
