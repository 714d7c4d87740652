"""The picture of a comparison: loss over steps, and at the end over time, drawn by matplotlib, an optional package."""

import io
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import MissingExtraError
from semdis_cli.evaluation.generator.summary import Interval, SetCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

PlotFormat = Literal["png", "svg"]

# Told apart in the common kinds of colour blindness too (Okabe and Ito 2008), and by their strokes in print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_STROKES = ("-", "--", "-.", ":")
_BAND_ALPHA, _QUIET = 0.18, "#8a929b"
_MAX_TITLE = 40
_STYLE: "dict[RcKeyType, object]" = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "semdis",  # or the names of clip paths would be random
    "text.parse_math": False,  # a dollar sign in the name of a set is one
}


def check_matplotlib() -> None:
    """Raise `MissingExtraError` if matplotlib is not installed, or does not work."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell of its caches on stderr
    try:
        import matplotlib.figure  # noqa: F401 # the only question is whether it can be imported
    except ImportError as error:
        raise MissingExtraError(f"--generator needs matplotlib: pip install 'semdis[eval]' ({error!s:.200})") from error


def plot_curves(title: str, note: str, sets: Sequence[SetCurves], plot_format: PlotFormat) -> bytes:
    """Draw the curves of `sets`; equal curves give equal bytes. `note`: lines below, on what was run."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that its font does not have
        figure = draw_curves(title, note, sets)
        figure.savefig(
            file, format=plot_format, dpi=160, metadata={"Date" if plot_format == "svg" else "Software": None}
        )
    return file.getvalue()


def draw_curves(title: str, note: str, sets: Sequence[SetCurves]) -> "Figure":
    """Lay out the loss over steps beside that over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.9), layout="constrained")
    figure.suptitle(_printable(title), x=0.01, ha="left", size=12)
    figure.supxlabel(_printable(note), x=0.01, ha="left", size=8, color=_QUIET)
    over_steps, over_time = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, one in enumerate(sets):
        colour, stroke = _COLOURS[number % len(_COLOURS)], _STROKES[number % len(_STROKES)]
        points = [one.relative_at(point) for point in range(len(one.steps))]
        _draw_band(over_steps, one.steps, points, _short(one.title), (colour, stroke))
        by_time = one.last_by_time()
        middles = [(number + 0.5) / len(by_time) for number in range(len(by_time))]
        _draw_band(over_time, middles, by_time, "", (colour, stroke))
    _label(over_steps, "steps", "Held-out loss, relative")
    _label(over_time, "t: 0 clean, 1 noise", f"The same by time, after {sets[0].steps[-1]:,} steps")
    over_time.set_xlim(0, 1)
    _scale_steps(over_steps, sets)
    figure.legend(loc="outside upper right", ncols=min(len(sets), 3))
    return figure


def _draw_band(axes: "Axes", x: Sequence[float], y: Sequence[Interval], label: str, looks: tuple[str, str]) -> None:
    """Draw means as a line, and their intervals, where there are some, as a band around it."""
    colour, stroke = looks
    axes.plot(x, [one.mean for one in y], color=colour, linestyle=stroke, label=label, marker="o", markersize=2.5)
    if all(one.low is not None for one in y):
        low, high = [one.low or 0.0 for one in y], [one.high or 0.0 for one in y]
        axes.fill_between(x, low, high, color=colour, alpha=_BAND_ALPHA, linewidth=0)


def _label(axes: "Axes", x: str, title: str) -> None:
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(x)
    axes.axhline(1.0, color=_QUIET, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    axes.grid(axis="y", color="#e6e9ed", linewidth=0.6)
    axes.set_axisbelow(True)


def _scale_steps(axes: "Axes", sets: Sequence[SetCurves]) -> None:
    """Show steps on a scale of square roots, on which points are equally far from each other."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xscale("function", functions=(_root, np.square))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_xlim(0, sets[0].steps[-1])


def _root(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.maximum(steps, 0.0))


def _short(title: str) -> str:
    """Return a title that fits into the legend: the end of a long one tells more."""
    title = _printable(title)
    return title if len(title) <= _MAX_TITLE else f"…{title[1 - _MAX_TITLE :]}"


def _printable(text: str) -> str:
    """Return `text` without what XML cannot hold: names of sets may be paths of any bytes."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)
