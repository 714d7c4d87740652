"""`semdis decode`: shards of latents -> images."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semdis_cli.cli.display import Display, open_display
from semdis_cli.cli.options import Reporting, command
from semdis_cli.cli.report import describe_renamed, follow
from semdis_cli.cli.setup import (
    STDIO,
    announce,
    computing_there,
    open_stdin,
    output_folder,
    refuse_absent_device,
    refuse_others,
    spread,
    spread_if_it_pays,
    start_processes_early,
)
from semdis_cli.cli.streams import put_bytes
from semdis_cli.defaults import DECODE_MARKER
from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Planning
from semdis_cli.files.url import Location, Url, parse_location
from semdis_cli.option import DECODING, INPUT, MODEL, OUTPUT, Option
from semdis_cli.settings import DecodeSettings, TokenizerSettings
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.stream import LatentStream
    from semdis_cli.store.reader import LatentSource

Latents = Annotated[
    Location,
    Option(
        "Folder that `semdis encode` wrote, or one shard file; may be a URL. Or -: what `encode -o -` wrote, on stdin.",
        is_argument=True,
        parse=parse_location,
    ),
]
Output = Annotated[
    Path | None,
    Option(
        "Folder for the images.  [default: decoded; for one image on stdin: stdout]",
        OUTPUT,
        flags="--output -o",
        show_default=False,
    ),
]
RecordedModel = Annotated[
    str | None,
    Option(
        "Where the model is, if not where the latents' record says; must be the same weights.", MODEL, metavar="MODEL"
    ),
]


@command(OUTPUT, DECODING, MODEL, INPUT)
def decode(
    context: typer.Context,
    *,
    latents: Latents = Path("latents"),
    output: Output = None,
    model: RecordedModel = None,
    how: TokenizerSettings,
    settings: DecodeSettings,
    reporting: Reporting,
) -> None:
    """Turn latents back into images, with their names, folders and sizes.

    The model is the one recorded in the latents. Shards are checked against their sha256 before they are used.

    Example: `semdis decode latents/ -o decoded/ --steps 10 --pdg`
    """
    how, settings = spread(how, settings, is_piped=STDIO in {latents, output})
    refuse_absent_device(how.device)
    stream = _open_stream(latents)
    folder = _choose_folder(output, stream)
    display = context.with_resource(open_display(quiet=reporting.quiet))
    display.plan(Planning("reading the index"))

    from semdis_cli.store.reader import open_latents

    source = open_latents(latents) if stream is None else stream.source
    if stream is None:
        how, settings = spread_if_it_pays(how, settings, len(source.keys))
    start_processes_early(how, len(source.keys), len(settings.processes.places))
    display.plan(Planning("loading the model"))
    tokenizer = _load_model(source, model, how, display, reporting)
    tokenizer = computing_there(tokenizer, settings.processes, display, quiet=reporting.quiet)
    code = follow(
        _start(stream or source, tokenizer, settings, folder),
        reporting,
        summarise=lambda report: (
            f"{count(report['images']['ok'], 'image')} in {folder or 'stdout'}{describe_renamed(report)}"
        ),
        stdout_is_data=folder is None,
        display=display,
    )
    raise typer.Exit(code)


def _open_stream(latents: Location) -> "LatentStream | None":
    """Open what comes on stdin; None where `latents` is a file or a folder. Raises `UsageError`, `StoreError`."""
    if latents != STDIO:
        _refuse_tar(latents)
        refuse_others(latents)
        return None
    stdin = open_stdin("what semdis encode -o - writes")

    from semdis_cli.pipeline.stream import LatentStream

    return LatentStream(stdin)


def _choose_folder(output: Path | None, stream: "LatentStream | None") -> Path | None:
    """Return the folder to write, None for stdout. Raises `UsageError` where neither can be."""
    from semdis_cli.files.claim import check_image_folder

    folder = output_folder(output, Path("decoded"), is_single=stream is not None and stream.is_single)
    if folder is not None:
        check_image_folder(folder, DECODE_MARKER)
    elif stream is None or not stream.is_single:
        raise UsageError("only a single image, given on stdin, can be decoded to stdout; give -o a folder")
    return folder


def _load_model(
    source: "LatentSource", name: str | None, how: TokenizerSettings, display: Display, reporting: Reporting
) -> "Tokenizer":
    """Load the model that made `source`, and say so."""
    from semdis_cli.pipeline.decode import load_recorded_model

    num_alike = len(source.keys) if source.provenance.has_few_sizes else 0
    tokenizer = load_recorded_model(source, name, how, num_alike)
    announce(tokenizer, reporting.quiet, display.say)
    return tokenizer


def _refuse_tar(latents: Location) -> None:
    """Raise `UsageError` if `latents` is a tar, and say how that is decoded."""
    from semdis_cli.files.tar import is_tar_start

    if isinstance(latents, Url) or not latents.is_file():
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
    latents: "LatentSource | LatentStream", tokenizer: "Tokenizer", settings: DecodeSettings, folder: Path | None
) -> Iterator[Event]:
    from semdis_cli.pipeline.decode import decode as decode_set
    from semdis_cli.pipeline.stream import LatentStream, decode_single, decode_stream

    if not isinstance(latents, LatentStream):
        assert folder is not None, "a set is decoded into a folder"
        return decode_set(latents, tokenizer, settings, folder)
    if folder is None:
        return decode_single(latents, tokenizer, settings, put_bytes)
    return decode_stream(latents, tokenizer, settings, folder)
