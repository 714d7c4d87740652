"""`python -m semdis_cli` is the same as `semdis`."""

from semdis_cli.cli import main

if __name__ == "__main__":
    main()
