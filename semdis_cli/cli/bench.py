"""`semdis bench`: how fast it is here, how fast it could be, and what holds it up."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from semdis_cli.bench.settings import BenchSettings
from semdis_cli.cli.bench_tables import bench_text
from semdis_cli.cli.garbage import collect
from semdis_cli.cli.options import Quiet, command
from semdis_cli.cli.streams import put, say
from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import strict_json
from semdis_cli.option import OUTPUT, Option

if TYPE_CHECKING:
    from semdis_cli.bench.bench import BenchReport

_PLOT_SUFFIXES = (".png", ".svg")

Plot = Annotated[
    Path | None,
    Option("Draw where the time goes, as bars. Needs 'semdis[plots]'.", OUTPUT, metavar="FILE.png|svg"),
]
Json = Annotated[bool, Option("Print all figures as one JSON object on stdout.", OUTPUT, flags="--json")]


@command()
def bench(*, settings: BenchSettings, plot: Plot = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Measure encoding and decoding here: the model, each stage, whole runs, and what holds them up.

    Images become --size 256 unless a size is given; a large --max-pixels keeps them as they are. Everything is compared
    with what the machine can do, measured in the same run. Temporary files go to $TMPDIR, and are removed.

    Example: `semdis bench --data photos/ --plot where.svg`
    """
    _check_paths(settings.data, plot)

    from semdis_cli.bench.bench import bench as run

    collect()
    report = run(settings, lambda what: None if quiet else say(f"semdis: {what}"))
    put(strict_json(report.to_json()) if as_json else bench_text(report))
    if plot is not None:  # after what was measured: it may be refused
        draw(report, plot)


def _check_paths(data: Path | None, plot: Path | None) -> None:
    """Raise `UsageError` for what would only fail after minutes of measuring."""
    if data is not None and not data.exists():
        raise UsageError(f"--data {data}: no such file or folder")
    if plot is None:
        return
    if plot.suffix.lower() not in _PLOT_SUFFIXES:
        raise UsageError(f"--plot {plot}: the name must end in {' or '.join(_PLOT_SUFFIXES)}")
    if plot.is_dir() or not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot {plot}: {'is a folder' if plot.is_dir() else 'its folder does not exist'}")
    from semdis_cli.bench.plot import check_matplotlib

    check_matplotlib()


def draw(report: "BenchReport", path: Path) -> None:
    """Publish a picture of where the time goes: a PNG or an SVG, as the name of `path` says."""
    from semdis_cli.bench.plot import plot_times
    from semdis_cli.files.atomic import publish

    publish(path, [plot_times(report, "png" if path.suffix.lower() == ".png" else "svg")])
