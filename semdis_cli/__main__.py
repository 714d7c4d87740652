"""`python -m semdis_cli` is the same as `semdis`."""

from semdis_cli.cli import main

main()
