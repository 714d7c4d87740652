"""The size of a JPEG, read from the few bytes that say it: a million files are planned by it before one is encoded."""

from collections.abc import Iterator
from typing import BinaryIO

from semdis_cli.images.formats.exif import exif_orientation, upright_size

_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what nearly all files are
_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # DHT, DQT, DRI, COM, APP0 to APP15
_EXIF, _START_OF_SCAN = 0xE1, 0xDA
_KNOWN = _FRAMES | _TABLES | {_START_OF_SCAN}
_EXIF_PREFIX = b"Exif\0\0"
_FRAME_BYTES = 6
_ADOBE, _ADOBE_PREFIX = 0xEE, b"Adobe"
_YCBCR_IDS = (b"\1\2\3", b"\0\1\2")  # where nothing else says it, libjpeg takes the letters R, G, B for RGB


def plain_jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    """(height, width) in px of the upright picture of a JPEG that is built as nearly all are; None for all else.

    `file` stands at its beginning, and is left anywhere. Markers follow ITU-T T.81, annex B.
    """
    sizes: list[tuple[int, int] | None] = []
    exif = b""
    for marker, num_bytes in _segments(file):
        if marker == _START_OF_SCAN:
            size = sizes[0] if len(sizes) == 1 else None
            return size and upright_size(size, exif_orientation(exif)[0])
        if marker in _FRAMES:
            sizes.append(_frame_size(file.read(num_bytes)))
        elif marker == _EXIF:
            exif = _extended(exif, file.read(num_bytes))
        else:
            file.seek(num_bytes, 1)
    return None


def is_plain_jpeg(file: BinaryIO) -> bool:
    """Whether the JPEG in `file` is built as nearly all are, in YCbCr or grey, with 8 bits a sample.

    Its colours have at least half of the resolution: libjpeg decodes those of 4:1:1 at a fraction as coarse as they
    are, which leaves less than the size that they are wanted for.
    """
    frames: list[bytes] = []
    for marker, num_bytes in _segments(file):
        if marker == _START_OF_SCAN:
            return len(frames) == 1 and _frame_size(frames[0]) is not None and _is_ycbcr_or_grey(frames[0])
        segment = file.read(num_bytes)
        if marker in _FRAMES:
            frames.append(segment)
        elif marker == _ADOBE and segment.startswith(_ADOBE_PREFIX) and segment[11:12] != b"\1":
            return False
    return False


def _is_ycbcr_or_grey(frame: bytes) -> bool:
    ids = frame[_FRAME_BYTES::3]
    if len(frame) != _FRAME_BYTES + 3 * frame[5]:
        return False
    is_fine = all(both >> 4 <= 2 and both & 15 <= 2 for both in frame[_FRAME_BYTES + 1 :: 3])
    return len(ids) == 1 or (ids in _YCBCR_IDS and is_fine)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Each segment's marker and length, with `file` where its bytes begin; ends where something else comes."""
    if file.read(2) != b"\xff\xd8":
        return
    while len(head := file.read(4)) == 4:
        marker, num_bytes = head[1], int.from_bytes(head[2:]) - 2
        if head[0] != 0xFF or marker not in _KNOWN or num_bytes < 0:
            return
        yield marker, num_bytes


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    """(height, width) of a frame header (T.81, B.2.2) of 8 bits and one, three or four components."""
    if len(frame) < _FRAME_BYTES or frame[0] != 8 or frame[5] not in {1, 3, 4}:
        return None
    size = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return size if min(size) > 0 else None


def _extended(exif: bytes, segment: bytes) -> bytes:
    """The EXIF block after one more segment of its kind: long ones are split over several."""
    if not segment.startswith(_EXIF_PREFIX):
        return exif
    return exif + segment[len(_EXIF_PREFIX) :] if exif else segment
