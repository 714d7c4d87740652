"""Settings of sources, of how their images are read, and of which sizes and views they get."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from semdis_cli.errors import UsageError
from semdis_cli.files.url import Location, parse_location
from semdis_cli.option import (
    GEOMETRY,
    INPUT,
    OUTPUT,
    Group,
    Option,
    OptionError,
    check_limits,
)
from semdis_cli.records import View
from semdis_cli.settings.texts import ErrorLimit, parse_bucket, parse_colour, parse_size, spell_colour

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
        "Threads, beside a GPU processes, that work at once: reading, writing and, on a CPU, model calls.  "
        "[default: CPU cores]",
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
DecodeOn = Literal["cpu", "cuda"]


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
            parse=parse_size,
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
            parse=parse_bucket,
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
    `decode_on`: "cuda", what decodes JPEGs that are built as nearly all are, and resizes them; a CPU has the others.
    """

    background: Annotated[
        tuple[int, int, int],
        Option(
            "Colour behind transparent pixels, sRGB.",
            INPUT,
            metavar="#RRGGBB",
            parse=parse_colour,
            spell=spell_colour,
        ),
    ] = (255, 255, 255)
    max_image_pixels: Annotated[
        int, Option("Refuse images with more pixels than this: a guard against bombs.", INPUT, min=1)
    ] = 178_956_970
    jpeg_scaling: JpegScaling = False
    decode_on: Annotated[
        DecodeOn,
        Option(
            "cuda: decode JPEGs on the GPU of the model (nvJPEG) and resize them there: slightly other pixels; part of "
            "the record.",
            INPUT,
        ),
    ] = "cpu"

    def __post_init__(self) -> None:
        if self.decode_on == "cuda" and self.jpeg_scaling:
            raise OptionError("--jpeg-scaling", "does not go with --decode-on cuda, which decodes at full size")
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
        if self.geometry.resize == "adm" and self.read.decode_on == "cuda":
            raise OptionError("--decode-on", "cuda does not go with --resize adm, which is about exact pixels")
