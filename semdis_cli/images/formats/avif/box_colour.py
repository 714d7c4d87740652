"""Boxes of AVIF and HEIF files (ISO 14496-12, 23008-12): what they say of the colours of the picture that is shown.

Everything is read within the bytes that are there, and given up at the first contradiction: the decoder has its own say
about damaged files.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from semdis_cli.images.formats.avif.av1 import sequence_colour

_FULL = 4  # bytes of version and flags
_MOST_PROPERTIES = 1 << 15
_STREAM_BYTES = 4096  # a coded picture begins with its sequence header
_VISUAL_ENTRY_BYTES = 78  # ISO 14496-12, 12.1.3: a visual sample entry up to its boxes


@dataclass(frozen=True, slots=True)
class BoxColour:
    """`profile`: ICC. `code_points`: primaries and transfer. `peak`: brightest light of the content, in cd/m2.

    None for each that is not said.
    """

    profile: bytes | None = None
    code_points: tuple[int, int] | None = None
    peak: float | None = None


class _Box(NamedTuple):
    kind: bytes
    body: memoryview


def box_colour(data: bytes) -> BoxColour:
    """Read the colours of the primary picture, or of the first track; the AV1 stream says what the boxes leave out."""
    boxes = {box.kind: box.body for box in reversed(list(_boxes(memoryview(data))))}
    try:
        if b"moov" in boxes and data[8:12] in {b"avis", b"msf1"}:
            return _with_stream(_track_properties(boxes[b"moov"]), b"")
        if b"meta" in boxes:
            return _item_colour(boxes[b"meta"][_FULL:], data)
    except (struct.error, IndexError, KeyError, ValueError):
        pass
    return BoxColour()


def _boxes(view: memoryview) -> Iterator[_Box]:
    at = 0
    while at + 8 <= len(view):
        size, kind = struct.unpack_from(">I4s", view, at)
        start = at + 8
        if size == 1 and at + 16 <= len(view):
            (size,) = struct.unpack_from(">Q", view, start)
            start += 8
        end = len(view) if size == 0 else at + size
        if end < start:
            return
        yield _Box(kind, view[start:end])
        at = end


def _child(view: memoryview, *path: bytes) -> memoryview:
    """Find the body of the first box along a path. Raises `KeyError` if it is missing."""
    for kind in path:
        view = next((box.body for box in _boxes(view) if box.kind == kind), memoryview(b""))
        if not view:
            raise KeyError(kind)
    return view


def _item_colour(meta: memoryview, data: bytes) -> BoxColour:
    primary = _child(meta, b"pitm")
    item = struct.unpack_from(">I" if primary[0] else ">H", primary, _FULL)[0]
    properties = list(_boxes(_child(meta, b"iprp", b"ipco")))
    wanted = _associated(_child(meta, b"iprp", b"ipma"), item)
    own = [properties[number - 1] for number in wanted if 0 < number <= len(properties)]
    return _with_stream(own, _first_bytes(meta, item, data))


def _associated(listed: memoryview, item: int) -> list[int]:
    """List the numbers, from 1, of the properties of an item (ISO 23008-12, 9.3.2)."""
    version, is_wide = listed[0], listed[3] & 1
    (num_items,) = struct.unpack_from(">I", listed, _FULL)
    at = _FULL + 4
    for _ in range(num_items):
        (name,) = struct.unpack_from(">I" if version else ">H", listed, at)
        at += 4 if version else 2
        count = listed[at]
        width = 2 if is_wide else 1
        numbers = struct.unpack_from(f">{count}{'H' if is_wide else 'B'}", listed, at + 1)
        at += 1 + width * count
        if name == item:
            return [number & (0x7FFF if is_wide else 0x7F) for number in numbers]
    return []


def _first_bytes(meta: memoryview, item: int, data: bytes) -> bytes:
    """Return the start of an item's coded picture (ISO 14496-12, 8.11.3); empty if it is not in the file as such."""
    place = _child(meta, b"iloc")
    version, sizes = place[0], struct.unpack_from(">H", place, _FULL)[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = ">I" if version == 2 else ">H"
    (num_items,) = struct.unpack_from(wide, place, _FULL + 2)
    at = _FULL + 2 + struct.calcsize(wide)
    for _ in range(min(num_items, _MOST_PROPERTIES)):
        (name,) = struct.unpack_from(wide, place, at)
        at += struct.calcsize(wide)
        method = struct.unpack_from(">H", place, at)[0] & 15 if version else 0
        at += 4 if version else 2
        base = int.from_bytes(place[at : at + base_size])
        (num_extents,) = struct.unpack_from(">H", place, at + base_size)
        at += base_size + 2
        index = index_size if version else 0
        if name == item and num_extents and method == 0:
            start = base + int.from_bytes(place[at + index : at + index + offset_size])
            return data[start : start + _STREAM_BYTES]
        at += num_extents * (index + offset_size + length_size)
    return b""


def _track_properties(movie: memoryview) -> list[_Box]:
    """List the boxes in the first track's first sample entry."""
    table = _child(movie, b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    entry = next(_boxes(table[_FULL + 4 :]))
    return list(_boxes(entry.body[_VISUAL_ENTRY_BYTES:]))


def _with_stream(properties: list[_Box], stream: bytes) -> BoxColour:
    profile = code_points = peak = None
    is_coded = False  # and not put together from others
    for kind, body in properties:
        method = bytes(body[:4]) if kind == b"colr" else b""
        if method in {b"prof", b"rICC"}:
            profile = profile or bytes(body[4:])
        elif method == b"nclx" and len(body) >= 10:
            code_points = code_points or struct.unpack_from(">HH", body, 4)
        elif kind == b"clli" and len(body) >= 4:
            peak = struct.unpack_from(">H", body)[0] or None
        elif kind == b"av1C":
            is_coded, stream = True, bytes(body[4:]) + stream
    if code_points is None and profile is None and is_coded:
        code_points = sequence_colour(stream)
    return BoxColour(profile, code_points, peak)
