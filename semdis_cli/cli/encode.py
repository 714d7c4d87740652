"""`semdis encode`: images -> shards of latents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semdis_cli.cli import options
from semdis_cli.cli.display import open_display
from semdis_cli.cli.report import follow, printable
from semdis_cli.cli.setup import (
    CompileChoice,
    count_workers,
    error_limit,
    find_inputs,
    geometry_settings,
    input_rules,
    load_model,
    output_folder,
    peek_source,
    read_settings,
    refuse_absent_device,
    tokenizer_settings,
)
from semdis_cli.cli.streams import put, put_bytes, say
from semdis_cli.defaults import BUNDLED_MODEL, MAX_IMAGE_PIXELS
from semdis_cli.errors import ExitCode
from semdis_cli.events import Event, Failure, Tell
from semdis_cli.files.json_text import strict_json
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.images.loader import Loader
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.encode_plan import EncodePlan, EncodeSettings
    from semdis_cli.sources.find import FoundImages
    from semdis_cli.sources.spool import PipedSource

_DEFAULT = Path("latents")

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for the latents, or - for a tar on stdout with a file for each image.  [default: latents; "
        "for one image on stdin: its file on stdout]",
        show_default=False,
        rich_help_panel="Output",
    ),
]
ShardSize = Annotated[
    int, typer.Option("--shard-size", min=1, metavar="MIB", help="Size of a shard, MiB.", rich_help_panel="Output")
]
ShardImages = Annotated[
    int | None,
    typer.Option(
        min=1, max=65536, metavar="N", help="Exactly N images a shard, whatever its size.", rich_help_panel="Output"
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count images, bytes and time; write nothing.", rich_help_panel="Output")
]


def encode(
    context: typer.Context,
    sources: options.Sources = None,
    output: Output = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    exclude: options.Exclude = None,
    include: options.Include = None,
    all_files: options.AllFiles = False,
    size: options.Size = None,
    max_pixels: options.MaxPixels = None,
    bucket_size: options.BucketSize = None,
    background: options.Background = "#ffffff",
    max_image_pixels: options.MaxImagePixels = MAX_IMAGE_PIXELS,
    jpeg_scaling: options.JpegScaling = False,
    max_errors: options.MaxErrors = None,
    model: options.Model = BUNDLED_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    compiling: options.Compile = "auto",
    workers: options.Workers = None,
    store_dtype: options.StoreDtype = "bfloat16",
    posterior: options.Posterior = "mode",
    seed: options.Seed = 0,
    shard_size: ShardSize = 256,
    shard_images: ShardImages = None,
    mix_versions: options.MixVersions = False,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn images into shards of latents.

    JPEG, PNG, WebP, GIF (first frame), BMP, TIFF and AVIF, known by content. Images keep their size (padded to the
    patch) unless --size, --max-pixels or --bucket-size says otherwise. Stopped at any point, the same command goes on.

    Example: `semdis encode photos/ -o latents/ --size 256`
    """
    from semdis_cli.pipeline.limits import within_limit

    refuse_absent_device(device)
    limit = error_limit(max_errors)
    rules = input_rules(exclude, include, all_files=all_files)
    geometry = geometry_settings(size, max_pixels, bucket_size)
    read = read_settings(background, max_image_pixels, jpeg_scaling=jpeg_scaling)
    display = context.with_resource(open_display(quiet=quiet))
    stdin = peek_source(sources, files_from)
    folder = _planned_folder(output, stdin, quiet) if dry_run else _choose_folder(output, stdin)
    found = find_inputs(
        sources, files_from, null=null, output=folder, quiet=quiet, stdin=stdin, rules=rules, display=display
    )

    from semdis_cli.images.loader import Loader, LoadSettings
    from semdis_cli.pipeline.encode_plan import EncodeSettings, plan_output
    from semdis_cli.pipeline.estimate import estimate_s, refused_images

    if folder is not None and not dry_run:
        _check_folder(folder)
    num_worth = len(found.images) if geometry.has_few_sizes else 0
    how = tokenizer_settings(device, dtype, batch_size, threads, _as_recorded(compiling, folder), num_images=num_worth)
    tokenizer = load_model(model, revision, how, display, quiet=quiet)
    load = LoadSettings(geometry, read, tokenizer.patch_size)
    settings = EncodeSettings(load, store_dtype, posterior, seed, shard_size, shard_images, mix_versions)
    with Loader(load, count_workers(workers)) as loader:
        if dry_run:
            plan = plan_output(found, loader, tokenizer, settings, folder, display.plan)
            failures = (*plan.failures, *refused_images(plan, loader, tokenizer))
            code = _show_plan(plan, failures, estimate_s(plan, loader, tokenizer, settings), as_json)
        else:
            events = _start(found, loader, tokenizer, settings, folder, display.plan)
            code = follow(
                within_limit(events, limit, goes_on=folder is not None),
                as_json=as_json,
                quiet=quiet,
                summarise=_summary,
                stdout_is_data=folder is None,
                display=display,
            )
    raise typer.Exit(code)


