"""`semdis encode`: images -> shards of latents."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semdis_cli.cli.display import Display, open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.plan_text import plan_json, plan_text
from semdis_cli.cli.report import follow, one_line, printable
from semdis_cli.cli.setup import (
    STDIO,
    as_recorded,
    computing_there,
    find_inputs,
    find_mask_maker,
    load_model,
    on_own_gpu,
    output_folder,
    peek_source,
    refuse_absent_device,
    spread,
    spread_if_it_pays,
    start_processes_early,
)
from semdis_cli.cli.streams import put, put_bytes, say
from semdis_cli.errors import ExitCode
from semdis_cli.files.set_names import JOURNAL_FOLDER, PLAN_FILE
from semdis_cli.files.url import Location, Url, parse_location
from semdis_cli.option import COLUMNS, GEOMETRY, INPUT, MODEL, OUTPUT, Option, OptionError
from semdis_cli.settings import (
    EncodeSettings,
    LoadSettings,
    ModelSettings,
    SourceSettings,
    TokenizerSettings,
)
from semdis_cli.shares import Launched, Share, find_launched
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.images.loader import Loader
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.filed import FiledPlan
    from semdis_cli.sources.find import FoundImages
    from semdis_cli.sources.spool import PipedSource
    from semdis_cli.store.writing.far_set import FarSet

_DEFAULT = Path("latents")
_MOST_PARTS = 20  # that are named

Output = Annotated[
    Location | None,
    Option(
        "Folder for the latents, or a URL (s3://bucket/latents/), or - for a tar on stdout with a file for each "
        "image.  [default: latents; for one image on stdin: its file on stdout]",
        OUTPUT,
        flags="--output -o",
        show_default=False,
        metavar="FOLDER|URL|-",
        parse=parse_location,
    ),
]
Stage = Annotated[
    Path | None,
    Option(
        "Folder by way of which latents go to a URL: a stopped run goes on from it.  [default: in the user's cache]",
        OUTPUT,
        flags="--stage",
        metavar="FOLDER",
        show_default=False,
    ),
]
DryRun = Annotated[bool, Option("Count images, bytes and time; write nothing.", OUTPUT, flags="--dry-run")]


PartText = Annotated[
    str | None,
    Option(
        "Encode part i of n, from 0 on, of a set that several processes write, each by itself; the last one finishes "
        "it.  [default: as SLURM, torchrun, mpirun and others say; none: all of it]",
        OUTPUT,
        flags="--part",
        metavar="i/n|none",
        show_default=False,
    ),
]


@command(OUTPUT, INPUT, COLUMNS, GEOMETRY, MODEL)
def encode(
    context: typer.Context,
    *,
    output: Output = None,
    stage: Stage = None,
    part: PartText = None,
    named: SourceSettings,
    rules: InputRules,
    load: LoadSettings,
    model: ModelSettings,
    how: TokenizerSettings,
    settings: EncodeSettings,
    dry_run: DryRun = False,
    reporting: Reporting,
) -> None:
    """Turn images into shards of latents.

    JPEG, PNG, WebP, GIF (first frame), BMP, TIFF and AVIF, known by content. Images keep their size (padded to the
    patch) unless --size, --max-pixels or --bucket-size says otherwise. Stopped at any point, the same command goes on.

    Example: `semdis encode photos/ -o latents/ --size 256`
    """
    settings.filters.check(load.geometry)
    how, settings = spread(how, settings, is_piped=STDIO in {output, *named.sources})
    refuse_absent_device(how.device)
    if output == Path("-") and settings.columns.is_explicit:
        raise OptionError("-o", "- writes latents alone: columns are kept in a folder")
    display = context.with_resource(open_display(quiet=reporting.quiet))
    launched = None if _tells_of_all(part, dry_run=dry_run) else _launched(part, output, named, quiet=reporting.quiet)
    if launched is not None:
        how, settings = on_own_gpu(how, launched), replace(settings, share=launched.share)
    far = _far_set(context, output, stage, dry_run=dry_run)
    stdin = peek_source(named)
    is_single = stdin is not None and stdin.is_single and len(load.views) == 1
    folder = _folder(far or output, stdin, is_single=is_single, dry_run=dry_run, quiet=reporting.quiet)
    filed = None if dry_run else _find_plan(folder, named, rules, load, settings)
    if filed is not None and not reporting.quiet:
        display.say(f"semdis: {filed.describe()}")
    found = filed or find_inputs(named, rules, output=folder, quiet=reporting.quiet, stdin=stdin, display=display)

    from semdis_cli.images.loader import Loader

    masks = find_mask_maker(settings.latents, found, display)
    if folder is not None and not dry_run:
        _check_folder(folder)
        is_one = stdin is not None or launched is not None  # whoever launches parts has one for each GPU
        how, settings = spread_if_it_pays(how, settings, 0 if is_one else found.num_images)
    how = as_recorded(how, folder)
    start_processes_early(how, found.num_images, len(settings.processes.places))
    tokenizer = computing_there(
        load_model(model, how, found.num_images, load.geometry, display, quiet=reporting.quiet),
        settings.processes,
        display,
        quiet=reporting.quiet,
    )
    with Loader(load, tokenizer.patch_size, settings.num_workers, masks=masks) as loader:
        run = _Run(found, loader, tokenizer, settings, folder, far, display, reporting)
        raise typer.Exit(run.plan() if dry_run else run.encode())


def _tells_of_all(part: str | None, *, dry_run: bool) -> bool:
    if dry_run and part not in {None, "none"}:
        raise OptionError("--part", "does not go with --dry-run, which tells of all parts together")
    return dry_run


def _launched(part: str | None, output: Location | None, named: SourceSettings, *, quiet: bool) -> Launched | None:
    """Return the share of the set that this process is to write, as the option or a launcher says; None: all of it."""
    if part is None and output == Path("-"):
        return None
    launched = find_launched(os.environ, None if part is None else Share.parse(part)) if part != "none" else None
    if launched is None:
        return None
    if output == Path("-"):
        raise OptionError("--part", "goes with a folder: what is on stdout is no set")
    if STDIO in named.sources or named.files_from == "-":
        raise OptionError("--part", "goes with sources that all parts see, which stdin is not (none: all of it)")
    if launched.by and not quiet:
        say(f"semdis: part {launched.share}, as {launched.by} say; --part none makes one process do all")
    return launched


def _far_set(context: typer.Context, output: Location | None, stage: Path | None, *, dry_run: bool) -> "FarSet | None":
    """Return the set in a store that is to be written, looked at; None where that is a folder."""
    if not isinstance(output, Url):
        if stage is not None:
            raise OptionError("--stage", "goes with a URL for -o")
        return None
    from semdis_cli.store.writing.far_set import FarSet

    if dry_run:  # its lists alone, for as long as it takes
        stage = Path(context.with_resource(TemporaryDirectory(prefix="semdis-")))
    far = FarSet.at(output, stage)
    far.fetch()
    return far


def _find_plan(
    folder: Path | None, named: SourceSettings, rules: InputRules, load: LoadSettings, settings: EncodeSettings
) -> "FiledPlan | None":
    """Return the plan that `semdis plan` has left in the folder to write; raises `UsageError` for that of others."""
    if folder is None or not (folder / JOURNAL_FOLDER / PLAN_FILE).is_file():
        return None
    from semdis_cli.pipeline.filed import FiledPlan
    from semdis_cli.sources.request import Request

    return FiledPlan.find(folder, Request.of(named, rules, load, settings))


def _folder(
    output: "Location | FarSet | None", stdin: "PipedSource | None", *, is_single: bool, dry_run: bool, quiet: bool
) -> Path | None:
    """Return the folder of lists and journal, which may be the stage of a set in a store; None for stdout."""
    here = output if isinstance(output, Path | None) else getattr(output, "stage", None)
    if dry_run:
        return _planned_folder(here, is_single=is_single, quiet=quiet)
    return _choose_folder(here, stdin, is_single=is_single)


def _planned_folder(output: Path | None, *, is_single: bool, quiet: bool) -> Path | None:
    """The folder that a run would write, None for stdout; says so if there is an unfinished run in it."""
    if output == Path("-") or (output is None and is_single):
        return None
    folder = output or _DEFAULT
    if not quiet and (folder / "journal").is_dir():
        say(f"semdis: a run in {folder} is unfinished; what it has done is not counted here")
    return folder


def _choose_folder(output: Path | None, stdin: "PipedSource | None", *, is_single: bool) -> Path | None:
    """The folder to write, None for stdout. One that cannot be written is refused before all of stdin is read."""
    folder = output_folder(output, _DEFAULT, is_single=is_single)
    if folder is not None and stdin is not None:
        _check_folder(folder)
    return folder


@dataclass(frozen=True)
class _Run:
    """A run, as it was asked for: `folder` is the one to write, None for stdout; it may be the stage of `far`."""

    found: "FoundImages | FiledPlan"
    loader: "Loader"
    tokenizer: "Tokenizer"
    settings: EncodeSettings
    folder: Path | None
    far: "FarSet | None"
    display: Display
    reporting: Reporting

    def encode(self) -> ExitCode:
        """Encode, and show it."""
        from semdis_cli.pipeline.encode import encode as encode_set
        from semdis_cli.pipeline.stream import encode_stream

        found, how = self.found, (self.loader, self.tokenizer, self.settings)
        if self.folder is not None:
            events = encode_set(found, *how, self.far or self.folder, self.display.plan)
        else:
            events = encode_stream(_listed(found), *how, put_bytes, self.display.plan)
        is_data = self.folder is None
        return follow(events, self.reporting, summarise=_summary, stdout_is_data=is_data, display=self.display)

    def plan(self) -> ExitCode:
        """Say on stdout what a run would do. Inputs that are known to be unusable are listed on stderr."""
        from semdis_cli.pipeline.encode_plan import plan_output
        from semdis_cli.pipeline.estimate import estimate_s, refused_images

        loader, tokenizer = self.loader, self.tokenizer
        plan = plan_output(_listed(self.found), loader, tokenizer, self.settings, self.folder, self.display.plan)
        failures = (*plan.failures, *refused_images(plan, loader, tokenizer))
        seconds = estimate_s(plan, loader, tokenizer, self.settings)
        for note in filter(None, (plan.columns.note, loader.note)):
            if not self.reporting.quiet:
                say(f"semdis: {one_line(note)}")
        for failure in failures:
            say(f"failed: {printable(failure.key)}: {failure.reason}")
        facts = plan, len(failures), loader.settings.geometry
        figures = {"estimated_s": round(seconds, 1)}
        is_json = self.reporting.as_json
        put(plan_json("encode --dry-run", *facts, figures) if is_json else plan_text(*facts, seconds))
        return ExitCode.SOME_FAILED if failures else ExitCode.OK


def _listed(found: "FoundImages | FiledPlan") -> "FoundImages":
    """Return images that were listed now: of a run without a folder, and of a dry one, there is no plan in a file."""
    from semdis_cli.sources.find import FoundImages

    assert isinstance(found, FoundImages), "a plan in a file is that of a folder which is written"
    return found


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before working. Raises `UsageError`."""
    from semdis_cli.store.writing.finished import check_latents_folder

    check_latents_folder(folder)


def _summary(report: dict[str, Any]) -> str:
    images, mib = count(report["images"]["ok"], "image"), f"{report['latent_bytes'] / 2**20:,.1f} MiB"
    if (missing := report.get("parts_missing")) is not None:
        more = f" and {len(missing) - _MOST_PARTS:,} more" if len(missing) > _MOST_PARTS else ""
        rest = f"missing yet: part {', '.join(missing[:_MOST_PARTS])}{more}" if missing else "all parts are done"
        whole = "" if missing else "of the set, "
        return f"part {report['part']}; {whole}{images} in {count(report['shards'], 'shard')}, {mib}; {rest}"
    if "shards" not in report:
        return f"{images}, {mib} to stdout"
    news = "".join(f", {report[name]:,} {name}" for name in ("changed", "removed") if report[name])
    return f"{images} in {count(report['shards'], 'shard')}, {mib} in {report['output']}{news}"
