"""The command line: one command per verb."""

from typing import Annotated

import typer

from semdis_cli import __version__
from semdis_cli.cli.attach import attach
from semdis_cli.cli.bench import bench
from semdis_cli.cli.decode import decode
from semdis_cli.cli.encode import encode
from semdis_cli.cli.eval import eval_
from semdis_cli.cli.export import export
from semdis_cli.cli.finish import finish
from semdis_cli.cli.import_ import import_
from semdis_cli.cli.init import init
from semdis_cli.cli.inspect import inspect
from semdis_cli.cli.plan import plan
from semdis_cli.cli.roundtrip import roundtrip
from semdis_cli.cli.streams import put
from semdis_cli.cli.train import train
from semdis_cli.cli.verify import verify

app = typer.Typer(
    name="semdis",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (encode, plan, finish, decode, roundtrip, export, attach, init, train, verify, inspect, bench):
    app.command()(command)
app.command("import")(import_)
app.command("eval")(eval_)


def _print_version(wanted: bool) -> None:
    if wanted:
        put(f"semdis {__version__}")
        raise typer.Exit


@app.callback()
def semdis(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Images to SemDisDiffAE latents, and back.

    Example: `semdis encode photos/`, then `semdis decode latents/`.
    """
