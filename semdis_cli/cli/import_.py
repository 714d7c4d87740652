"""`semdis import`: what `semdis export` wrote, but for `.npy` -> shards of latents."""

from pathlib import Path
from typing import Annotated

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import check_apart, refuse_pipes
from semdis_cli.errors import ExitCode
from semdis_cli.option import OUTPUT, Option
from semdis_cli.settings import ShardSettings
from semdis_cli.wording import count

Source = Annotated[
    Path,
    Option(
        "Folder that `semdis export` wrote, or a .tar; or any folder of shards of one image each.", is_argument=True
    ),
]
Output = Annotated[Path, Option("Folder for the latents.", OUTPUT, flags="--output -o")]


@command()
def import_(
    context: typer.Context,
    *,
    source: Source = Path("exported"),
    output: Output = Path("latents"),
    settings: ShardSettings,
    reporting: Reporting,
) -> None:
    """Make shards of latents of exported files: the bytes that `semdis encode` gave, if shards are cut the same.

    Each file is checked against its sha256; what is damaged is listed as failed. What an export lacks is counted as
    missing. Stopped at any point, the same command goes on.

    Example: `semdis import exported/ -o latents/`
    """
    from semdis_cli.pipeline.gather import gather
    from semdis_cli.store.exchange.samples import find_samples
    from semdis_cli.store.writing.finished import check_latents_folder

    refuse_pipes(source, output)
    check_apart(output, source)
    check_latents_folder(output)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    found = find_samples(source, display.plan, mix_versions=settings.mix_versions)
    if found.num_missing:
        num_found = len(found.samples) + len(found.failures)
        promise = f"{found.num_exported:,} were to be exported to {source}: {found.num_missing:,} missing"
        advice = "the same semdis export, run again, writes them or says why it cannot"
        display.say(f"semdis: {count(num_found, 'image')} found, but {promise}; {advice}")
    code = follow(
        gather(found, settings, output),
        as_json=reporting.as_json,
        quiet=reporting.quiet,
        summarise=lambda report: (
            f"{count(report['images']['ok'], 'image')} in {count(report['shards'], 'shard')}, "
            f"{report['latent_bytes'] / 2**20:,.1f} MiB in {output}"
        ),
        display=display,
    )
    raise typer.Exit(max(code, ExitCode.SOME_FAILED) if found.num_missing else code)
