"""The formats of an export. Each is a sink for samples in a module of its own, named in `registry`."""
