"""Header of a JPEG, read from the few bytes that say it: a million files are planned by it before one is encoded."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from semdis_cli.images.formats.exif import exif_orientation, upright_size

_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what nearly all files are
_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # DHT, DQT, DRI, COM, APP0 to APP15
_EXIF, _PROFILE, _START_OF_SCAN = 0xE1, 0xE2, 0xDA
_KNOWN = _FRAMES | _TABLES | {_START_OF_SCAN}
_EXIF_PREFIX = b"Exif\0\0"
_FRAME_BYTES = 6
_ADOBE, _ADOBE_PREFIX = 0xEE, b"Adobe"
_YCBCR_IDS = (b"\1\2\3", b"\0\1\2")  # where nothing else says it, libjpeg takes the letters R, G, B for RGB


class PlainJpeg(NamedTuple):
    """Header of a JPEG that is built as nearly all are. `size`: (height, width) in px of the upright picture.

    `is_simple`: it is in YCbCr or grey, and its colours have at least half of the resolution: libjpeg decodes those of
    4:1:1 at a fraction as coarse as they are, which leaves less than the size that they are wanted for. `orientation`:
    1..8, and `notes` on what is wrong with it. `may_have_profile`: it has a segment of the kind that profiles lie in.
    `is_coloured`: it has more components than one.
    """

    size: tuple[int, int]
    is_simple: bool
    orientation: int
    notes: tuple[str, ...]
    may_have_profile: bool
    is_coloured: bool


def read_plain_jpeg(file: BinaryIO) -> PlainJpeg | None:
    """Read the header of a JPEG that is built as nearly all are, with 8 bits a sample; None for all else.

    `file` stands at its beginning, and is left anywhere. Markers follow ITU-T T.81, annex B.
    """
    frames: list[bytes] = []
    exif = b""
    has_ycbcr, may_have_profile = True, False
    for marker, num_bytes in _segments(file):
        if marker == _START_OF_SCAN:
            size = _frame_size(frames[0]) if len(frames) == 1 else None
            if size is None:
                return None
            is_simple = has_ycbcr and _is_ycbcr_or_grey(frames[0])
            orientation, notes = exif_orientation(exif)
            is_coloured = frames[0][5] > 1
            upright = upright_size(size, orientation)
            return PlainJpeg(upright, is_simple, orientation, notes, may_have_profile, is_coloured)
        if marker in _FRAMES:
            frames.append(file.read(num_bytes))
        elif marker == _EXIF:
            exif = _extended(exif, file.read(num_bytes))
        elif marker == _ADOBE:
            segment = file.read(num_bytes)
            has_ycbcr = has_ycbcr and not (segment.startswith(_ADOBE_PREFIX) and segment[11:12] != b"\1")
        else:
            may_have_profile = may_have_profile or marker == _PROFILE
            file.seek(num_bytes, 1)
    return None


def _is_ycbcr_or_grey(frame: bytes) -> bool:
    ids = frame[_FRAME_BYTES::3]
    if len(frame) != _FRAME_BYTES + 3 * frame[5]:
        return False
    is_fine = all(both >> 4 <= 2 and both & 15 <= 2 for both in frame[_FRAME_BYTES + 1 :: 3])
    return len(ids) == 1 or (ids in _YCBCR_IDS and is_fine)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield each segment's marker and length, with `file` where its bytes begin; ends where something else comes."""
    if file.read(2) != b"\xff\xd8":
        return
    while len(head := file.read(4)) == 4:
        marker, num_bytes = head[1], int.from_bytes(head[2:]) - 2
        if head[0] != 0xFF or marker not in _KNOWN or num_bytes < 0:
            return
        yield marker, num_bytes


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a frame header (T.81, B.2.2) of 8 bits and one, three or four components."""
    if len(frame) < _FRAME_BYTES or frame[0] != 8 or frame[5] not in {1, 3, 4}:
        return None
    size = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return size if min(size) > 0 else None


def _extended(exif: bytes, segment: bytes) -> bytes:
    """Return the EXIF block after one more segment of its kind: long ones are split over several."""
    if not segment.startswith(_EXIF_PREFIX):
        return exif
    return exif + segment[len(_EXIF_PREFIX) :] if exif else segment
