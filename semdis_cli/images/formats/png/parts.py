"""Parts of a PNG that Pillow leaves out: the low bytes of a colour key, and the first frame of an animation."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.formats.pixel_colour import low_byte_image
from semdis_cli.images.formats.png.chunks import (
    PNG_SIGNATURE,
    check_png_pixels,
    chunk_bytes,
    chunk_checksum,
    only_pixels,
    png_chunks,
)

_FRAME_CHUNKS = frozenset({b"acTL", b"fcTL", b"fdAT", b"PLTE", b"tRNS"})


def with_wide_key(image: Image.Image, data: bytes) -> Image.Image:
    """Convert an RGB PNG `data` of 16 bits, opened as `image`, to RGBA: transparent where it has the key's 48 bits.

    Raises `UnreadableImageError` if pixels are missing.
    """
    key = np.array(image.info["transparency"])
    low = low_byte_image(data)
    assert low is not None, "colour has low bytes"
    check_png_pixels(low, io.BytesIO(data))
    is_key = (np.asarray(low) == key & 255).all(axis=2)
    high = np.asarray(image)
    is_key &= (high == key >> 8).all(axis=2)
    alpha = np.where(is_key, 0, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate([high, alpha[:, :, None]], axis=2))


@dataclass(frozen=True, slots=True)
class Frame:
    """First frame of an animation as a PNG. `box`: left, top, right, bottom in px on the picture of `canvas`.

    `canvas`: (height, width) in px.
    """

    png: bytes
    box: tuple[int, int, int, int]
    canvas: tuple[int, int]

    def on_canvas(self, image: Image.Image) -> Image.Image:
        """Put the frame's opened `image` where it belongs, amid zeros. Raises `UnreadableImageError` if it is cut."""
        image.load()
        check_png_pixels(image, io.BytesIO(self.png))
        left, top, _, _ = self.box
        height, width = self.canvas
        return image.crop((-left, -top, width - left, height - top))


def first_frame(data: bytes) -> Frame | None:
    """Make a PNG of the first frame of an animated one; None where that is the picture which all readers show.

    It is another where no frame's header stands before that picture. A damaged animation counts as none (PNG
    specification, third edition, 4.9 and 11.3.6).
    """
    control: bytes | None = None
    shared: list[bytes] = []
    parts: list[bytes] = []
    for kind, payload in _animation(data):
        if kind in {b"PLTE", b"tRNS"}:
            shared.append(chunk_bytes(kind, payload))
        elif kind == b"fcTL" and control is not None:
            break
        elif int.from_bytes(payload[:4]) != len(parts) + (control is not None):  # they are numbered through
            return None
        elif kind == b"fcTL":
            control = payload
        else:
            parts.append(payload[4:])
    return None if control is None else _frame(data, control, shared, parts)


def _animation(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and payload of the chunks that make frames; none where the first frame is the picture itself.

    They end at the first damaged one.
    """
    file = io.BytesIO(data)
    is_animated = False
    for chunk in png_chunks(file):
        if chunk.kind == b"IDAT" and not is_animated:
            return
        if chunk.kind not in _FRAME_CHUNKS:
            continue
        payload, checksum = file.read(chunk.length), file.read(4)
        if len(checksum) < 4:
            raise UnreadableImageError(f"truncated: the PNG ends in its {chunk.kind.decode()} chunk")
        if checksum != chunk_checksum(chunk.kind, payload):
            return
        if chunk.kind == b"acTL":
            is_animated = int.from_bytes(payload[:4]) > 0
        else:
            yield chunk.kind, payload


def _frame(data: bytes, control: bytes, shared: list[bytes], parts: list[bytes]) -> Frame | None:
    """Make that frame, if it has pixels and lies inside the picture. `control`: payload of its fcTL chunk."""
    if len(control) != 26 or not parts:
        return None
    _, width, height, left, top = struct.unpack_from(">5I", control)
    canvas_width, canvas_height = struct.unpack_from(">II", data, 16)
    if not (0 < width <= canvas_width - left and 0 < height <= canvas_height - top):
        return None
    header = chunk_bytes(b"IHDR", struct.pack(">II", width, height) + data[24:29])
    pixels = chunk_bytes(b"IDAT", b"".join(parts))
    png = b"".join([PNG_SIGNATURE, header, *shared, pixels, chunk_bytes(b"IEND", b"")])
    return Frame(
        only_pixels(png, io.BytesIO(png)), (left, top, left + width, top + height), (canvas_height, canvas_width)
    )
