"""The picture of a bench: time as bars, drawn by matplotlib, an optional package that is imported when it is used."""

import io
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from semdis_cli.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

    from semdis_cli.bench.bench import BenchReport
    from semdis_cli.bench.end_to_end import EndToEnd
    from semdis_cli.bench.processes import StartUp

PlotFormat = Literal["png", "svg"]

_IDLE = "short of the limit"
_IDLE_COLOUR = "#d9dee4"
# Told apart in the common kinds of colour blindness too (after Okabe and Ito 2008, and Tol 2021).
_COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f7f7f"),
    *("#332288", "#44aa99", "#882255", "#999933", "#117733", "#ddcc77"),
)
_WIDTH_IN, _BAR_IN, _LEGEND_COLUMNS = 9.0, 1.3, 5
_STYLE: "dict[RcKeyType, object]" = {
    "font.size": 9,
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "legend.borderpad": 0.2,
    "legend.handlelength": 1.0,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "semdis",  # or the names of clip paths would be random
    "text.parse_math": False,  # a dollar sign in the name of a model is one
}


@dataclass(frozen=True)
class Bar:
    """A line of text and a bar below it, made of named shares of its whole length, 0..1, which add up to about 1."""

    title: str
    shares: dict[str, float]


def check_matplotlib() -> None:
    """Raise `MissingExtraError` if matplotlib is not installed, or does not work."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it would tell of its caches on stderr
    try:
        import matplotlib.figure  # noqa: F401 # the only question is whether it can be imported
    except ImportError as error:
        raise MissingExtraError(f"--plot needs matplotlib: pip install 'semdis[plots]' ({error!s:.200})") from error


def plot_times(report: "BenchReport", plot_format: PlotFormat) -> bytes:
    """Draw what took the time of `encode`, of `decode`, and of starting; return the file."""
    model, machine = report.settings["model"]["name"], report.machine
    device = machine.accelerator or f"{report.settings['workers']} threads, {machine.processor}"
    bars = [_verb_bar("encode", report.encode), _verb_bar("decode", report.decode), _start_bar(report.start_up)]
    return plot_bars(f"Where the time goes: {model}, {report.gemm.dtype}, {device}", bars, plot_format)


def plot_bars(title: str, bars: list[Bar], plot_format: PlotFormat) -> bytes:
    """Draw bars one below the other; equal bars give equal bytes."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that its font does not have
        figure = draw_bars(title, bars)
        figure.savefig(
            file, format=plot_format, dpi=200, metadata={"Date" if plot_format == "svg" else "Software": None}
        )
    return file.getvalue()


def draw_bars(title: str, bars: list[Bar]) -> "Figure":
    """Lay out bars one below the other; a name has one colour in all of them."""
    from matplotlib.figure import Figure

    names = dict.fromkeys(name for bar in bars for name in bar.shares if name != _IDLE)
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)} | {_IDLE: _IDLE_COLOUR}
    figure = Figure(figsize=(_WIDTH_IN, _BAR_IN * (len(bars) + 0.5)), layout="constrained")
    figure.suptitle(_printable(title), x=0.01, ha="left", size=12)
    for axes, bar in zip(figure.subplots(len(bars), squeeze=False)[:, 0], bars, strict=True):
        _draw_bar(axes, bar, colours)
    return figure


def _draw_bar(axes: "Axes", bar: Bar, colours: dict[str, str]) -> None:
    start = 0.0
    for name, share in bar.shares.items():
        axes.barh(0, share, left=start, color=colours[name], label=_printable(f"{name} {share:.0%}"))
        start += share
    axes.set_title(_printable(bar.title), loc="left", size=9)
    axes.set_xlim(0, 1)
    axes.axis("off")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=_LEGEND_COLUMNS)


def _printable(text: str) -> str:
    """Return `text` without what XML cannot hold: names of models may be paths of any bytes."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _verb_bar(verb: str, run: "EndToEnd") -> Bar:
    """Show the stages' shares of what is busiest, over the whole of a run, and what it fell short of the limit."""
    title = (
        f"{verb}: {run.images_per_s.median:.1f} images/s, {run.share_of_limit.median:.0%} of the limit "
        f"({run.limit.images_per_s:.1f} images/s)"
    )
    reached = min(1.0, run.share_of_limit.median)
    return Bar(title, {name: reached * share for name, share in run.limit.stages.items()} | {_IDLE: 1.0 - reached})


def _start_bar(start: "StartUp") -> Bar:
    total_s = max(start.first_image_s.median, 1e-9)
    steps = {
        "importing torch": start.import_torch_s,
        "other imports": start.import_rest_s,
        "loading the model": start.load_model_s,
        "first call": start.first_call_s,
        "all else": start.rest_s,
    }
    scale = max(total_s, sum(steps.values()))
    title = f"first image: {total_s:.1f} s after the start (semdis --help: {start.help_s.median:.2f} s)"
    return Bar(title, {name: seconds / scale for name, seconds in steps.items()})
