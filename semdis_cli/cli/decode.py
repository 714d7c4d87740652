"""`semdis decode`: shards of latents -> images."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semdis_cli.cli import options
from semdis_cli.cli.display import open_display
from semdis_cli.cli.report import describe_renamed, follow
from semdis_cli.cli.setup import (
    STDIO,
    announce,
    count_workers,
    open_stdin,
    output_folder,
    refuse_absent_device,
    refuse_others,
    sampling_settings,
    tokenizer_settings,
)
from semdis_cli.cli.streams import put_bytes
from semdis_cli.defaults import DECODE_MARKER
from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Planning
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.decode import DecodeSettings
    from semdis_cli.pipeline.stream import LatentStream
    from semdis_cli.store.reader import LatentSource

Latents = Annotated[
    Path,
    typer.Argument(help="Folder that `semdis encode` wrote, one shard file, or -: what `encode -o -` wrote, on stdin."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for the images.  [default: decoded; for one image on stdin: stdout]",
        show_default=False,
        rich_help_panel="Output",
    ),
]


def decode(
    context: typer.Context,
    latents: Latents = Path("latents"),
    output: Output = None,
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
    compiling: options.Compile = "auto",
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn latents back into images, with their names, folders and sizes.

    The model is the one recorded in the latents. Shards are checked against their sha256 before they are used.

    Example: `semdis decode latents/ -o decoded/ --steps 10 --pdg`
    """
    refuse_absent_device(device)
    stdin = open_stdin("what semdis encode -o - writes") if latents == STDIO else None
    _refuse_tar(latents)
    if latents != STDIO:
        refuse_others(latents)

    from semdis_cli.pipeline.decode import DecodeSettings, load_recorded_model
    from semdis_cli.pipeline.images_out import WriteSettings
    from semdis_cli.pipeline.stream import LatentStream
    from semdis_cli.store.reader import open_latents
    from semdis_cli.store.writing.claim import check_image_folder

    stream = None if stdin is None else LatentStream(stdin)
    folder = output_folder(output, Path("decoded"), is_single=stream is not None and stream.is_single)
    if folder is not None:
        check_image_folder(folder, DECODE_MARKER)
    elif stream is None or not stream.is_single:
        raise UsageError("only a single image, given on stdin, can be decoded to stdout; give -o a folder")
    display = context.with_resource(open_display(quiet=quiet))
    display.plan(Planning("reading the index"))
    source = open_latents(latents) if stream is None else stream.source
    num_worth = len(source.keys) if source.provenance.has_few_sizes else 0
    how = tokenizer_settings(device, dtype, batch_size, threads, compiling, num_images=num_worth)
    display.plan(Planning("loading the model"))
    tokenizer = load_recorded_model(source, model, how)
    announce(tokenizer, quiet, display.say)
    settings = DecodeSettings(
        sampling=sampling_settings(steps, sampler, schedule, pdg, pdg_strength, seed),
        write=WriteSettings(image_format, quality),
        num_workers=count_workers(workers),
    )
    code = follow(
        _start(stream or source, tokenizer, settings, folder),
        as_json=as_json,
        quiet=quiet,
        summarise=lambda report: (
            f"{count(report['images']['ok'], 'image')} in {folder or 'stdout'}{describe_renamed(report)}"
        ),
        stdout_is_data=folder is None,
        display=display,
    )
    raise typer.Exit(code)


def _refuse_tar(latents: Path) -> None:
    """Raise `UsageError` if `latents` is a tar, and say how that is decoded."""
    from semdis_cli.files.tar import is_tar_start

    if not latents.is_file():
        return
    try:
        with latents.open("rb") as file:
            start = file.read(512)
    except OSError:  # whoever reads the latents says so
        return
    if any(start) and is_tar_start(start):
        raise UsageError(
            f"a tar; of semdis encode -o -: semdis decode - < {latents}; of semdis export: import it first",
            place=latents,
        )


def _start(
    latents: "LatentSource | LatentStream", tokenizer: "Tokenizer", settings: "DecodeSettings", folder: Path | None
) -> Iterator[Event]:
    from semdis_cli.pipeline.decode import decode as decode_set
    from semdis_cli.pipeline.stream import LatentStream, decode_single, decode_stream

    if not isinstance(latents, LatentStream):
        assert folder is not None, "a set is decoded into a folder"
        return decode_set(latents, tokenizer, settings, folder)
    if folder is None:
        return decode_single(latents, tokenizer, settings, put_bytes)
    return decode_stream(latents, tokenizer, settings, folder)
