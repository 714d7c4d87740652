"""AVIF files put together box by box (ISO 14496-12, 23008-12, AVIF 1.1) around pixels that Pillow has coded."""

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def nclx(primaries: int, transfer: int, matrix: int = 6, full_range: int = 1) -> bytes:
    """Colour by code points."""
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, full_range << 7))


def icc(profile: bytes, kind: bytes = b"prof") -> bytes:
    return box(b"colr", kind, profile)


def light_level(brightest: int, mean: int = 0) -> bytes:
    """Content light level, in cd/m2."""
    return box(b"clli", struct.pack(">HH", brightest, mean))


def mastering_display(brightest: int, darkest: float = 0.01) -> bytes:
    """Mastering display colour volume: BT.2020 and D65 in 1/50000, luminance in 1/10000 cd/m2."""
    places = (8500, 39850, 6550, 2300, 35400, 14600, 15635, 16450)  # green, blue, red, white
    return box(b"mdcv", struct.pack(">8HII", *places, brightest * 10_000, round(darkest * 10_000)))


def avif(pixels: np.ndarray, properties: Sequence[bytes], brand: bytes = b"avif", **options: object) -> bytes:
    """AVIF of [H,W,3] uint8 with these properties and no other `colr`; the coded pixels say 1/13/6, full range."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "AVIF", **{"quality": 100, "subsampling": "4:4:4", **options})
    coded, data = file.getvalue(), file.getvalue()[file.getvalue().index(b"mdat") + 4 :]
    at = coded.index(b"av1C") - 4
    configuration = coded[at : at + int.from_bytes(coded[at : at + 4])]
    return _of_one_item(data, pixels.shape[:2], [configuration, *properties], brand)


def _of_one_item(payload: bytes, size: tuple[int, ...], properties: Sequence[bytes], brand: bytes) -> bytes:
    needed = [full_box(b"ispe", struct.pack(">II", size[1], size[0])), box(b"pixi", bytes([0, 0, 0, 0, 3, 8, 8, 8]))]
    every = [*needed, *properties]
    places = bytes(number | (0x80 if number == 3 else 0) for number in range(1, len(every) + 1))
    listed = full_box(b"ipma", struct.pack(">IHB", 1, 1, len(every)), places)
    start = box(b"ftyp", brand, bytes(4), b"avifmif1miaf")
    inner = [full_box(b"hdlr", bytes(4), b"pict", bytes(13)), full_box(b"pitm", struct.pack(">H", 1))]
    item = full_box(b"infe", struct.pack(">HH", 1, 0), b"av01\0", version=2)
    inner += [full_box(b"iinf", struct.pack(">H", 1), item), box(b"iprp", box(b"ipco", *every), listed)]
    at = len(start) + 12 + sum(map(len, inner)) + 12 + 18 + 8
    place = full_box(b"iloc", struct.pack(">HHHHHII", 0x4400, 1, 1, 0, 1, at, len(payload)))
    whole = start + full_box(b"meta", *inner, place)
    assert len(whole) + 8 == at
    return whole + box(b"mdat", payload)
