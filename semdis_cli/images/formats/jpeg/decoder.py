"""JPEGs decoded faster than by Pillow, where something that gives its very bits is installed: for nearly all files.

Pillow decodes with the same library, libjpeg-turbo, but hands the file over in pieces and spreads every pixel over four
bytes. simplejpeg takes half of the time for small pictures and three quarters for large ones, and torchvision little
more; simplejpeg also decodes at fractions of the size and into memory that is given, and says what is damaged.
"""

import importlib.metadata
import importlib.util
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from semdis_cli.images.formats.jpeg.pixels import draft, may_be_filled_up
from semdis_cli.images.formats.pillow import open_image

_PROBE_SIZES = ((16, 16), (37, 50))
_FRACTIONS = (1, 2, 4, 8)
RGB = 3  # torchvision's ImageReadMode.RGB
_MOST_KEPT_BYTES = 1 << 26  # 22 megapixels


@dataclass(frozen=True, slots=True)
class _Decoder:
    """`decode`: (data, (height, width) in px of the result, memory to use) -> [H,W,3] uint8.

    Without memory to use (uint8, flat, large enough) the result has its own. `fractions`: of the size at which it
    decodes. `is_strict`: it raises where it would have to guess, so that there is nothing for `check_jpeg_pixels`.
    """

    name: str
    decode: Callable[[bytes, tuple[int, int], np.ndarray | None], np.ndarray]
    fractions: tuple[int, ...]
    is_strict: bool


def jpeg_decoder() -> str:
    """Name what decodes JPEGs, with its version: for reports. The pixels do not depend on it."""
    decoder = _fast_decoder()
    return f"pillow {PIL.__version__}" if decoder is None else decoder.name


def is_fast_jpeg(fraction: int = 1) -> bool:
    """Tell whether `decode_plain_jpeg` decodes anything here at that fraction of its size."""
    decoder = _fast_decoder()
    return decoder is not None and fraction in decoder.fractions


def decode_plain_jpeg(
    data: bytes,
    size: tuple[int, int],
    fraction: int = 1,
    *,
    is_passing: bool = False,
    memory: np.ndarray | None = None,
) -> np.ndarray | None:
    """Decode a JPEG that `read_plain_jpeg` calls simple to [H,W,3] uint8 as stored, grey three times, profile ignored.

    `size`: (height, width) that its header states, both sides divided by `fraction`, 1, 2, 4 or 8, and rounded up,
    which gives the pixels of Pillow's draft mode (for sides of at least 16 px). `is_passing`: the result is gone with
    the next call in this thread, and may cost no new memory, which the system would have to clear first. `memory`:
    uint8, flat, of just as many bytes, that the result may lie in. None: Pillow must see to it, because something in
    the file is not as it should be, or because Pillow is all there is.
    """
    decoder = _fast_decoder()
    if decoder is None or fraction not in decoder.fractions:
        return None
    pixels = _decoded(decoder, data, size, _memory.at_least(3 * size[0] * size[1]) if is_passing else memory)
    return None if pixels is None or (not decoder.is_strict and may_be_filled_up(pixels)) else pixels


class _Memory(threading.local):
    """Memory of each thread, kept for its next image."""

    kept = np.empty(0, np.uint8)

    def at_least(self, num_bytes: int) -> np.ndarray | None:
        """Return so many bytes or more; None for so many that they are better given back."""
        if num_bytes > _MOST_KEPT_BYTES:
            return None
        if self.kept.size < num_bytes:
            self.kept = np.empty(num_bytes, np.uint8)
        return self.kept


_memory = _Memory()


def _decoded(
    decoder: _Decoder, data: bytes, size: tuple[int, int], memory: np.ndarray | None = None
) -> np.ndarray | None:
    try:
        pixels = decoder.decode(data, size, memory)
    except (MemoryError, RuntimeError, TypeError, ValueError):  # Pillow finds out what it is, and has the words for it
        return None
    return pixels if pixels.shape == (*size, 3) else None


@lru_cache(maxsize=1)
def _fast_decoder() -> _Decoder | None:
    """Choose the first decoder that is installed and gives Pillow's bits; None without one."""
    return next((decoder for make in (_simplejpeg, _torchvision) if (decoder := make()) and _is_pillows(decoder)), None)


def _simplejpeg() -> _Decoder | None:
    """Return simplejpeg, without shortcuts, and with an error where libjpeg warns, as before it makes up a pixel."""
    try:
        import simplejpeg

        name = f"simplejpeg {simplejpeg.__version__}"
    except (ImportError, AttributeError, ValueError):  # the last is NumPy's, for what another version of it built
        return None

    def decode(data: bytes, size: tuple[int, int], memory: np.ndarray | None) -> np.ndarray:
        exact = {"fastdct": False, "fastupsample": False, "strict": True}
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=size[0], min_width=size[1], buffer=memory, **exact
        )
        return pixels

    return _Decoder(name, decode, _FRACTIONS, is_strict=True)


def _torchvision() -> _Decoder | None:
    """Return torchvision's operator, from its library alone: importing the package takes a second, and half of dynamo.

    It cannot be loaded beside every torch. libjpeg's warnings go to stderr, but not to the caller.
    """
    try:
        name = f"torchvision {importlib.metadata.version('torchvision')}"
        load_operators()
        operator = torch.ops.image.decode_jpeg.default
    except (ImportError, AttributeError, OSError):
        return None

    def decode(data: bytes, size: tuple[int, int], memory: np.ndarray | None) -> np.ndarray:
        del size, memory
        file = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a copy: torch warns of memory it may not write
        pixels: np.ndarray = operator(file, RGB).permute(1, 2, 0).numpy()
        return pixels

    return _Decoder(name, decode, fractions=(1,), is_strict=False)


def load_operators() -> None:
    """Load torchvision's image operators into `torch.ops.image`. Raises `ImportError` or `OSError` without them."""
    torch.ops.load_library(_torchvision_library())


def _torchvision_library() -> Path:
    """Find the library of its image operators. Raises `ImportError` without one."""
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec is not None else None
    libraries = [library for folder in folders or () for library in sorted(Path(folder).glob("image*.so"))]
    if not libraries:
        raise ImportError("torchvision has no library of image operators")
    return libraries[0]


def _is_pillows(decoder: _Decoder) -> bool:
    """Tell whether small JPEGs of the kinds that are decoded here get the bits that Pillow gives."""
    kinds = [("L", {}), *(("RGB", {"subsampling": sampling}) for sampling in (0, 1, 2))]
    return all(
        _agrees(decoder, *_probe(mode, {**options, "progressive": is_progressive}, size, fraction))
        for (mode, options), is_progressive, size, fraction in product(
            kinds, (False, True), _PROBE_SIZES, decoder.fractions
        )
    )


def _probe(mode: str, options: dict[str, Any], size: tuple[int, int], fraction: int) -> tuple[bytes, np.ndarray]:
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    picture = Image.fromarray(np.stack([x * 41, y * 29, x * y], axis=2).astype(np.uint8))
    file = io.BytesIO()
    picture.convert(mode).save(file, "JPEG", quality=85, **options)
    image = open_image("JPEG", io.BytesIO(file.getvalue()))
    draft(image, fraction)
    return file.getvalue(), np.asarray(image.convert("RGB"))


def _agrees(decoder: _Decoder, data: bytes, expected: np.ndarray) -> bool:
    pixels = _decoded(decoder, data, expected.shape[:2])
    return pixels is not None and np.array_equal(pixels, expected)
