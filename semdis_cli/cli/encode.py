"""`semdis encode`: images -> shards of latents."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semdis_cli.cli import options
from semdis_cli.cli.report import follow, printable, say
from semdis_cli.cli.setup import (
    announce,
    find_inputs,
    geometry_settings,
    make_loader,
    read_settings,
    tokenizer_settings,
)
from semdis_cli.defaults import BUNDLED_MODEL, MAX_IMAGE_PIXELS
from semdis_cli.errors import ExitCode

if TYPE_CHECKING:
    from semdis_cli.pipeline.encode import EncodePlan

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the latents.", rich_help_panel="Output")]
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
    sources: options.Sources = None,
    output: Output = Path("latents"),
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    size: options.Size = None,
    max_pixels: options.MaxPixels = None,
    bucket_size: options.BucketSize = None,
    background: options.Background = "#ffffff",
    max_image_pixels: options.MaxImagePixels = MAX_IMAGE_PIXELS,
    model: options.Model = BUNDLED_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    workers: options.Workers = None,
    store_dtype: options.StoreDtype = "bfloat16",
    posterior: options.Posterior = "mode",
    seed: options.Seed = 0,
    shard_size: ShardSize = 256,
    shard_images: ShardImages = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn images into shards of latents.

    JPEG, PNG, WebP, GIF (first frame), BMP, TIFF and AVIF, known by content. Images keep their size (padded to the
    patch) unless --size, --max-pixels or --bucket-size says otherwise. Stopped at any point, the same command goes on.

    Example: `semdis encode photos/ -o latents/ --size 256`
    """
    geometry = geometry_settings(size, max_pixels, bucket_size)
    read = read_settings(background, max_image_pixels)
    found = find_inputs(sources, files_from, null=null, output=output, quiet=quiet)

    from semdis_cli.data.loader import LoadSettings
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.encode import EncodeSettings, estimate_s, plan_encode
    from semdis_cli.pipeline.encode import encode as run
    from semdis_cli.store.latent_set import check_latents_folder

    if not dry_run:
        check_latents_folder(output)
    how = tokenizer_settings(device, dtype, batch_size, threads)
    tokenizer = Tokenizer.load(model, how, revision=revision)
    announce(tokenizer, quiet)
    load = LoadSettings(geometry, read, tokenizer.patch_size)
    settings = EncodeSettings(load, store_dtype, posterior, seed, shard_size, shard_images)
    with make_loader(load, workers, tokenizer) as loader:
        plan = plan_encode(found, loader, tokenizer, settings)
        if dry_run:
            code = _show_plan(plan, estimate_s(plan, loader, tokenizer, settings), as_json)
        else:
            events = run(plan, loader, tokenizer, settings, output)
            code = follow(
                events,
                as_json=as_json,
                quiet=quiet,
                summarise=lambda report: (
                    f"{report['images']['ok']:,} images in {report['shards']:,} shards, "
                    f"{report['latent_bytes'] / 2**20:,.1f} MiB in {output}"
                ),
            )
    raise typer.Exit(code)


def _show_plan(plan: "EncodePlan", seconds: float, as_json: bool) -> ExitCode:
    """What a run would do: on stdout. Inputs that are known to be unusable are listed on stderr."""
    for failure in plan.failures:
        say(f"failed: {printable(failure.key)}: {failure.reason}")
    report = {
        "command": "encode --dry-run",
        "images": {"inputs": plan.num_inputs, "failed": len(plan.failures)},
        "shards": len(plan.shards),
        "megapixels": round(plan.megapixels(), 3),
        "latent_bytes": plan.latent_bytes(),
        "estimated_s": round(seconds, 1),
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        typer.echo(
            f"{plan.num_inputs:,} images ({len(plan.failures):,} unusable), {plan.megapixels():,.1f} megapixels -> "
            f"{len(plan.shards):,} shards, {plan.latent_bytes():,} bytes, about {seconds:,.0f} s"
        )
    return ExitCode.SOME_FAILED if plan.failures else ExitCode.OK
