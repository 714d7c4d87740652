"""`semdis roundtrip`: images -> latents -> images, and how much was lost."""

from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import describe_renamed, follow
from semdis_cli.cli.setup import find_inputs, load_model, refuse_absent_device, refuse_pipes
from semdis_cli.defaults import ROUNDTRIP_MARKER
from semdis_cli.option import OUTPUT, Option
from semdis_cli.settings import (
    EncodeSettings,
    LoadSettings,
    ModelSettings,
    RoundtripSettings,
    SourceSettings,
    TokenizerSettings,
)
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.wording import count

Output = Annotated[Path, Option("Folder for the reconstructions.", OUTPUT, flags="--output -o")]


@command()
def roundtrip(
    context: typer.Context,
    *,
    output: Output = Path("roundtrip"),
    named: SourceSettings,
    rules: InputRules,
    load: LoadSettings,
    model: ModelSettings,
    how: TokenizerSettings,
    settings: RoundtripSettings,
    reporting: Reporting,
) -> None:
    """Encode and decode images in one go, without storing latents, and measure the loss.

    stdout: one line an image, name and PSNR in dB; then the mean. Figures also in psnr.jsonl and report.json.

    Example: `semdis roundtrip photos/ -o roundtrip/ --steps 10 --pdg`
    """
    refuse_pipes(*named.sources, output)
    refuse_absent_device(how.device)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    found = find_inputs(named, rules, output=output, quiet=reporting.quiet, display=display)

    from semdis_cli.files.claim import check_image_folder
    from semdis_cli.images.loader import Loader
    from semdis_cli.pipeline.encode_plan import plan_encode
    from semdis_cli.pipeline.roundtrip import roundtrip as run

    check_image_folder(output, ROUNDTRIP_MARKER)
    num_alike = len(found.images) if load.geometry.has_few_sizes else 0
    tokenizer = load_model(model, how, num_alike, display, quiet=reporting.quiet)
    with Loader(load, tokenizer.patch_size, settings.decode.num_workers) as loader:
        plan = plan_encode(found, loader, tokenizer, EncodeSettings(latents=settings.latents), tell=display.plan)
        code = follow(
            run(plan, loader, tokenizer, settings, output),
            as_json=reporting.as_json,
            quiet=reporting.quiet,
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
