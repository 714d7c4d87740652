"""The border to Pillow: its decoders, exceptions and process-wide settings; of these libtiff's stderr alone changes."""

import ctypes
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import BinaryIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
    features,
)

from semdis_cli.errors import PassingReadError, UnreadableImageError

# One decoder per format, called directly: `Image.open` would try others, hide why a file cannot be opened, and check
# its own pixel limit. An MPO file is read as the JPEG that it begins with.
_DECODERS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_OPTIONAL_FEATURES = {"AVIF": "avif", "WEBP": "webp"}

# What Pillow's decoders raise on files that are cut off, damaged, or made to harm; its documentation names no set.
_DECODER_ERRORS = (
    ArithmeticError,  # ZeroDivisionError, OverflowError
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,  # IndexError, KeyError
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# What Pillow says, and what it means.
_CLEARER = {
    "Failed to decode image: BMFF parsing failed": "truncated or damaged: its parts do not fit together",
    "Missing dimensions": "truncated or damaged: no directory with a size in it",
    "decoder error -2": "damaged, or packed in a way that this Pillow cannot unpack",
    "cannot handle 12-bit layers": "samples of 12 bits, which are not read: convert it to 8 bits first",
    "cannot load this image": "truncated or damaged: no pixels behind its header",
    "not identified by this driver": "truncated or damaged: no usable header",
    "unknown data organization": "truncated or damaged: its directory does not say where the pixels are",
    "unknown pixel mode": "samples of a kind that is not supported",
    "unrecognized data stream contents when reading image file": "damaged: its pixels cannot be unpacked",
}


def open_image(name: str, file: BinaryIO) -> ImageFile.ImageFile:
    """Open the image in `file`, of format `name`, with its one decoder: header read, pixels not.

    Raises `UnreadableImageError`. Call it inside `pillow_guard`.
    """
    if name in _OPTIONAL_FEATURES and not features.check(_OPTIONAL_FEATURES[name]):
        raise PassingReadError(f"this Pillow was built without {name}: install Pillow from a wheel")
    if name == "TIFF":
        _silence_libtiff()
    file.seek(0)
    with decoder_errors(name):
        return _DECODERS[name](file)


@lru_cache(maxsize=1)
def _silence_libtiff() -> None:
    """Keep libtiff from writing to stderr what Pillow reports anyway, without the file's name and many times over.

    For good: its handler belongs to the process, and several threads read. Pillow itself silences its warnings alone.
    """
    with suppress(OSError, AttributeError):  # a Pillow without libtiff, or one that hides it
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


@contextmanager
def decoder_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file of format `name` into `UnreadableImageError` with a one-line reason."""
    try:
        yield
    except _DECODER_ERRORS as error:
        may_pass = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        raise (PassingReadError if may_pass else UnreadableImageError)(_reason(name, error)) from error


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory to read this {name}"
    message = " ".join(str(error).split())[:200] or "its parts do not fit together"
    cause = error.__cause__ or error  # what speaks of buffers says that the file is cut off, too
    if "truncated" in message.lower() or isinstance(cause, (EOFError, IndexError, struct.error)):
        return f"truncated: the {name} ends too early"
    return f"cannot decode {name}: {_CLEARER.get(message, message)}"


@contextmanager
def pillow_guard(max_image_pixels: int) -> Iterator[None]:
    """Let Pillow read images of up to `max_image_pixels` in this thread, without warnings; nothing outside changes.

    Warnings (broken tags, many pixels) are dropped by a filter that matches Pillow's modules only, and only in a thread
    that is inside a guard: `warnings.catch_warnings` would swap the filters of every thread.
    Pillow's pixel limit is one number for the process. Where it would refuse an image below `max_image_pixels`, it is
    raised until the last guard is left; with the default settings of both it is never touched.
    """
    _install_warning_filter()
    outer, _thread.reads = _thread.reads, True
    try:
        with _limit.at_least(max_image_pixels):
            yield
    finally:
        _thread.reads = outer


class _ThreadState(threading.local):
    """State of a thread: `reads` is True inside `pillow_guard`."""

    reads = False


_thread = _ThreadState()


class _WhileReading(type):
    """Metaclass of a category that every warning belongs to, in a thread that is inside `pillow_guard`."""

    def __subclasscheck__(cls, subclass: type) -> bool:
        return _thread.reads


class _WarningWhileReading(Warning, metaclass=_WhileReading):
    pass


_FILTER = ("ignore", None, _WarningWhileReading, re.compile(r"PIL\."), 0)
_NO_HANDLER = logging.NullHandler()


def _install_warning_filter() -> None:
    """Put the filter first, unless it is there; tests and other libraries replace the list of filters now and then."""
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=_WarningWhileReading, module=r"PIL\.")
    # Without any handler, Python writes what Pillow logs about a bad TIFF to stderr.
    logging.getLogger("PIL").addHandler(_NO_HANDLER)


class _PixelLimit:
    """Raises `PIL.Image.MAX_IMAGE_PIXELS` for as long as a reader needs it; leaves it alone when none does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_readers = 0
        self._is_raised = False
        self._original: int | None = None

    @contextmanager
    def at_least(self, num_pixels: int) -> Iterator[None]:
        """Allow images of `num_pixels` inside; Pillow itself refuses what is over twice its limit."""
        with self._lock:
            self._num_readers += 1
            if Image.MAX_IMAGE_PIXELS is not None and num_pixels > 2 * Image.MAX_IMAGE_PIXELS:
                if not self._is_raised:
                    self._is_raised, self._original = True, Image.MAX_IMAGE_PIXELS
                Image.MAX_IMAGE_PIXELS = num_pixels
        try:
            yield
        finally:
            with self._lock:
                self._num_readers -= 1
                if self._is_raised and self._num_readers == 0:
                    self._is_raised, Image.MAX_IMAGE_PIXELS = False, self._original


_limit = _PixelLimit()
