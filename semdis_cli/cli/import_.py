"""`semdis import`: what `semdis export` wrote, but for `.npy` -> shards of latents."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import follow
from semdis_cli.cli.setup import check_apart, refuse_pipes
from semdis_cli.errors import ExitCode
from semdis_cli.option import OUTPUT, Option
from semdis_cli.settings import ShardSettings
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.store.exchange.samples import FoundSamples

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
        display.say(f"semdis: {_missing(found, source)}")
    code = follow(gather(found, settings, output), reporting, summarise=_summary, display=display)
    raise typer.Exit(max(code, ExitCode.SOME_FAILED) if found.num_missing else code)


def _missing(found: "FoundSamples", source: Path) -> str:
    promise = f"{found.num_exported:,} were to be exported to {source}: {found.num_missing:,} missing"
    advice = "the same semdis export, run again, writes them or says why it cannot"
    return f"{count(len(found.samples) + len(found.failures), 'image')} found, but {promise}; {advice}"


def _summary(report: dict[str, Any]) -> str:
    images, shards = count(report["images"]["ok"], "image"), count(report["shards"], "shard")
    return f"{images} in {shards}, {report['latent_bytes'] / 2**20:,.1f} MiB in {report['output']}"
