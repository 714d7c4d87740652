"""Every setting of a run, once, in groups that commands take and verbs are given.

Those of training and of the bench are in their rooms. A type that stands apart from the groups is that of a setting
which several of them, or a command by itself, have. Nothing heavy is imported here: it is read before torch is loaded.
"""

import math
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.errors import UsageError
from semdis_cli.files.disk import count_cores
from semdis_cli.files.url import Location, parse_location
from semdis_cli.option import (
    COLUMNS,
    DECODING,
    GEOMETRY,
    INPUT,
    MODEL,
    OUTPUT,
    Group,
    Option,
    OptionError,
    check_limits,
)
from semdis_cli.parts import LATENTS, LOG_SNR, MASK, QUANTISED, TWINS
from semdis_cli.records import View

# ---- Texts that are read by ourselves ----


def parse_number_or_share(text: str, option: str) -> tuple[Fraction, bool]:
    """`10` or `0.5%` -> the number, and whether it is a percentage. Raises `UsageError` for more than 100 % too."""
    match = re.fullmatch(r"([0-9]{1,18})|([0-9]{1,18}(?:\.[0-9]{1,18})?)%", text)
    if match is None or (match[2] and Fraction(match[2]) > 100):
        raise UsageError(f"{option} is a number like 10, or a share up to 100% like 0.5%, not {text!r:.60}")
    return Fraction(match[1] or match[2]), match[1] is None


def _parse_batch_size(text: str) -> int | Literal["auto"]:
    """`32` or `auto`. Raises `UsageError`."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise UsageError(f"--batch-size is a number from 1 on, or auto, not {text!r:.60}")
    return int(text)


def _parse_size(text: str) -> int | tuple[int, ...]:
    """`256`, or `256,512` for several. Raises `ValueError`."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise ValueError(f"{text!r:.60} is no size; write 256, or 256,512 for several")
    sizes = tuple(map(int, text.split(",")))
    return sizes if len(sizes) > 1 else sizes[0]


