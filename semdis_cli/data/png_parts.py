"""Parts of a PNG as PNGs of their own: the low bytes of its samples, and the first frame of an animation."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap

import numpy as np
from PIL import Image

from semdis_cli.data.pillow import open_image
from semdis_cli.data.png import check_png_pixels, pass_sizes, png_chunks
from semdis_cli.errors import UnreadableImageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME_CHUNKS = frozenset({b"acTL", b"fcTL", b"fdAT", b"PLTE", b"tRNS"})


def with_wide_key(image: Image.Image, data: bytes) -> Image.Image:
    """Mode RGBA of an RGB PNG `data` of 16 bits, opened as `image`: transparent where all 48 bits are the colour key's.

    Raises `UnreadableImageError` if pixels are missing.
    """
    key = np.array(image.info["transparency"])
    with open_image("PNG", io.BytesIO(_low_bytes(data))) as low:
        is_key = (np.asarray(low) == key & 255).all(axis=2)
    high = np.asarray(image)
    is_key &= (high == key >> 8).all(axis=2)
    alpha = np.where(is_key, 0, 255).astype(np.uint8)
    return Image.fromarray(np.concatenate([high, alpha[:, :, None]], axis=2))


def _low_bytes(data: bytes) -> bytes:
    """A PNG of 8 bits a sample that holds the low bytes of the RGB samples of 16 bits in the PNG `data`.

    Pillow keeps the high bytes alone. A filter works on each byte of a pixel by itself, so those bytes can be taken out
    with the filters still on. Raises `UnreadableImageError` if the pixels are cut off.
    """
    width, height, _, colour_type, *method, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    sizes = [size for size in pass_sizes(height, width, interlace) if all(size)]
    needed = sum(rows * (1 + 6 * columns) for rows, columns in sizes)
    file = io.BytesIO(data)
    packed = b"".join([file.read(chunk.length) for chunk in png_chunks(file) if chunk.kind == b"IDAT"])
    rows_of_all = np.frombuffer(zlib.decompressobj().decompress(packed, needed), np.uint8)
    if len(rows_of_all) < needed:
        raise UnreadableImageError("truncated: the PNG has fewer pixels than its header promises")
    parts, at = [], 0
    for rows, columns in sizes:
        part = rows_of_all[at : at + rows * (1 + 6 * columns)].reshape(rows, 1 + 6 * columns)
        parts.append(np.concatenate([part[:, :1], part[:, 2::2]], axis=1).tobytes())
        at += part.size
    head = struct.pack(">IIBBBBB", width, height, 8, colour_type, *method, interlace)
    pixels = zlib.compress(b"".join(parts), 1)
    return _SIGNATURE + b"".join(starmap(_chunk_bytes, ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))))


@dataclass(frozen=True, slots=True)
class Frame:
    """The first frame of an animation as a PNG. `box`: left, top, right, bottom in px on the picture of `canvas`.

    `canvas`: (height, width) in px.
    """

    png: bytes
    box: tuple[int, int, int, int]
    canvas: tuple[int, int]

    def on_canvas(self, image: Image.Image) -> Image.Image:
        """The frame's opened `image` where it belongs, zeros around it. Raises `UnreadableImageError` if it is cut."""
        image.load()
        check_png_pixels(image, io.BytesIO(self.png))
        left, top, _, _ = self.box
        height, width = self.canvas
        return image.crop((-left, -top, width - left, height - top))


def first_frame(data: bytes) -> Frame | None:
    """The first frame of an animated PNG; None where that is the picture which all readers show.

    It is another where no frame's header stands before that picture. A damaged animation counts as none (PNG
    specification, third edition, 4.9 and 11.3.6).
    """
    control: bytes | None = None
    shared: list[bytes] = []
    parts: list[bytes] = []
    for kind, payload in _animation(data):
        if kind in {b"PLTE", b"tRNS"}:
            shared.append(_chunk_bytes(kind, payload))
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
    """Type and payload of an animated PNG's chunks that make frames; none where the first frame is the picture itself.

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
        if checksum != _checksum(chunk.kind, payload):
            return
        if chunk.kind == b"acTL":
            is_animated = int.from_bytes(payload[:4]) > 0
        else:
            yield chunk.kind, payload


def _frame(data: bytes, control: bytes, shared: list[bytes], parts: list[bytes]) -> Frame | None:
    """That frame, if it has pixels and lies inside the picture. `control`: payload of its fcTL chunk."""
    if len(control) != 26 or not parts:
        return None
    _, width, height, left, top = struct.unpack_from(">5I", control)
    canvas_width, canvas_height = struct.unpack_from(">II", data, 16)
    if not (0 < width <= canvas_width - left and 0 < height <= canvas_height - top):
        return None
    header = _chunk_bytes(b"IHDR", struct.pack(">II", width, height) + data[24:29])
    pixels = _chunk_bytes(b"IDAT", b"".join(parts))
    png = b"".join([_SIGNATURE, header, *shared, pixels, _chunk_bytes(b"IEND", b"")])
    return Frame(png, (left, top, left + width, top + height), (canvas_height, canvas_width))


def _chunk_bytes(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + _checksum(kind, payload)


def _checksum(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(kind + payload))
