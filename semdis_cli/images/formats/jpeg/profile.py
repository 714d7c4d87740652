"""The ICC profile of a JPEG: its parts wherever they stand before the scan (ICC.1:2022, annex B.4).

Pillow puts a profile together when it meets the frame header: what stands behind it, it drops.
"""

from collections.abc import Iterator

_APP2, _START_OF_SCAN, _END_OF_IMAGE = 0xE2, 0xDA, 0xD9
_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})  # markers without a segment, and what is none
_PREFIX = b"ICC_PROFILE\0"
_HEAD = len(_PREFIX) + 2


def jpeg_profile(data: bytes) -> bytes | None:
    """Find the ICC profile; empty bytes if its parts do not make one, None if there are none.

    The parts are numbered from 1, in any order, and all say how many there are; what follows a whole profile is not
    looked at.
    """
    parts: dict[int, bytes] = {}
    total = None
    for segment in _segments(data):
        if not segment.startswith(_PREFIX) or len(segment) <= _HEAD:
            continue
        number, count = segment[_HEAD - 2], segment[_HEAD - 1]
        if not 1 <= number <= count or number in parts or count != (total or count):
            return b""
        total = count
        parts[number] = segment[_HEAD:]
        if len(parts) == total:
            return b"".join(parts[number] for number in sorted(parts))
    return b"" if parts else None


def _segments(data: bytes) -> Iterator[bytes]:
    """Yield the APP2 segments before the first scan; skips fill bytes and junk between segments, as libjpeg does."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0:
        while data[position : position + 1] == b"\xff":
            position += 1
        marker = data[position : position + 1]
        if not marker or marker[0] in {_START_OF_SCAN, _END_OF_IMAGE}:
            return
        position += 1
        if marker[0] in _ALONE:
            continue
        end = position + int.from_bytes(data[position : position + 2])
        if marker[0] == _APP2:
            yield data[position + 2 : end]
        position = max(end, position + 2)
