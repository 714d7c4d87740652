"""`semdis bench`: how fast it is here, how fast it could be, and what holds it up."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from semdis_cli.cli import options
from semdis_cli.cli.bench_tables import bench_text
from semdis_cli.cli.setup import count_workers, geometry_settings, read_settings, sampling_settings, tokenizer_settings
from semdis_cli.cli.streams import put, say
from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import strict_json

if TYPE_CHECKING:
    from semdis_cli.bench.bench import BenchReport
    from semdis_cli.images.geometry import GeometrySettings

_DEFAULT_SIZE_PX = 256
_PLOT_SUFFIXES = (".png", ".svg")

Data = Annotated[
    Path | None,
    typer.Option(
        metavar="SOURCE",
        help="Measure with images from this folder or tar.  [default: synthetic JPEGs of 1, 2, 6 and 12 megapixels]",
        show_default=False,
        rich_help_panel="Input",
    ),
]
NumImages = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=4096,
        metavar="N",
        help="Different images to measure with, from all over --data.  [default: 32; with --quick 8]",
        show_default=False,
        rich_help_panel="Input",
    ),
]
Against = Annotated[
    Literal["flux2", "sd", "dcae"] | None,
    typer.Option(
        help="Also run another autoencoder, with random weights: FLUX.2's, Stable Diffusion's, or DC-AE f32c32. Needs "
        "'semdis[peers]'.",
        rich_help_panel="Model",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Measure for seconds instead of minutes; less exact.")]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png|svg",
        help="Draw where the time goes, as bars. Needs 'semdis[plots]'.",
        rich_help_panel="Output",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print all figures as one JSON object on stdout.", rich_help_panel="Output")
]


def bench(
    data: Data = None,
    num_images: NumImages = None,
    size: options.Size = None,
    max_pixels: options.MaxPixels = None,
    bucket_size: options.BucketSize = None,
    jpeg_scaling: options.JpegScaling = False,
    model: options.Model = BUNDLED_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    compiling: options.Compile = "off",
    workers: options.Workers = None,
    steps: options.Steps = 1,
    pdg: options.Pdg = False,
    pdg_strength: options.PdgStrength = 2.0,
    sampler: options.Sampler = "ddim",
    schedule: options.Schedule = "linear",
    image_format: options.Format = "png",
    quality: options.Quality = 95,
    against: Against = None,
    plot: Plot = None,
    quick: Quick = False,
    as_json: Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure encoding and decoding here: the model, each stage, whole runs, and what holds them up.

    Images become --size 256 unless a size is given; a large --max-pixels keeps them as they are. Everything is compared
    with what the machine can do, measured in the same run. Temporary files go to $TMPDIR, and are removed.

    Example: `semdis bench --data photos/ --plot where.svg`
    """
    _check_paths(data, plot)
    geometry = _geometry(size, max_pixels, bucket_size)

    from semdis_cli.bench.bench import BenchSettings
    from semdis_cli.bench.bench import bench as run
    from semdis_cli.pipeline.images_out import WriteSettings

    settings = BenchSettings(
        model=model,
        revision=revision,
        run=tokenizer_settings(device, dtype, batch_size, threads, compiling, num_images=0),
        num_workers=count_workers(workers),
        geometry=geometry,
        read=read_settings(jpeg_scaling=jpeg_scaling),
        sampling=sampling_settings(steps, sampler, schedule, pdg, pdg_strength, seed=0),
        write=WriteSettings(image_format, quality),
        data=data,
        num_images=num_images,
        against=against,
        quick=quick,
    )
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


def _geometry(size: int | None, max_pixels: int | None, bucket_size: int | None) -> "GeometrySettings":
    if size is max_pixels is bucket_size is None:
        size = _DEFAULT_SIZE_PX
    return geometry_settings(size, max_pixels, bucket_size)


def draw(report: "BenchReport", path: Path) -> None:
    """Publish a picture of where the time goes: a PNG or an SVG, as the name of `path` says."""
    from semdis_cli.bench.plot import plot_times
    from semdis_cli.files.atomic import publish

    publish(path, [plot_times(report, "png" if path.suffix.lower() == ".png" else "svg")])
