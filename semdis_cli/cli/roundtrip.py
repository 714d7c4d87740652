"""`semdis roundtrip`: images -> latents -> images, and how much was lost."""

from dataclasses import astuple, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.pages import check_page, describe_page, finish_with
from semdis_cli.cli.report import describe_renamed, follow
from semdis_cli.cli.setup import (
    computing_there,
    find_inputs,
    load_model,
    refuse_absent_device,
    refuse_pipes,
    spread,
    spread_if_it_pays,
    start_processes_early,
)
from semdis_cli.defaults import ROUNDTRIP_MARKER
from semdis_cli.option import OUTPUT, Option, OptionError
from semdis_cli.settings import (
    WITHOUT_COLUMNS,
    EncodeSettings,
    LoadSettings,
    ModelSettings,
    PartSettings,
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

    stdout: one line an image, name and PSNR in dB; then the mean. All figures in figures.jsonl and report.json.

    Example: `semdis roundtrip photos/ -o roundtrip/ --steps 10 --pdg --report report.html`
    """
    refuse_pipes(*named.sources, output)
    check_page(settings.page, output)
    how, decoding = spread(how, settings.decode, is_piped=False)
    refuse_absent_device(how.device)
    if settings.measures.inception is not None and decoding.processes.is_given:
        raise OptionError("--inception", f"does not go with {decoding.processes.flag}: rFID is of all images together")
    display = context.with_resource(open_display(quiet=reporting.quiet))
    found = find_inputs(named, rules, output=output, quiet=reporting.quiet, display=display)

    from semdis_cli.files.claim import check_image_folder
    from semdis_cli.images.loader import Loader
    from semdis_cli.metrics.measure import check_weights
    from semdis_cli.pipeline.encode_plan import plan_encode
    from semdis_cli.pipeline.roundtrip import as_begun
    from semdis_cli.pipeline.roundtrip import roundtrip as run

    check_image_folder(output, ROUNDTRIP_MARKER)
    check_weights(settings.measures)
    how, decoding = spread_if_it_pays(how, decoding, len(found.images))
    start_processes_early(how, len(found.images), len(decoding.processes.places))
    settings = as_begun(replace(settings, decode=decoding), output)
    tokenizer = load_model(model, how, len(found.images), load.geometry, display, quiet=reporting.quiet)
    tokenizer = computing_there(tokenizer, decoding.processes, display, quiet=reporting.quiet)
    with Loader(load, tokenizer.patch_size, settings.decode.num_workers) as loader:
        latents = PartSettings(*astuple(settings.latents))
        how_encoded = EncodeSettings(columns=WITHOUT_COLUMNS, latents=latents)
        plan = plan_encode(found, loader, tokenizer, how_encoded, tell=display.plan)
        events = run(plan, loader, tokenizer, settings, output, finish_with(settings.page, named))
        code = follow(events, reporting, summarise=_summary, display=display)
    raise typer.Exit(code)


def _summary(report: dict[str, Any]) -> str:
    psnr = report["psnr_db"]
    if psnr is None:
        return f"no image could be measured{describe_renamed(report)}"
    return (
        f"{count(report['images']['ok'], 'reconstruction')} in {report['output']}, PSNR mean {psnr['mean']:.2f} dB, "
        f"median {psnr['median']:.2f}, min {psnr['min']:.2f}, max {psnr['max']:.2f}{_describe_ssim(report)}"
        f"{describe_renamed(report)}{describe_page(report)}"
    )


def _describe_ssim(report: dict[str, Any]) -> str:
    """Return what to add about SSIM, where it was measured."""
    ssim = report.get("ssim")
    return f", SSIM mean {ssim['mean']:.4f}" if ssim else ""
