"""Every setting of a run, once, in groups that commands take and verbs are given.

Those of training and of the bench are in their rooms. A type that stands apart from the groups is that of a setting
which several of them, or a command by itself, have. Nothing heavy is imported here: it is read before torch is loaded.
"""

from semdis_cli.settings.columns import AUTO, FOLDERS, NONE, WITHOUT_COLUMNS, ColumnSettings
from semdis_cli.settings.decode import DecodeSettings, ImageFormat, RoundtripSettings, SamplingSettings, WriteSettings
from semdis_cli.settings.encode import EncodeSettings
from semdis_cli.settings.exports import (
    CHUNK_FORMATS,
    ROW_FORMATS,
    TRAINER_FORMATS,
    ArrayDtype,
    ExportFormat,
    ExportSettings,
    Member,
    SampleNames,
)
from semdis_cli.settings.inputs import (
    CropSettings,
    FilterSettings,
    GeometrySettings,
    JpegScaling,
    LoadSettings,
    MaxErrors,
    ReadSettings,
    Resize,
    Seed,
    SourceSettings,
    Workers,
)
from semdis_cli.settings.latent_eval import LatentEvalSettings, PictureSettings
from semdis_cli.settings.latents import Alpha, Flip, LatentSettings, PartSettings, Posterior, ShardSettings, StoreDtype
from semdis_cli.settings.measures import MeasureSettings, MetricName
from semdis_cli.settings.model import (
    CompileChoice,
    Device,
    Dtype,
    DtypeName,
    ModelSettings,
    NoiseKind,
    Sampler,
    Schedule,
    Threads,
    TokenizerSettings,
)
from semdis_cli.settings.processes import ProcessSettings
from semdis_cli.settings.texts import ErrorLimit, parse_number_or_share

__all__ = [
    "AUTO",
    "CHUNK_FORMATS",
    "FOLDERS",
    "NONE",
    "ROW_FORMATS",
    "TRAINER_FORMATS",
    "WITHOUT_COLUMNS",
    "Alpha",
    "ArrayDtype",
    "ColumnSettings",
    "CompileChoice",
    "CropSettings",
    "DecodeSettings",
    "Device",
    "Dtype",
    "DtypeName",
    "EncodeSettings",
    "ErrorLimit",
    "ExportFormat",
    "ExportSettings",
    "FilterSettings",
    "Flip",
    "GeometrySettings",
    "ImageFormat",
    "JpegScaling",
    "LatentEvalSettings",
    "LatentSettings",
    "LoadSettings",
    "MaxErrors",
    "MeasureSettings",
    "Member",
    "MetricName",
    "ModelSettings",
    "NoiseKind",
    "PartSettings",
    "PictureSettings",
    "Posterior",
    "ProcessSettings",
    "ReadSettings",
    "Resize",
    "RoundtripSettings",
    "SampleNames",
    "Sampler",
    "SamplingSettings",
    "Schedule",
    "Seed",
    "ShardSettings",
    "SourceSettings",
    "StoreDtype",
    "Threads",
    "TokenizerSettings",
    "Workers",
    "WriteSettings",
    "parse_number_or_share",
]
