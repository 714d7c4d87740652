"""Frozen records that travel between the boxes: tensors and plain values; no behaviour but arithmetic and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from semdis_cli.events import ColumnTrouble
from semdis_cli.parts import LATENTS

if TYPE_CHECKING:
    from torch import Tensor

MAX_COLUMNS_BYTES = 1 << 16  # of one image's columns as JSON in UTF-8: captions fit, pictures do not
MAX_BESIDE_BYTES = 1 << 20  # of one file that lies beside an image: a `.json` holds more than what is taken of it


class Stamp(NamedTuple):
    """Size and times by which a change of an image's content is told without reading it.

    `mtime_ns`, `ctime_ns`: when its file was last modified, and changed in any way, nanoseconds since 1970; None where
    nobody looked, or where they tell nothing. Of a file in a store, `ctime_ns` is a number that follows from its ETag:
    like a time of change it is another one after every change, and nobody can set it.
    """

    num_bytes: int
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class ImageReader(Protocol):
    """Reads images of one kind of source, wherever their bytes lie. Safe to use from several threads."""

    @property
    def has_one_file(self) -> bool:
        """Tell whether all its images lie in one file, and have the times of that."""

    @property
    def is_far(self) -> bool:
        """Tell whether every reading waits for a network, so that many are to be under way at a time."""

    def for_process(self) -> "ImageReader | None":
        """Return what another process reads the same images with, if it is sent there.

        It need not know what lies beside them. None: this process alone can read them.
        """

    def open(self, image: "SourceImage") -> BufferedReader | BytesIO:
        """Open an image, from its first byte to its last.

        Raises `OSError`, and `UnreadableImageError` for what is no regular file or was changed meanwhile.
        """

    def stamp(self, image: "SourceImage") -> Stamp:
        """Return size and times of an image as they are now. Raises `OSError`."""

    def locate(self, image: "SourceImage") -> tuple[str, object]:
        """Return the path of the file that holds an image, and what tells the image from others in that file."""


@runtime_checkable
class ColumnSource(Protocol):
    """Reader that also gives what lies beside its images in their container. Safe to use from several threads."""

    def columns(self, image: "SourceImage") -> Mapping[str, object]:
        """Return all that lies beside an image, by name: of a row its other columns, of a sample its other members.

        A member or file goes by its suffix without the dot, in small letters (`txt`, `json`, `cls`), as `bytes`: who
        takes it checks that it is UTF-8, and takes the fields of a `json` for columns. At most `MAX_BESIDE_BYTES + 1`
        of its bytes are given, so that a larger one shows. All else are values as JSON has them. Pixels are left out.
        Raises `OSError`, and `UnreadableImageError` for what is damaged or was changed meanwhile.
        """


@runtime_checkable
class ClassSource(Protocol):
    """Reader that knows what the numbers in a column are called."""

    def class_names(self, column: str) -> Sequence[str] | None:
        """Return the names of 0, 1, ... in a column that `ColumnSource.columns` gives; None if it has none."""


class View(NamedTuple):
    """One of several images that a run makes of a file: brought to `size` px, and its `crop` of that number.

    None: of one size alone, or the crop that everybody takes. Its key is the file's with a mark: `a#256crop1.jpg`.
    """

    size: int | None = None
    crop: int | None = None

    @property
    def mark(self) -> str:
        """Text that is put before the suffix; empty where a file has one image alone."""
        if self == WHOLE:
            return ""
        return f"#{'' if self.size is None else self.size}{'' if self.crop is None else f'crop{self.crop}'}"

    def key_of(self, key: str) -> str:
        """Return the key of this view of the file `key`."""
        end = _suffix_start(key)
        return f"{key[:end]}{self.mark}{key[end:]}"

    def file_of(self, key: str) -> str | None:
        """Return the key of the file that `key` is this view of; None if it is none."""
        end = _suffix_start(key)
        return key[: end - len(self.mark)] + key[end:] if key[:end].endswith(self.mark) else None


WHOLE = View()


def _suffix_start(key: str) -> int:
    """Return where the suffix begins, with its dot; the end of `key` if it has none."""
    dot = key.rfind(".")
    return dot if dot > key.rfind("/") else len(key)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One input, named but not read yet.

    `key` is its identity: a relative POSIX path with extension, unique within a run. `reader` opens it; `place` says
    where it is, and means something to `reader` alone. Size and times are those of the listing: see `Stamp`. `view`: of
    its file, where that has several.
    """

    key: str
    reader: ImageReader
    place: Any  # small, as there are millions: of a file a string, where a Path would take 8 seconds and 300 MB
    num_bytes: int
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    view: View = WHOLE

    @property
    def stamp(self) -> Stamp:
        """Size and times when it was listed."""
        return Stamp(self.num_bytes, self.mtime_ns, self.ctime_ns)

    @property
    def file(self) -> tuple[int, Any]:
        """Identity of the file, equal for all its views, as long as its reader lives."""
        return id(self.reader), self.place

    @property
    def file_key(self) -> str:
        """The key of the file that it is a view of; its own of a whole one."""
        return self.view.file_of(self.key) or self.key

    @property
    def whole(self) -> "SourceImage":
        """The image that its file has where it has one alone."""
        return self if self.view == WHOLE else replace(self, key=self.file_key, view=WHOLE)


