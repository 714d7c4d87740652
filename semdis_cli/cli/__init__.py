"""The terminal: the only code that knows Typer, Rich and exit codes."""


def main() -> None:
    """Entry point of the `semdis` script: runs a command and exits with its code."""
    from semdis_cli.cli.failures import run_guarded
    from semdis_cli.cli.garbage import collected_late
    from semdis_cli.cli.streams import install
    from semdis_cli.memory import keep_freed_blocks

    install()
    keep_freed_blocks()
    with collected_late():
        run_guarded(_run)


def _run() -> None:
    # Loaded where signals are heard already: from a slow disk that takes seconds.
    from semdis_cli.cli.app import app

    app(prog_name="semdis")