def _parse_bucket(text: str) -> tuple[int, int]:
    """`512x288`, width by height -> (288, 512), height and width as everywhere else. Raises `ValueError`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if match is None:
        raise ValueError(f"{text!r:.60} is no bucket; write width and height like 512x288")
    return int(match[2]), int(match[1])


def _parse_colour(text: str) -> tuple[int, int, int]:
    """`#rrggbb` -> (red, green, blue), each 0..255. Raises `ValueError`."""
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text)
    if match is None:
        raise ValueError(f"{text!r} is no colour; write it like #ffffff")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue


def _spell_colour(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


@dataclass(frozen=True)
class ErrorLimit:
    """Limit of inputs that may fail: `value` of them or, if `is_share`, `value` percent. `text`: as the user wrote."""

    text: str
    value: Fraction
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> "ErrorLimit":
        """Read `10` or `0.5%`. Raises `UsageError`."""
        return cls(text, *parse_number_or_share(text, "--max-errors"))

    def is_exceeded(self, num_failed: int, num_inputs: int) -> bool:
        """Tell whether `num_failed` of `num_inputs` are too many; exactly, so 2 of 200 are not more than 1 %."""
        return num_failed > (self.value * num_inputs / 100 if self.is_share else self.value)


# ---- Inputs ----

MaxErrors = Annotated[
    ErrorLimit | None,
    Option(
        "Stop once more inputs failed: a number, or a share of all inputs like 1%.  [default: never]",
        INPUT,
        metavar="N|%",
        parse=ErrorLimit.parse,
    ),
]
Workers = Annotated[
    int,
    Option(
        "Threads that work at once: reading, writing and, on a CPU, model calls.  [default: CPU cores]",
        INPUT,
        flags="--workers",
        min=1,
    ),
]
JpegScaling = Annotated[
    bool,
    Option(
        "Decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is still twice what they are resized to: up to "
        "twice as fast, at slightly other pixels (45 dB and more); part of the record.",
        INPUT,
    ),
]


@dataclass(frozen=True)
class SourceSettings:
    """The inputs of a run: `sources`, and the paths in the list `files_from` (a file, or `-` for stdin).

    `null`: the list's paths end with NUL.
    """

    sources: Annotated[
        tuple[Location, ...],
        Option(
            "Folders (searched in depth), tars, zips, Parquet files, images, also as URLs (s3://bucket/photos/); for "
            "encode also -: a tar or image on stdin.",
            metavar="SOURCE...",
            show_default=False,
            is_argument=True,
            parse=parse_location,
        ),
    ] = ()
    files_from: Annotated[
        str | None, Option("Read paths from a file, or from stdin with '-': one a line.", INPUT, metavar="LIST|-")
    ] = None
    null: Annotated[bool, Option("The list's paths end with NUL (find -print0).", INPUT, flags="--null -0")] = False


Resize = Literal["lanczos", "adm"]


@dataclass(frozen=True, slots=True)
class GeometrySettings(Group):
    """Settings of the size of images; at most one of the first four is given, in pixels.

    None of them: its own size, padded at the bottom and right to a multiple of the model's patch.
    `size`: the short side is resized to N and the centre cut to NxN; of several, each image is brought to every one.
    `max_pixels`: scaled down, never up, to at most so many pixels at its own aspect ratio, then padded.
    `bucket_size`: resized to cover the bucket nearest in aspect ratio, and the centre cut out. Buckets have at most NxN
    pixels, sides that are multiples of 64 (and of the patch), and aspect ratios up to 4:1, as in the training of SDXL.
    `buckets`: the same with these, (H, W) each; of several with one aspect ratio the largest that an image fills
    without being enlarged, else the smallest.
    `resize`: "adm", which goes with `size` alone, is the centre crop that FIDs on ImageNet are defined over.
    """

    size: Annotated[
        int | tuple[int, ...] | None,
        Option(
            "Resize the short side to PX and cut the centre square; a multiple of the patch (16). Several, like "
            "256,512: every image in each, as a#256.jpg and a#512.jpg.",
            GEOMETRY,
            within=(1, math.inf),
            metavar="PX,...",
            parse=_parse_size,
        ),
    ] = None
    max_pixels: Annotated[
        int | None,
        Option("Native shape, but scaled down where an image has more than N pixels.", GEOMETRY, min=1, metavar="N"),
    ] = None
    bucket_size: Annotated[
        int | None,
        Option(
            "Aspect-ratio buckets of about PX x PX pixels, sides multiples of 64: resize to cover, cut the centre.",
            GEOMETRY,
            min=64,
            within=(1, math.inf),  # whether it is a multiple of 64 shows with the patch
            metavar="PX",
        ),
    ] = None
    buckets: Annotated[
        tuple[tuple[int, int], ...],
        Option(
            "A bucket, width by height, sides multiples of the patch; may be given often. An image gets the nearest in "
            "aspect ratio: resize to cover, cut the centre.",
            GEOMETRY,
            flags="--bucket",
            metavar="WxH",
            parse=_parse_bucket,
        ),
    ] = ()
    resize: Annotated[
        Resize,
        Option("adm: with --size, the very centre crop of ADM (halve by box, then bicubic) as FID uses it.", GEOMETRY),
    ] = "lanczos"

    @property
    def sizes(self) -> tuple[int, ...]:
        """All of `size`, rising."""
        if self.size is None:
            return ()
        return tuple(sorted(self.size)) if isinstance(self.size, tuple) else (self.size,)

    @property
    def has_few_sizes(self) -> bool:
        """Tell whether all images together have one size, or some tens of them."""
        return self.size is not None or self.bucket_size is not None or bool(self.buckets)

    def __post_init__(self) -> None:
        ways = {"--max-pixels": self.max_pixels, "--size": self.size, "--bucket-size": self.bucket_size}
        given = [flag for flag, value in ways.items() if value is not None] + ["--bucket"] * bool(self.buckets)
        if len(given) > 1:
            raise UsageError(f"give only one of {', '.join(given)}")
        if isinstance(self.size, tuple) and (min(self.size, default=0) < 1 or len({*self.size}) < len(self.size)):
            raise UsageError(f"--size takes several sizes from 1 px on, each once, not {self.size}")
        if self.resize == "adm" and self.size is None:
            raise OptionError("--resize", "adm goes with --size alone: it cuts a square")
        check_limits(self)

    def to_json(self) -> dict[str, Any]:
        """Return what is on record of them: what came later only where it is asked for, so that old records stay."""
        size = list(self.sizes) if isinstance(self.size, tuple) else self.size
        record: dict[str, Any] = {"size": size, "max_pixels": self.max_pixels, "bucket_size": self.bucket_size}
        if self.buckets:
            record["buckets"] = sorted(map(list, set(self.buckets)))
        return record if self.resize == "lanczos" else record | {"resize": self.resize}


@dataclass(frozen=True, slots=True)
class ReadSettings(Group):
    """Settings of reading files. `background`: sRGB colour behind transparent pixels, 0..255 each.

    `max_image_pixels`: an image of more pixels is refused from its header, before anything is decoded; by default that
    is 0.5 GiB as RGB, which Pillow refuses by itself too.
    `jpeg_scaling`: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still at least twice the size that
    it is going to get: faster, and not quite the same pixels (photographs: 45 dB and more to the exact ones).
    """

    background: Annotated[
        tuple[int, int, int],
        Option(
            "Colour behind transparent pixels, sRGB.",
            INPUT,
            metavar="#RRGGBB",
            parse=_parse_colour,
            spell=_spell_colour,
        ),
    ] = (255, 255, 255)
    max_image_pixels: Annotated[
        int, Option("Refuse images with more pixels than this: a guard against bombs.", INPUT, min=1)
    ] = 178_956_970
    jpeg_scaling: JpegScaling = False

    def __post_init__(self) -> None:
        if not all(0 <= value <= 255 for value in self.background):
            raise UsageError(f"the background is three values in 0..255, not {self.background}")
        check_limits(self)


@dataclass(frozen=True)
class FilterSettings(Group):
    """Settings of which images are left out; these are counted and listed, and are no failures.

    `min_size`: those whose short side is below it, in px. `max_aspect`: those whose long side is more than so many
    times the short one. `no_upscale`: those that `--size` or a bucket would enlarge. `dedupe`: of files with the same
    bytes all but the first by key.
    """

    min_size: Annotated[
        int | None, Option("Leave out images whose short side is below PX.", INPUT, min=1, metavar="PX")
    ] = None
    max_aspect: Annotated[
        float | None,
        Option("Leave out images whose long side is more than R times the short one.", INPUT, min=1, metavar="R"),
    ] = None
    no_upscale: Annotated[bool, Option("Leave out images that would be enlarged.", INPUT, flags="--no-upscale")] = False
    dedupe: Annotated[
        bool,
        Option(
            "Of files with the same bytes take the first by key, and leave out the others.", INPUT, flags="--dedupe"
        ),
    ] = False

    @property
    def need_sizes(self) -> bool:
        """Tell whether the size of each image has to be known."""
        return self.min_size is not None or self.max_aspect is not None or self.no_upscale

    def check(self, geometry: GeometrySettings) -> None:
        """Raise `OptionError` for a filter that nothing could be left out by."""
        if self.no_upscale and not geometry.has_few_sizes:
            raise OptionError("--no-upscale", "goes with --size, --bucket-size or --bucket: nothing else enlarges")


Seed = Annotated[
    int,
    Option(
        "Seed of all noise; each image has its own, from seed and name.", OUTPUT, flags="--seed", min=0, max=2**63 - 1
    ),
]


@dataclass(frozen=True)
class CropSettings(Group):
    """Settings of several crops of each image, `number` of them, at places that `seed` decides."""

    number: Annotated[
        int | None,
        Option(
            "Instead of the centre cut K crops at random places out of each resized image, as a#crop1.jpg and so on; "
            "--seed decides where.",
            GEOMETRY,
            flags="--crops",
            min=1,
            max=1000,
            metavar="K",
        ),
    ] = None
    seed: Seed = 0


@dataclass(frozen=True)
class LoadSettings:
    """Settings of the pixels that a model sees: how files are read, which size they get, and how they are cut."""

    geometry: GeometrySettings = GeometrySettings()
    read: ReadSettings = ReadSettings()
    crops: CropSettings = CropSettings()

    @property
    def views(self) -> tuple[View, ...]:
        """The images that are made of every file."""
        sizes = self.geometry.sizes if len(self.geometry.sizes) > 1 else (None,)
        crops = (None,) if self.crops.number is None else range(1, self.crops.number + 1)
        return tuple(View(size, crop) for size in sizes for crop in crops)

    def geometry_of(self, view: View) -> GeometrySettings:
        """Return the settings of the size of one of the `views`, its crop left aside."""
        return self.geometry if view.size is None else replace(self.geometry, size=view.size)

    def geometry_record(self) -> dict[str, Any]:
        """Return what is on record of size and crops. How many crops there are is none of it: a set can have more."""
        record = self.geometry.to_json()
        return record if self.crops.number is None else record | {"crop_seed": self.crops.seed}

    def __post_init__(self) -> None:
        if self.crops.number is not None and not self.geometry.has_few_sizes:
            raise OptionError("--crops", "goes with --size, --bucket-size or --bucket: nothing else is cut")
        if self.geometry.resize == "adm" and self.read.jpeg_scaling:
            raise OptionError("--jpeg-scaling", "does not go with --resize adm, which is about exact pixels")


# ---- Model ----

DtypeName = Literal["auto", "bfloat16", "float32"]
CompileChoice = Literal["auto", "on", "off"]
Sampler = Literal["ddim", "dpmpp_2m"]
Schedule = Literal["linear", "cosine"]

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
            parse=_parse_batch_size,
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


# ---- Latents ----

StoreDtype = Literal["bfloat16", "float16", "float32", "float8_e4m3", "int8"]
Posterior = Literal["mode", "sample", "moments"]
Flip = Literal["none", "both"]
Alpha = Literal["composite", "mask"]


@dataclass(frozen=True)
class LatentSettings(Group):
    """Settings of the stored latents: part of the posterior, and dtype. `seed` counts for posterior "sample" alone."""

    store_dtype: Annotated[
        StoreDtype,
        Option(
            "What latents are stored in: bfloat16, float16 or float32; float8_e4m3 or int8, a byte a value and a scale "
            "for each image and channel.",
            OUTPUT,
            metavar="DTYPE",
        ),
    ] = "bfloat16"
    posterior: Annotated[
        Posterior,
        Option(
            "Store the posterior's mode, or a sample of it drawn from --seed, or moments: mode and log-SNR, for "
            "training to sample from.",
            OUTPUT,
        ),
    ] = "mode"
    seed: Seed = 0

    @property
    def sample_seed(self) -> int | None:
        """Seed of the posterior samples, or None for the mode."""
        return self.seed if self.posterior == "sample" else None


@dataclass(frozen=True)
class PartSettings(LatentSettings):
    """Settings of what a set stores: the latents, and the parts beside them.

    `flip` "both": each image's twin too, the latents of its mirrored pixels. `alpha` "mask": how much of each position
    is opaque. `masks`: folder of pictures that say instead how much of each position counts.
    """

    flip: Annotated[
        Flip, Option("both: also store latents of each image's mirrored pixels, for training to choose from.", OUTPUT)
    ] = "none"
    alpha: Annotated[
        Alpha,
        Option(
            "Transparent pixels are laid over --background; mask: also store how much of each position is opaque, for "
            "masked losses.",
            INPUT,
        ),
    ] = "composite"
    masks: Annotated[
        Path | None,
        Option(
            "Folder of grey pictures named as the images, white where training is to count: how much of each position "
            "does is stored.",
            INPUT,
            metavar="FOLDER",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha == "mask" and self.masks is not None:
            raise OptionError("--alpha", "mask does not go with --masks: a set has masks of one kind")

    @property
    def mask_source(self) -> Literal["alpha", "files"] | None:
        """Return where masks come from; None: there are none."""
        if self.masks is not None:
            return "files"
        return "alpha" if self.alpha == "mask" else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, sorted."""
        tensors = [LATENTS, *[LOG_SNR] * (self.posterior == "moments"), *[MASK] * (self.mask_source is not None)]
        twins = [TWINS[name] for name in tensors] if self.flip == "both" else []
        return tuple(sorted((*tensors[1:], *twins)))


