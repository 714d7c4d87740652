"""Settings of the model and of how it runs."""

from dataclasses import dataclass
from typing import Annotated, Literal

from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.option import (
    MODEL,
    Group,
    Option,
)
from semdis_cli.settings.texts import parse_batch_size

DtypeName = Literal["auto", "bfloat16", "float32"]
CompileChoice = Literal["auto", "on", "off"]
Sampler = Literal["ddim", "dpmpp_2m"]
Schedule = Literal["linear", "cosine"]
NoiseKind = Literal["philox", "torch"]

Device = Annotated[str, Option("cpu, cuda, cuda:1, ...; auto takes CUDA if present.", MODEL, metavar="DEVICE")]
Dtype = Annotated[
    DtypeName, Option("What the network computes in; auto: bfloat16 where the device is fast at it.", MODEL)
]
Threads = Annotated[
    int | None,
    Option(
        "CPU threads of one model call; with 1, each core has a call of its own, which is faster.  [default: 1]",
        MODEL,
        flags="--threads",
        min=1,
    ),
]


@dataclass(frozen=True)
class ModelSettings:
    """Which model it is: bundled name, folder or repository id, and the revision of the last."""

    name: Annotated[
        str,
        Option(
            "Bundled model, folder with config.json and model.safetensors, or repository id.",
            MODEL,
            flags="--model",
            metavar="MODEL",
            envvar="SEMDIS_MODEL",
        ),
    ] = BUNDLED_MODEL
    revision: Annotated[str | None, Option("Branch, tag or commit of a repository id.", MODEL, metavar="REV")] = None


@dataclass(frozen=True)
class TokenizerSettings(Group):
    """Settings of running a model.

    `device`: "auto" (CUDA if present), "cpu", "cuda", "cuda:1", ... `dtype` "auto": bfloat16 where the device
    multiplies it in hardware. `batch_size`: images per model call; None chooses by image size, "auto" also by the free
    memory of a GPU. `num_threads`: CPU threads of one call; None is one on a CPU (calls in several threads use several
    cores, and bytes do not depend on how many there are), torch's choice elsewhere. `compile`: the blocks, once for
    every image size, where that pays (not with packed weights); "auto" asks how many images there are.
    """

    device: Device = "auto"
    dtype: Dtype = "auto"
    batch_size: Annotated[
        int | Literal["auto"] | None,
        Option(
            "Images of one model call; auto: fewer where a GPU's memory is short.  [default: by size and device]",
            MODEL,
            metavar="N|auto",
            parse=parse_batch_size,
        ),
    ] = None
    num_threads: Threads = None
    compile: Annotated[
        CompileChoice,
        Option(
            "Compile the network: takes a minute, then runs faster. auto: on a GPU, for 50,000 images and more of "
            "one --size or --bucket-size: every size is compiled anew.",
            MODEL,
        ),
    ] = "auto"
