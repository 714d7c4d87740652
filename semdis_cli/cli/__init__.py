"""The terminal: the only code that knows Typer, Rich and exit codes."""

from semdis_cli.cli.app import main as main
