"""`semdis import`: what `semdis export` wrote -> shards of latents."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli import options
from semdis_cli.cli.encode import ShardImages, ShardSize
from semdis_cli.cli.report import follow, say
from semdis_cli.errors import UsageError

Source = Annotated[
    Path,
    typer.Argument(help="Folder that `semdis export` wrote, or a .tar; or any folder of shards of one image each."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the latents.", rich_help_panel="Output")]


def import_(
    source: Source = Path("exported"),
    output: Output = Path("latents"),
    shard_size: ShardSize = 256,
    shard_images: ShardImages = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make shards of latents of exported files: the bytes that `semdis encode` gave, if shards are cut the same.

    Each file is checked against its sha256; what is damaged is listed as failed. Stopped at any point, the same command
    goes on.

    Example: `semdis import exported/ -o latents/`
    """
    from semdis_cli.pipeline.gather import GatherSettings, gather
    from semdis_cli.store.folder import check_latents_folder
    from semdis_cli.store.samples import find_samples

    if output.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(output.resolve()):
        raise UsageError(f"-o {output} and {source} lie in one another; give a folder of its own")
    check_latents_folder(output)
    found = find_samples(source)
    num_found = len(found.samples) + len(found.failures)
    if found.num_exported is not None and num_found < found.num_exported:
        say(f"semdis: {num_found:,} images found, but {found.num_exported:,} were to be exported to {source}")
    code = follow(
        gather(found, GatherSettings(shard_size, shard_images), output),
        as_json=as_json,
        quiet=quiet,
        summarise=lambda report: (
            f"{report['images']['ok']:,} images in {report['shards']:,} shards, "
            f"{report['latent_bytes'] / 2**20:,.1f} MiB in {output}"
        ),
    )
    raise typer.Exit(code)
