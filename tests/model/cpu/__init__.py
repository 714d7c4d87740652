"""Tests of `semdis_cli.model.cpu`."""
