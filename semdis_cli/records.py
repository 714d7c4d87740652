"""Frozen records that travel between the boxes: tensors and plain values; no behaviour but arithmetic and JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from semdis_cli.events import Failure

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One input, named but not read yet.

    `key` is its identity: a relative POSIX path with extension, unique within a run. `path` is where its bytes are: the
    whole file or, with `offset`, `num_bytes` of it from there on (a member of a tar). `mtime_ns`, `ctime_ns`: when the
    file was last modified, and changed in any way, nanoseconds since 1970; None where nobody looked.
    """

    key: str
    path: Path | str  # a string from a folder: a million paths would take 8 seconds and 300 MB to make
    num_bytes: int
    mtime_ns: int | None = None
    offset: int | None = None
    ctime_ns: int | None = None


class HeldImage(NamedTuple):
    """An image that a set has a row for: size and sha256 (hex) of its file then, None where they were not found out."""

    key: str
    num_bytes: int | None
    sha256: str | None


_CLOCK_GRAIN_NS = 2_000_000_000


def settled_before(now_ns: int) -> int:
    """Times of files before this one are settled: a change that is still to come cannot get one of them.

    That is not so for the last two seconds, the grain of the coarsest file systems, nor for the future.
    """
    return now_ns - _CLOCK_GRAIN_NS


def is_telling(ctime_ns: int | None) -> TypeGuard[int]:
    """Tell whether `ctime_ns` is one at all: file systems that have none say 0."""
    return ctime_ns is not None and ctime_ns > 0


def settled_mtime(mtime_ns: int | None, ctime_ns: int | None, now_ns: int) -> int | None:
    """`mtime_ns` if a later change of the file would show in its times, else None.

    Where there is a `ctime_ns`, it has to be settled, and then `mtime_ns` may lie in the future: programs can set it.
    """
    settled_ns = settled_before(now_ns)
    if mtime_ns is None or (is_telling(ctime_ns) and ctime_ns >= settled_ns):
        return None
    may_be_future = is_telling(ctime_ns) and mtime_ns > now_ns
    return mtime_ns if mtime_ns < settled_ns or may_be_future else None


@dataclass(frozen=True, slots=True)
class Geometry:
    """What happened between the upright source image and the model's input; all sizes in pixels, (height, width).

    source -> resize to `resized` -> cut the box of size `image` at `crop` (top, left) -> repeat the last row and column
    until the size is `bucket`. Decoding undoes the last step: what comes back has the size `image`.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    image: tuple[int, int]
    bucket: tuple[int, int]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The five sizes, in the order of the fields."""
        return self.source, self.resized, self.crop, self.image, self.bucket

    def to_json(self) -> dict[str, list[int]]:
        """As plain lists, ready for `json.dumps`."""
        return {name: list(getattr(self, name)) for name in GEOMETRY_FIELDS}

    @classmethod
    def from_json(cls, value: object) -> "Geometry":
        """The geometry that `to_json` wrote. `value` is not trusted: `ValueError` says what is wrong with it."""
        if not isinstance(value, dict) or value.keys() != set(GEOMETRY_FIELDS):
            raise ValueError(f"a geometry has the fields {', '.join(GEOMETRY_FIELDS)}")
        geometry = cls(**{name: _pair(name, value[name]) for name in GEOMETRY_FIELDS})
        for axis in (0, 1):
            if geometry.crop[axis] + geometry.image[axis] > geometry.resized[axis]:
                raise ValueError(f"geometry: the box of {geometry.image} at {geometry.crop} leaves {geometry.resized}")
            if geometry.image[axis] > geometry.bucket[axis]:
                raise ValueError(f"geometry: the image {geometry.image} does not fit its bucket {geometry.bucket}")
        return geometry


GEOMETRY_FIELDS = ("source", "resized", "crop", "image", "bucket")


def _pair(name: str, value: object) -> tuple[int, int]:
    """Two integers from JSON: sizes from 1, the crop's corner from 0 on."""
    smallest = 0 if name == "crop" else 1
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int for side in value):
        raise ValueError(f"geometry: {name} must be two integers, not {str(value)[:40]}")
    if not all(smallest <= side < 2**31 for side in value):
        raise ValueError(f"geometry: {name} is out of range: {str(value)[:40]}")
    return value[0], value[1]


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One input and the bucket (H, W) in pixels that it is going to have."""

    source: SourceImage
    bucket: tuple[int, int]


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size in bytes and sha256 (hex) of a file's content."""

    num_bytes: int
    sha256: str


NO_COLUMNS: Mapping[str, Any] = MappingProxyType({})  # one for all: most images have none


def _no_columns() -> Mapping[str, Any]:
    return NO_COLUMNS


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """Everything that a set knows of one image but its latents.

    `source`: size and sha256 of the file that it was read from. `notes`: what a reader of the index should know about
    the colours or orientation (e.g. an ICC profile that was unusable). `columns`: a small JSON object of what came with
    the image, by name; the index holds it, shards do not, so it can change without new latents.
    """

    key: str
    geometry: Geometry
    source: FileDigest
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=_no_columns, hash=False)


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """One image as the model will see it.

    `pixels`: [3,H,W] uint8 sRGB, (H,W) = `record.geometry.bucket`. `mtime_ns`, `ctime_ns` of the file before it was
    read; `mtime_ns` is None if a later change would not show in them.
    """

    record: ImageRecord
    pixels: "Tensor"
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as it is stored: `latents` [Z,h,w] in the stored dtype, all finite. Times as in `LoadedImage`."""

    record: ImageRecord
    latents: "Tensor"
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of one bucket, in key order, and the inputs among them that failed. `read_s` is wall-clock seconds."""

    images: tuple[LoadedImage, ...]
    failures: tuple[Failure, ...]
    read_s: float