def _planned_folder(output: Path | None, stdin: "PipedSource | None", quiet: bool) -> Path | None:
    """The folder that a run would write, None for stdout; says so if there is an unfinished run in it."""
    if output == Path("-") or (output is None and stdin is not None and stdin.is_single):
        return None
    folder = output or _DEFAULT
    if not quiet and (folder / "journal").is_dir():
        say(f"semdis: a run in {folder} is unfinished; what it has done is not counted here")
    return folder


def _choose_folder(output: Path | None, stdin: "PipedSource | None") -> Path | None:
    """The folder to write, None for stdout. One that cannot be written is refused before all of stdin is read."""
    folder = output_folder(output, _DEFAULT, is_single=stdin is not None and stdin.is_single)
    if folder is not None and stdin is not None:
        _check_folder(folder)
    return folder


def _as_recorded(compiling: CompileChoice, folder: Path | None) -> CompileChoice:
    """What auto means for a set that is there already: what it was made with, however many images there are now."""
    from semdis_cli.store.writing.latent_set import recorded_settings

    recorded = None if folder is None or compiling != "auto" else recorded_settings(folder)
    if recorded is None or recorded.is_compiled is None:
        return compiling
    return "on" if recorded.is_compiled else "off"


def _start(
    found: "FoundImages",
    loader: "Loader",
    tokenizer: "Tokenizer",
    settings: "EncodeSettings",
    folder: Path | None,
    tell: Tell,
) -> Iterator[Event]:
    from semdis_cli.pipeline.encode import encode as encode_set
    from semdis_cli.pipeline.stream import encode_stream

    if folder is None:
        return encode_stream(found, loader, tokenizer, settings, put_bytes, tell)
    return encode_set(found, loader, tokenizer, settings, folder, tell)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before working. Raises `UsageError`."""
    from semdis_cli.store.writing.folder import check_latents_folder

    check_latents_folder(folder)


def _summary(report: dict[str, Any]) -> str:
    images, mib = count(report["images"]["ok"], "image"), f"{report['latent_bytes'] / 2**20:,.1f} MiB"
    if "shards" not in report:
        return f"{images}, {mib} to stdout"
    news = "".join(f", {report[name]:,} {name}" for name in ("changed", "removed") if report[name])
    return f"{images} in {count(report['shards'], 'shard')}, {mib} in {report['output']}{news}"


def _show_plan(plan: "EncodePlan", failures: Sequence[Failure], seconds: float, as_json: bool) -> ExitCode:
    """What a run would do: on stdout. Inputs that are known to be unusable are listed on stderr."""
    for failure in failures:
        say(f"failed: {printable(failure.key)}: {failure.reason}")
    report = {
        "command": "encode --dry-run",
        "images": {"inputs": plan.num_inputs, "failed": len(failures), "unchanged": plan.num_unchanged},
        "shards": len(plan.shards),
        "megapixels": round(plan.megapixels(), 3),
        "latent_bytes": plan.latent_bytes(),
        "estimated_s": round(seconds, 1),
        "passed_over": dict(plan.passed_over),
    }
    if as_json:
        put(strict_json(report))
    else:
        put(
            f"{count(plan.num_inputs, 'image')} ({len(failures):,} unusable, {plan.num_unchanged:,} there already), "
            f"{plan.megapixels():,.1f} megapixels -> "
            f"{count(len(plan.shards), 'shard')}, {count(plan.latent_bytes(), 'byte')}, about {seconds:,.0f} s"
        )
    return ExitCode.SOME_FAILED if failures else ExitCode.OK
