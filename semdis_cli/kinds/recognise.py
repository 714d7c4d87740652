"""Names what a file is that is no image of a kind that can be read, and says what its owner can do about it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from semdis_cli.files.links import POINTERS
from semdis_cli.kinds.brands import HEIC, JPEG_XL, KNOWN_BRANDS, brands_of, format_by_brands
from semdis_cli.kinds.jxl_start import JXL_STARTS

START_BYTES = 4096  # more than this is never looked at; the first 512 are enough for nearly everything

_CONVERT = "convert it to PNG, JPEG, WebP or AVIF first"
_NO_IMAGE = "give images instead"


@dataclass(frozen=True, slots=True)
class Recognised:
    """Kind of file: its `name`, with its article ("a zip archive"), and `advice`, what to do with one, as a clause.

    Both go into messages of one line; neither ends in a full stop.
    """

    name: str
    advice: str

    @property
    def reason(self) -> str:
        """Name and advice as the reason of a failure."""
        return f"is {self.name}, which is not read: {self.advice}"


CAMERA_RAW = Recognised(
    "a camera raw file", "develop it with a raw converter (darktable, RawTherapee, dcraw) into TIFF, PNG or JPEG first"
)
_HEIC = Recognised("a HEIC picture", f"{_CONVERT} (heif-convert, ImageMagick)")
_JXL = Recognised("a JPEG XL picture", f"{_CONVERT} (djxl)")
_ZIP = Recognised("a zip archive", "name it as a SOURCE, NAME.zip, or unpack it and give the folder")
_GZIP = Recognised("a gzip-compressed file", "unpack it first (gunzip; a tar on the way: zcat FILE | semdis encode -)")
_HTML = Recognised("an HTML page", "a server answered with a page instead of the file; download it again")
_JSON = Recognised("JSON text", "perhaps a server's message instead of the file; if so, download it again")
_XML = Recognised("XML text", "perhaps a server's message instead of the file; if so, download it again")
_TEXT = Recognised("plain text", f"{_NO_IMAGE}; a list of files is given with --files-from")
_EMPTY = Recognised("an empty file", "copy or download it again")
_ZEROS = Recognised("a file that begins with nothing but zeros", "its copy or download broke off; get it again")
_NUMPY = Recognised("a NumPy array", "write its pictures to image files first")
_VIDEO = Recognised("a video", "extract its frames first (ffmpeg)")
_PICKLE = Recognised(
    "a Python pickle or PyTorch checkpoint", "it can run code when it is read, so it is not; " + _NO_IMAGE
)

# (offset, bytes there, what it is); the first one that fits counts.
_SIGNATURES: tuple[tuple[int, bytes, Recognised], ...] = (
    (0, b"FUJIFILMCCD-RAW", CAMERA_RAW),  # RAF
    (0, b"FOVb", CAMERA_RAW),  # X3F, Sigma
    (0, b"\0MRM", CAMERA_RAW),  # MRW, Minolta
    (0, b"II\x1a\0\0\0HEAPCCDR", CAMERA_RAW),  # CRW, Canon
    (0, b"MM\0\x1a\0\0\0\0HEAPCCDR", CAMERA_RAW),
    (0, b"IIRO", CAMERA_RAW),  # ORF, Olympus
    (0, b"IIRS", CAMERA_RAW),
    (0, b"MMOR", CAMERA_RAW),
    (0, b"MMSR", CAMERA_RAW),
    (0, b"IIU\0", CAMERA_RAW),  # RW2, RWL and RAW of Panasonic and Leica
    (0, b"ARECOYK", CAMERA_RAW),  # Contax
    (0, b"NOKIARAW", CAMERA_RAW),
    (0, b"DSC-Image", CAMERA_RAW),  # Phase One, Leaf
    (0, b"PWAD", CAMERA_RAW),  # Sinar
    (0, b"IIIITIFF", CAMERA_RAW),
    (8, b"CR\x02", CAMERA_RAW),  # CR2, Canon
    *((0, start, _JXL) for start in JXL_STARTS),
    (0, b"\xff\x4f\xff\x51", Recognised("a JPEG 2000 picture", f"{_CONVERT} (opj_decompress)")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Recognised("a JPEG 2000 picture", f"{_CONVERT} (opj_decompress)")),
    (0, b"\xff\xd8\xff\xf7", Recognised("a JPEG-LS picture", _CONVERT)),
    (0, b"II\xbc", Recognised("a JPEG XR picture", _CONVERT)),
    (0, b"8BPS", Recognised("a Photoshop document", f"{_CONVERT} (in Photoshop, or with ImageMagick)")),
    (0, b"gimp xcf", Recognised("a GIMP project", f"{_CONVERT} (export it from GIMP)")),
    (0, b"v/1\x01", Recognised("an OpenEXR picture", f"tone-map it and {_CONVERT}")),
    (0, b"#?RADIANCE", Recognised("a Radiance HDR picture", f"tone-map it and {_CONVERT}")),
    (0, b"#?RGBE", Recognised("a Radiance HDR picture", f"tone-map it and {_CONVERT}")),
    (0, b"DDS ", Recognised("a DirectDraw texture", _CONVERT)),
    (0, b"\xabKTX ", Recognised("a KTX texture", _CONVERT)),
    (0, b"qoif", Recognised("a QOI picture", _CONVERT)),
    (0, b"BPG\xfb", Recognised("a BPG picture", _CONVERT)),
    (0, b"farbfeld", Recognised("a farbfeld picture", _CONVERT)),
    (0, b"\0\0\1\0", Recognised("a Windows icon", _CONVERT)),
    (0, b"icns", Recognised("an Apple icon", _CONVERT)),
    (0, b"SIMPLE  =", Recognised("a FITS picture", f"tone-map it and {_CONVERT}")),
    (128, b"DICM", Recognised("a DICOM picture", _CONVERT)),
    (0, b"AT&TFORM", Recognised("a DjVu document", f"{_CONVERT} (ddjvu)")),
    (0, b"%PDF-", Recognised("a PDF document", f"{_CONVERT} (pdftoppm, pdfimages)")),
    (0, b"%!PS", Recognised("a PostScript or EPS drawing", f"{_CONVERT} (Ghostscript)")),
    (0, b"\xc5\xd0\xd3\xc6", Recognised("a PostScript or EPS drawing", f"{_CONVERT} (Ghostscript)")),
    *(
        (0, each.signature, Recognised(each.name, f"the file itself is not here; get it with: {each.command}"))
        for each in POINTERS
    ),
    (0, b"PK\x03\x04", _ZIP),
    (0, b"PK\x05\x06", _ZIP),  # with nothing in it
    (0, b"PK\x07\x08", _ZIP),
    (0, b"\x1f\x8b", _GZIP),
    (0, b"BZh", Recognised("a bzip2-compressed file", "unpack it first (bunzip2)")),
    (0, b"\xfd7zXZ\0", Recognised("an xz-compressed file", "unpack it first (unxz)")),
    (0, b"\x28\xb5\x2f\xfd", Recognised("a zstd-compressed file", "unpack it first (unzstd)")),
    (0, b"\x04\x22\x4d\x18", Recognised("an lz4-compressed file", "unpack it first (unlz4)")),
    (0, b"7z\xbc\xaf\x27\x1c", Recognised("a 7z archive", "unpack it and give the folder")),
    (0, b"Rar!\x1a\x07", Recognised("a RAR archive", "unpack it and give the folder")),
    (
        257,
        b"ustar",
        Recognised("a tar archive", "name it as a SOURCE, NAME.tar, or give it on stdin: semdis encode - < FILE"),
    ),
    (0, b"PAR1", Recognised("a Parquet file", "name it as a SOURCE, NAME.parquet, if it has a column of images")),
    (0, b"ARROW1", Recognised("an Arrow file", "write its images to files or to an uncompressed tar first")),
    (0, b"\xff\xff\xff\xff\x10\0\0\0", Recognised("an Arrow stream", "write its images to files or to a tar first")),
    (0, b"\x89HDF\r\n\x1a\n", Recognised("an HDF5 file", "write its images to files or to an uncompressed tar first")),
    (0, b"SQLite format 3\0", Recognised("an SQLite database", "write its images to files first")),
    (0, b"\x93NUMPY", _NUMPY),
    (0, b"\x1aE\xdf\xa3", _VIDEO),
    (4, b"moov", _VIDEO),
    (4, b"mdat", _VIDEO),
    (0, b"\x7fELF", Recognised("a program", _NO_IMAGE)),
    (0, b"\0\x05\x16\x07", Recognised("a macOS resource fork", "the file beside it, without ._, is the picture")),
)
_PICKLE_PROTOCOLS = frozenset(bytes([0x80, number]) for number in (2, 3, 4, 5))
_SAFETENSORS = re.compile(rb".{8}\{\s*\"", re.DOTALL)
_NETPBM = re.compile(rb"P[1-7FfH]\s")
_SVG = re.compile(rb"<(?:\w+:)?svg[\s>]", re.IGNORECASE)
_HTML_START = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile("[\0-\x08\x0e-\x1a]")
# A zip's first member says what it is a part of (its name stands at byte 30).
_ZIP_MEMBERS: tuple[tuple[re.Pattern[bytes], Recognised], ...] = (
    (re.compile(rb"[^/]*/?(?:data\.pkl|\.format_version)"), _PICKLE),
    (re.compile(rb"[^/]*\.npy"), _NUMPY),
    (re.compile(rb"\[Content_Types\]\.xml"), Recognised("an Office document", "extract its pictures first")),
    (re.compile(rb"mimetype(?:image/openraster|application/x-krita)"), Recognised("a painting project", _CONVERT)),
)


def describe(start: bytes) -> Recognised | None:
    """Name the kind of file that begins with `start` (its first `START_BYTES`, or all of it); None: unknown.

    It answers for files of which `image_format` is None; an image that can be read has no name here. A TIFF that is a
    camera raw is not told from others by its beginning: `tiff_directories` does that. Nothing is raised.
    """
    start = start[:START_BYTES]
    if not start:
        return _EMPTY
    for position, signature, kind in _SIGNATURES:
        if start[position : position + len(signature)] == signature:
            return _zipped(start) if kind is _ZIP else kind
    return next((kind for kind in (look(start) for look in _LOOKS) if kind is not None), None)


def unreadable_reason(start: bytes) -> str:
    """Say why a file fails that begins with `start` and is no image that can be read."""
    kind = describe(start)
    if kind is None:
        return "not an image in a known format"
    return "empty file" if kind is _EMPTY else kind.reason


def _zipped(start: bytes) -> Recognised:
    return next((kind for pattern, kind in _ZIP_MEMBERS if pattern.match(start, 30)), _ZIP)


def _container(start: bytes) -> Recognised | None:
    """Name ISO base media files: HEIC, JPEG XL, CR3, video."""
    brands = brands_of(start)
    if not brands:
        return None
    if b"crx " in brands:  # CR3, Canon
        return CAMERA_RAW
    kind = {HEIC: _HEIC, JPEG_XL: _JXL}.get(format_by_brands(start) or "")
    if kind is not None:
        return kind
    if brands & KNOWN_BRANDS:
        return Recognised("a HEIF picture of a rare kind", f"{_CONVERT} (heif-convert, ImageMagick)")
    return _VIDEO


def _riff(start: bytes) -> Recognised | None:
    if start[:4] not in {b"RIFF", b"RIFX"}:
        return None
    return Recognised("a video or sound file", "extract its frames first (ffmpeg)") if start[8:12] != b"WEBP" else None


def _tensors(start: bytes) -> Recognised | None:
    if start[:2] in _PICKLE_PROTOCOLS:
        return _PICKLE
    if _SAFETENSORS.match(start) and int.from_bytes(start[:8], "little") < 2**32:
        return Recognised("a safetensors file", "latents are turned into images by: semdis decode FILE; " + _NO_IMAGE)
    return None


def _netpbm(start: bytes) -> Recognised | None:
    return Recognised("a Netpbm picture", _CONVERT) if _NETPBM.match(start) else None


def _zeros(start: bytes) -> Recognised | None:
    return None if start.strip(b"\0") else _ZEROS


def _text(start: bytes) -> Recognised | None:
    """Name text of any kind, UTF-8 or UTF-16, by what it begins with."""
    text = _plain(start)
    if text is None:
        return None
    if _HTML_START.match(text):
        return _HTML
    if _SVG.search(text):
        return Recognised("an SVG drawing", f"{_CONVERT} (rsvg-convert, Inkscape)")
    begin = text.lstrip()[:1]
    return {b"<": _XML, b"{": _JSON, b"[": _JSON}.get(begin, _TEXT)


def _plain(start: bytes) -> bytes | None:
    """Return `start` if it is text, UTF-16 without its zero bytes; None if it is not."""
    is_utf16 = start[:2] in {b"\xff\xfe", b"\xfe\xff"}
    try:
        text = start[: len(start) // 2 * 2].decode("utf-16") if is_utf16 else start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if is_utf16 or error.start < max(1, len(start) - 3):  # the last character may be cut in two
            return None
        text = start[: error.start].decode("utf-8-sig")
    return None if _CONTROL.search(text) else text.encode()


_LOOKS: tuple[Callable[[bytes], Recognised | None], ...] = (_container, _riff, _tensors, _netpbm, _zeros, _text)