@dataclass(frozen=True)
class ShardSettings(Group):
    """Settings of cutting a set: shards of about `shard_mib` MiB, or of exactly `shard_images` images.

    `mix_versions`: go on in a set that other versions of what computes and reads have begun.
    """

    shard_mib: Annotated[int, Option("Size of a shard, MiB.", OUTPUT, flags="--shard-size", min=1, metavar="MIB")] = 256
    shard_images: Annotated[
        int | None,
        Option("Exactly N images a shard, whatever its size.", OUTPUT, min=1, max=65536, metavar="N"),
    ] = None
    mix_versions: Annotated[
        bool,
        Option(
            "Go on in a set that other versions of torch, Pillow, the kernels or another device have begun: latents "
            "may differ in last bits, and the set says which version made which.",
            OUTPUT,
        ),
    ] = False


# ---- Columns ----

AUTO, NONE, FOLDERS = "auto", "none", "folders"


@dataclass(frozen=True)
class ColumnSettings(Group):
    """Settings of what comes with an image: where captions, labels and other columns are taken from.

    "auto" takes what is found by itself where it is plain, "none" nothing. Everything else is a name: that of a column
    of the table, of a field of the `.json` beside an image, or the suffix of another file there. `columns`: names of
    more, with commas between them. `on`: the column of `table` that names the images; None: `key` or `file_name`.
    Raises `OptionError` for options that contradict each other.
    """

    captions: Annotated[
        str,
        Option(
            "Captions: a column of the table, or what lies beside an image (txt, caption, a field of its json).",
            COLUMNS,
            metavar="auto|none|NAME",
        ),
    ] = AUTO
    caption_lines: Annotated[bool, Option("Each line of a text is a caption of its own.", COLUMNS)] = False
    labels: Annotated[
        str,
        Option(
            "Labels: the folders at the top of the source are the classes, or as --captions.",
            COLUMNS,
            metavar="auto|none|folders|NAME",
        ),
    ] = AUTO
    columns: Annotated[
        str, Option("More columns, by name; auto: all of a table.", COLUMNS, metavar="auto|none|A,B")
    ] = AUTO
    table: Annotated[
        Path | None,
        Option("Table of captions and the like: JSONL, CSV, TSV, JSON or Parquet.", COLUMNS, metavar="FILE"),
    ] = None
    on: Annotated[
        str | None,
        Option("Column of the table that names the images.  [default: key or file_name]", COLUMNS, metavar="COLUMN"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on is not None and self.table is None:
            raise OptionError("--on", "goes with --table")
        if self.table is not None and not self.is_any:
            raise OptionError("--table", "is of no use where --captions, --labels and --columns are none")
        if self.caption_lines and self.captions == NONE:
            raise OptionError("--caption-lines", "is of no use where --captions is none")
        names = self.column_names
        if not all(names) or len(set(names)) < len(names) or {AUTO, NONE} & set(names):
            raise OptionError("--columns", f"is auto, none, or names like a,b, not {self.columns!r:.60}")
        if "caption" in names or "label" in names:
            raise OptionError("--columns", "names others than caption and label: these are --captions and --labels")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns that were asked for by `columns`."""
        return () if self.columns in {AUTO, NONE} else tuple(name.strip() for name in self.columns.split(","))

    @property
    def is_any(self) -> bool:
        """Tell whether images get any columns."""
        return (self.captions, self.labels, self.columns) != (NONE, NONE, NONE)

    @property
    def is_explicit(self) -> bool:
        """Tell whether any of them was asked for, not just what is found by itself."""
        ways = self.captions, self.labels, self.columns
        return self.table is not None or self.caption_lines or not {AUTO, NONE}.issuperset(ways)


WITHOUT_COLUMNS = ColumnSettings(NONE, labels=NONE, columns=NONE)


@dataclass(frozen=True)
class EncodeSettings(Group):
    """An encode, beyond its inputs, how they are read, and the model. Of these only `latents` decides their bytes."""

    max_errors: MaxErrors = None
    filters: FilterSettings = FilterSettings()
    num_workers: Workers = field(default_factory=count_cores)
    columns: ColumnSettings = ColumnSettings()
    latents: PartSettings = PartSettings()
    shards: ShardSettings = ShardSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.filters.dedupe and self.latents.masks is not None:
            raise OptionError("--dedupe", "does not go with --masks: files with the same bytes may have different ones")


# ---- Images ----

ImageFormat = Literal["png", "jpg", "webp"]


@dataclass(frozen=True)
class SamplingSettings(Group):
    """Settings of decoding: `num_steps` evaluations of the decoder, twice as many with `pdg`."""

    num_steps: Annotated[
        int,
        Option(
            "Decoder evaluations: 1 for best PSNR, 10 with --pdg for sharpness.",
            DECODING,
            flags="--steps",
            min=1,
            max=1000,
        ),
    ] = 1
    pdg: Annotated[bool, Option("Path-drop guidance: sharper, at twice the cost.", DECODING)] = False
    pdg_strength: Annotated[float, Option("Strength of --pdg; 1 is none.", DECODING)] = 2.0
    sampler: Annotated[Sampler, Option("How steps are taken.", DECODING)] = "ddim"
    schedule: Annotated[Schedule, Option("How the steps' times are spaced.", DECODING)] = "linear"

    def __post_init__(self) -> None:
        check_limits(self)
        if not math.isfinite(self.pdg_strength):
            raise UsageError(f"pdg_strength must be a finite number, not {self.pdg_strength!r}")


@dataclass(frozen=True)
class WriteSettings(Group):
    """`format` of the files; `quality` 1..100 for jpg and webp (PNG is lossless and ignores it)."""

    format: Annotated[ImageFormat, Option("Format of the images.", OUTPUT)] = "png"
    quality: Annotated[int, Option("Quality of jpg and webp, 1..100; png is lossless.", OUTPUT, min=1, max=100)] = 95


@dataclass(frozen=True)
class DecodeSettings(Group):
    """Settings of decoding into image files. `seed`: of the starting noise; each image has its own from it."""

    sampling: SamplingSettings = SamplingSettings()
    seed: Seed = 0
    write: WriteSettings = WriteSettings()
    num_workers: Workers = field(default_factory=count_cores)


@dataclass(frozen=True)
class RoundtripSettings:
    """Encoding and decoding in one go: what latents pass through, and what becomes of them."""

    max_errors: MaxErrors = None
    latents: LatentSettings = LatentSettings()
    decode: DecodeSettings = field(default_factory=DecodeSettings)

    def __post_init__(self) -> None:
        if self.latents.posterior == "moments":
            raise OptionError("--posterior", "is mode or sample here: of moments the mode is decoded")


# ---- Exports ----

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
