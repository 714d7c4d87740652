"""`semdis roundtrip`: images -> latents -> images, and how much was lost."""

from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli import options
from semdis_cli.cli.display import open_display
from semdis_cli.cli.report import describe_renamed, follow
from semdis_cli.cli.setup import (
    count_workers,
    error_limit,
    find_inputs,
    geometry_settings,
    input_rules,
    load_model,
    read_settings,
    refuse_absent_device,
    refuse_pipes,
    sampling_settings,
    tokenizer_settings,
)
from semdis_cli.defaults import BUNDLED_MODEL, MAX_IMAGE_PIXELS, ROUNDTRIP_MARKER
from semdis_cli.wording import count

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the reconstructions.", rich_help_panel="Output")
]


def roundtrip(
    context: typer.Context,
    sources: options.Sources = None,
    output: Output = Path("roundtrip"),
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
    steps: options.Steps = 1,
    pdg: options.Pdg = False,
    pdg_strength: options.PdgStrength = 2.0,
    sampler: options.Sampler = "ddim",
    schedule: options.Schedule = "linear",
    seed: options.Seed = 0,
    image_format: options.Format = "png",
    quality: options.Quality = 95,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode and decode images in one go, without storing latents, and measure the loss.

    stdout: one line an image, name and PSNR in dB; then the mean. Figures also in psnr.jsonl and report.json.

    Example: `semdis roundtrip photos/ -o roundtrip/ --steps 10 --pdg`
    """
    from semdis_cli.pipeline.limits import within_limit

    refuse_pipes(*(sources or ()), output)
    refuse_absent_device(device)
    limit = error_limit(max_errors)
    rules = input_rules(exclude, include, all_files=all_files)
    geometry = geometry_settings(size, max_pixels, bucket_size)
    read = read_settings(background, max_image_pixels, jpeg_scaling=jpeg_scaling)
    display = context.with_resource(open_display(quiet=quiet))
    found = find_inputs(sources, files_from, null=null, output=output, quiet=quiet, rules=rules, display=display)

    from semdis_cli.images.loader import Loader, LoadSettings
    from semdis_cli.pipeline.decode import DecodeSettings
    from semdis_cli.pipeline.encode_plan import EncodeSettings, plan_encode
    from semdis_cli.pipeline.images_out import WriteSettings
    from semdis_cli.pipeline.roundtrip import roundtrip as run
    from semdis_cli.store.writing.claim import check_image_folder

    check_image_folder(output, ROUNDTRIP_MARKER)
    num_worth = len(found.images) if geometry.has_few_sizes else 0
    how = tokenizer_settings(device, dtype, batch_size, threads, compiling, num_images=num_worth)
    tokenizer = load_model(model, revision, how, display, quiet=quiet)
    load = LoadSettings(geometry, read, tokenizer.patch_size)
    encode_settings = EncodeSettings(load, store_dtype, posterior, seed)
    decode_settings = DecodeSettings(
        sampling=sampling_settings(steps, sampler, schedule, pdg, pdg_strength, seed),
        write=WriteSettings(image_format, quality),
        num_workers=count_workers(workers),
    )
    with Loader(load, count_workers(workers)) as loader:
        plan = plan_encode(found, loader, tokenizer, encode_settings, tell=display.plan)
        events = within_limit(
            run(plan, loader, tokenizer, encode_settings, decode_settings, output), limit, goes_on=False
        )
        code = follow(
            events,
            as_json=as_json,
            quiet=quiet,
            summarise=lambda report: _summary(report, output) + describe_renamed(report),
            display=display,
        )
    raise typer.Exit(code)


def _summary(report: dict[str, Any], output: Path) -> str:
    psnr = report["psnr_db"]
    if psnr is None:
        return "no image could be measured"
    return (
        f"{count(report['images']['ok'], 'reconstruction')} in {output}, PSNR mean {psnr['mean']:.2f} dB, median "
        f"{psnr['median']:.2f}, min {psnr['min']:.2f}, max {psnr['max']:.2f}"
    )
