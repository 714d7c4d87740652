"""`semdis decode`: shards of latents -> images."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli import options
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import announce, count_workers, sampling_settings, tokenizer_settings
from semdis_cli.defaults import DECODE_MARKER

Latents = Annotated[Path, typer.Argument(help="Folder that `semdis encode` wrote, or one shard file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.", rich_help_panel="Output")]


def decode(
    latents: Latents = Path("latents"),
    output: Output = Path("decoded"),
    steps: options.Steps = 1,
    pdg: options.Pdg = False,
    pdg_strength: options.PdgStrength = 2.0,
    sampler: options.Sampler = "ddim",
    schedule: options.Schedule = "linear",
    seed: options.Seed = 0,
    image_format: options.Format = "png",
    quality: options.Quality = 95,
    model: options.RecordedModel = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn latents back into images, with their names, folders and sizes.

    The model is the one recorded in the latents. Shards are checked against their sha256 before they are used.

    Example: `semdis decode latents/ -o decoded/ --steps 10 --pdg`
    """
    from semdis_cli.pipeline.decode import DecodeSettings, load_recorded_model
    from semdis_cli.pipeline.decode import decode as run
    from semdis_cli.pipeline.images_out import WriteSettings
    from semdis_cli.store.claim import check_image_folder
    from semdis_cli.store.reader import open_latents

    check_image_folder(output, DECODE_MARKER)
    source = open_latents(latents)
    tokenizer = load_recorded_model(source, model, tokenizer_settings(device, dtype, batch_size, threads))
    announce(tokenizer, quiet)
    settings = DecodeSettings(
        sampling=sampling_settings(steps, sampler, schedule, pdg, pdg_strength, seed),
        write=WriteSettings(image_format, quality),
        num_workers=count_workers(workers),
    )
    code = follow(
        run(source, tokenizer, settings, output),
        as_json=as_json,
        quiet=quiet,
        summarise=lambda report: f"{report['images']['ok']:,} images in {output}",
    )
    raise typer.Exit(code)