class HeldImage(NamedTuple):
    """An image that a set has a row for, and the file that it was then; None where that was not found out."""

    key: str
    source: "FileDigest | None"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The way from the upright source image to the model's input; all sizes in pixels, (height, width).

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

    @property
    def crop_flip(self) -> tuple[int, int]:
        """The corner of the box in the resized image once that is mirrored: what of it the twin shows."""
        return self.crop[0], self.resized[1] - self.crop[1] - self.image[1]

    def to_json(self) -> dict[str, list[int]]:
        """As plain lists, ready for `json.dumps`."""
        return dict(zip(GEOMETRY_FIELDS, map(list, self.pairs), strict=True))

    @classmethod
    def from_json(cls, value: object) -> "Geometry":
        """The geometry that `to_json` wrote. `value` is not trusted: `ValueError` says what is wrong with it."""
        if not isinstance(value, dict) or value.keys() != _GEOMETRY_NAMES:
            raise ValueError(f"a geometry has the fields {', '.join(GEOMETRY_FIELDS)}")
        geometry = cls(*[_pair(name, value[name]) for name in GEOMETRY_FIELDS])
        for axis in (0, 1):
            if geometry.crop[axis] + geometry.image[axis] > geometry.resized[axis]:
                raise ValueError(f"geometry: the box of {geometry.image} at {geometry.crop} leaves {geometry.resized}")
            if geometry.image[axis] > geometry.bucket[axis]:
                raise ValueError(f"geometry: the image {geometry.image} does not fit its bucket {geometry.bucket}")
        return geometry


GEOMETRY_FIELDS = ("source", "resized", "crop", "image", "bucket")
_GEOMETRY_NAMES = set(GEOMETRY_FIELDS)


def _pair(name: str, value: object) -> tuple[int, int]:
    """Two integers from JSON: sizes from 1, the crop's corner from 0 on."""
    if not isinstance(value, list) or len(value) != 2 or type(value[0]) is not int or type(value[1]) is not int:
        raise ValueError(f"geometry: {name} must be two integers, not {str(value)[:40]}")
    height, width = value
    if min(height, width) < (0 if name == "crop" else 1) or max(height, width) >= 2**31:
        raise ValueError(f"geometry: {name} is out of range: {str(value)[:40]}")
    return height, width


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

    @classmethod
    def of(cls, data: bytes | memoryview) -> "FileDigest":
        """Return those of a file that holds `data`."""
        return cls(memoryview(data).nbytes, sha256(data).hexdigest())

    def to_json(self) -> dict[str, Any]:
        """As plain values, ready for `json.dumps`."""
        return {"num_bytes": self.num_bytes, "sha256": self.sha256}


UNKNOWN_MASK = "0" * 64  # in place of the sha256 of a mask's file that nobody here has seen, nor whether there was one
NO_COLUMNS: Mapping[str, Any] = {}  # one for all, as most images have none; it may go to another process


def _no_columns() -> Mapping[str, Any]:
    return NO_COLUMNS


class MadeColumns(NamedTuple):
    """Columns of an image, ready for its record, and why some could not be made."""

    columns: Mapping[str, Any] = NO_COLUMNS
    troubles: tuple[ColumnTrouble, ...] = ()


def content_of(sha256: str, mask_sha256: str | None) -> str:
    """Identify all that an image was made from: its file and, where there is one, that of its mask."""
    return sha256 if mask_sha256 is None else f"{sha256} {mask_sha256}"


class ColumnMaker(Protocol):
    """Makes the columns of images from whatever came with them. Safe to use from several threads."""

    def columns_of(self, image: SourceImage) -> MadeColumns:
        """Return the columns of an image. Raises nothing for what is wrong with them: that is a trouble."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """Everything that a set knows of one image but its latents.

    `source`: size and sha256 of the file that it was read from. `notes`: what a reader of the index should know about
    the colours or orientation (e.g. an ICC profile that was unusable). `columns`: a small JSON object of what came with
    the image, by name; the index holds it, shards do not, so it can change without new latents. `mask_sha256` (hex): of
    the file that its mask was read from, in the index alone too; `UNKNOWN_MASK` after an import.
    """

    key: str
    geometry: Geometry
    source: FileDigest
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=_no_columns, hash=False)
    mask_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """One image as the model will see it.

    `pixels`: [3,H,W] uint8 sRGB, (H,W) = `record.geometry.bucket`. `mtime_ns`, `ctime_ns` of the file before it was
    read; `mtime_ns` is None if a later change would not show in them. `troubles`: why it lacks columns. `parts`: what
    is stored of it beside what the model makes, by name.
    """

    record: ImageRecord
    pixels: "Tensor"
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    troubles: tuple[ColumnTrouble, ...] = ()
    parts: Mapping[str, "Tensor"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UndecodedImage:
    """An image whose JPEG is yet to be decoded: `image` without its pixels, of `planned`.

    `data`: the file, which several images may share; `orientation`: 1..8, in which its pixels are stored.
    """

    image: LoadedImage
    planned: PlannedImage
    data: bytes
    orientation: int

    def decoded(self, pixels: "Tensor") -> LoadedImage:
        """Return the image with its pixels, [3,H,W] uint8 on whatever device."""
        return replace(self.image, pixels=pixels)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image as it is stored: `latents` [Z,h,w] in the stored dtype, all finite, and its `parts` by name.

    Times as in `LoadedImage`.
    """

    record: ImageRecord
    latents: "Tensor"
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    parts: Mapping[str, "Tensor"] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, "Tensor"]:
        """The latents and the parts, by name."""
        return {LATENTS: self.latents, **self.parts}
