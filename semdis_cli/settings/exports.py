"""Settings of `export`."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from semdis_cli.files.disk import count_cores
from semdis_cli.option import (
    OUTPUT,
    Group,
    Option,
    OptionError,
)
from semdis_cli.parts import QUANTISED
from semdis_cli.settings.inputs import Workers

ExportFormat = Literal[
    "webdataset",
    "safetensors",
    "npy",
    "parquet",
    "mds",
    "litdata",
    "lightningdit",
    "edm2",
    "mar",
    "kohya",
    "micro_diffusion",
]
# Files of many images, and the latents of each as they lie in memory.
ROW_FORMATS = ("parquet", "mds", "litdata", "micro_diffusion")
CHUNK_FORMATS = ("mds", "litdata", "micro_diffusion")  # of these, those that begin with the places of their rows
TRAINER_FORMATS = ("lightningdit", "edm2", "mar", "kohya")  # raw latents, as one trainer reads them
Member = Literal["safetensors", "npy"]
ArrayDtype = Literal["float32", "float16"]
SampleNames = Literal["key", "stem", "basename"]
_MAX_CHUNK_MIB = 2048  # half of what 32 bits can say: sizes are estimates


@dataclass(frozen=True)
class ExportSettings(Group):
    """Settings of an export.

    `tar_member`: what the latents of an image are in a webdataset, None for safetensors. `dtype`: the dtype of
    npy, lightningdit and `ROW_FORMATS`; None: one that loses nothing. `tar_mib` (about, MiB) counts for webdataset and
    `ROW_FORMATS`, `sample_names` for webdataset alone: samples are called by the key, or as those that the images came
    from. `twins` (lightningdit, mar) and `std`
    (edm2, mar): of the set, or what stands in for what it does not have. `arch`: of kohya. Raises `OptionError` for
    what has no effect.
    """

    format: Annotated[
        ExportFormat,
        Option(
            "webdataset: tars of samples; parquet, mds, litdata: rows; safetensors, npy: one file an image; or what "
            "a trainer reads: lightningdit, edm2, mar, kohya, micro_diffusion.",
            OUTPUT,
            metavar="NAME",
        ),
    ] = "webdataset"
    tar_member: Annotated[
        Member | None,
        Option(
            "What latents are in a webdataset.  [default: safetensors]", OUTPUT, flags="--member", show_default=False
        ),
    ] = None
    dtype: Annotated[
        ArrayDtype | None,
        Option(
            "Of npy, mds and litdata, which have no bfloat16, parquet and lightningdit; float16 may lose digits.  "
            "[default: what loses none]",
            OUTPUT,
            show_default=False,
        ),
    ] = None
    sample_names: Annotated[
        SampleNames,
        Option(
            "Of a webdataset: by the whole key, or as the images' own samples are called, to be joined with captions: "
            "the path up to the first dot of the name (stem), or that without folders (basename).",
            OUTPUT,
        ),
    ] = "key"
    tar_mib: Annotated[
        int,
        Option(
            "Size of a tar, or another file of many images, about, MiB.",
            OUTPUT,
            flags="--tar-size",
            min=1,
            metavar="MIB",
        ),
    ] = 256
    twins: Annotated[
        Literal["mirrored", "same"],
        Option(
            "Of lightningdit and mar, which draw one of two latents each time: those of the mirrored image, or the "
            "same again.",
            OUTPUT,
        ),
    ] = "mirrored"
    std: Annotated[
        Literal["posterior", "zero"],
        Option(
            "Of edm2 and mar, which draw latents from mean and deviation: the posterior's, or none.",
            OUTPUT,
        ),
    ] = "posterior"
    arch: Annotated[
        str,
        Option("Of kohya: the end of the names by which it knows its caches.", OUTPUT, metavar="NAME"),
    ] = "semdis"
    num_workers: Workers = field(default_factory=count_cores)

    def __post_init__(self) -> None:
        super().__post_init__()
        takes_dtype = self.member == "npy" or self.format in {"lightningdit", *ROW_FORMATS}
        if self.dtype is not None and not takes_dtype:
            others = ", ".join(("npy", "lightningdit", *ROW_FORMATS))
            raise OptionError("--dtype", f"goes with {others} alone: safetensors keep what is stored")
        if self.dtype == "float32" and self.format == "micro_diffusion":
            raise OptionError("--dtype", "is float16 for micro_diffusion, which reads nothing else")
        if self.tar_mib > _MAX_CHUNK_MIB and self.format in CHUNK_FORMATS:
            raise OptionError(
                "--tar-size", f"is at most {_MAX_CHUNK_MIB} for {self.format}: places in it are of 32 bits"
            )
        if not re.fullmatch(r"[0-9a-z-]{1,40}", self.arch):
            raise OptionError("--arch", f"is a name of small letters, digits and -, not {self.arch!r:.60}")
        for flag, is_default, formats in (
            ("--member", self.tar_member is None, ("webdataset",)),
            ("--sample-names", self.sample_names == "key", ("webdataset",)),
            ("--twins", self.twins == "mirrored", ("lightningdit", "mar")),
            ("--std", self.std == "posterior", ("edm2", "mar")),
            ("--arch", self.arch == "semdis", ("kohya",)),
        ):
            if not is_default and self.format not in formats:
                raise OptionError(flag, f"goes with --format {' and '.join(formats)} alone")

    @property
    def is_for_trainer(self) -> bool:
        """Tell whether one trainer reads it, and nothing else: raw latents, which prove nothing."""
        return self.format in TRAINER_FORMATS

    @property
    def member(self) -> Member:
        """Return the kind of file that the latents of one image are written as."""
        return self.tar_member or ("npy" if self.format == "npy" else "safetensors")

    def array_dtype(self, stored_dtype: str) -> ArrayDtype:
        """Return the dtype of arrays: what was asked for, or the smallest that holds the values without loss."""
        is_half = stored_dtype == "float16" and not self.is_for_trainer  # raw values are as fine as float32
        return self.dtype or ("float16" if is_half else "float32")

    def row_dtype(self, stored_dtype: str) -> str:
        """Return the dtype of latents in one of `ROW_FORMATS`: parquet holds any, micro_diffusion reads float16."""
        if self.format == "micro_diffusion":
            return "float16"
        keeps = self.format == "parquet" and stored_dtype not in QUANTISED
        return self.dtype or (stored_dtype if keeps else self.array_dtype(stored_dtype))

    @property
    def keeps_stored(self) -> bool:
        """Tell whether files hold what is stored, bit for bit: each is a shard of its own."""
        return self.format in {"webdataset", "safetensors"} and self.member == "safetensors"

    def has_no(self, stored_dtype: str) -> bool:
        """Tell whether the format itself is why values are written in another dtype than they are stored in."""
        return stored_dtype == "bfloat16" and (self.member == "npy" or self.format in CHUNK_FORMATS)

    def is_lossy(self, stored_dtype: str) -> bool:
        """Tell whether there may be values that do not survive."""
        if self.format in ROW_FORMATS:
            return self.row_dtype(stored_dtype) not in {"float32", stored_dtype}
        if self.is_for_trainer:
            return self.array_dtype(stored_dtype) != "float32"
        return self.member == "npy" and self.array_dtype(stored_dtype) not in {"float32", stored_dtype}

    def to_json(self, stored_dtype: str) -> dict[str, Any]:
        """Return all that decides a byte of the output."""
        if self.is_for_trainer:
            return {"format": self.format, "dtype": self.array_dtype(stored_dtype), **self._trainer_fields()}
        if self.format in ROW_FORMATS:
            return {"format": self.format, "dtype": self.row_dtype(stored_dtype), "tar_mib": self.tar_mib}
        fields: dict[str, Any] = {"format": self.format, "member": self.member}
        if self.member == "npy":
            fields["dtype"] = self.array_dtype(stored_dtype)
        if self.format == "webdataset":
            fields["tar_mib"] = self.tar_mib
        if self.format == "webdataset" and self.sample_names != "key":
            fields["sample_names"] = self.sample_names
        return fields

    def _trainer_fields(self) -> dict[str, Any]:
        """Those of the options of trainers that count for this one."""
        names = {"lightningdit": ("twins",), "edm2": ("std",), "mar": ("twins", "std"), "kohya": ("arch",)}
        return {name: getattr(self, name) for name in names[self.format]}
