"""The formats of an export by name."""

from semdis_cli.pipeline.export_sinks.files import ArraySink, FileSink
from semdis_cli.pipeline.export_sinks.sink import Sink
from semdis_cli.pipeline.export_sinks.tars import TarSink
from semdis_cli.settings import ExportFormat

SINKS: dict[ExportFormat, type[Sink]] = {"webdataset": TarSink, "safetensors": FileSink, "npy": ArraySink}
