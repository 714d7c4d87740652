"""The formats of an export by name."""

from semdis_cli.pipeline.export_sinks.edm2 import Edm2Sink
from semdis_cli.pipeline.export_sinks.files import ArraySink, FileSink
from semdis_cli.pipeline.export_sinks.kohya import KohyaSink
from semdis_cli.pipeline.export_sinks.lightningdit import LightningDiTSink
from semdis_cli.pipeline.export_sinks.litdata import LitDataSink
from semdis_cli.pipeline.export_sinks.mar import MarSink
from semdis_cli.pipeline.export_sinks.mds import MdsSink, MicroDiffusionSink
from semdis_cli.pipeline.export_sinks.parquet import ParquetSink
from semdis_cli.pipeline.export_sinks.sink import Sink
from semdis_cli.pipeline.export_sinks.tars import TarSink
from semdis_cli.settings import ExportFormat

SINKS: dict[ExportFormat, type[Sink]] = {
    "webdataset": TarSink,
    "safetensors": FileSink,
    "npy": ArraySink,
    "parquet": ParquetSink,
    "mds": MdsSink,
    "litdata": LitDataSink,
    "lightningdit": LightningDiTSink,
    "edm2": Edm2Sink,
    "mar": MarSink,
    "kohya": KohyaSink,
    "micro_diffusion": MicroDiffusionSink,
}
