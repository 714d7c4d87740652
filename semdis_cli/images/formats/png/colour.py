"""Colours of a PNG: the chunks that speak of them, and which one counts (PNG, third edition, 4.3 and 11.3.2).

cICP beats iCCP, which beats sRGB, which beats gAMA with cHRM; of equal chunks the first counts, and none behind the
pixels. What cannot be used leaves the word to the next.
"""

import struct
import zlib
from typing import BinaryIO

from semdis_cli.images.colour.code_points import Primaries
from semdis_cli.images.colour.icc import parse_icc, retagged
from semdis_cli.images.colour.spaces import Profile, png_code_points, png_gamma
from semdis_cli.images.formats.png.chunks import chunks_before_pixels

_MAX_PROFILE_BYTES = 16 * 2**20  # unpacked; the largest real profiles are a few MiB
_LENGTHS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cLLI": 8, b"mDCV": 24}
# One byte more than there should be tells longer ones.
_WANTED = {kind: length + 1 for kind, length in _LENGTHS.items()} | {b"iCCP": _MAX_PROFILE_BYTES, b"PLTE": 0}
_MAX_NAME_BYTES = 80
_NUM_INTENTS = 4
_SINGLE_SPACES = frozenset({"RGB", "GRAY", "CMYK"})
_CODED = "colour by code points (cICP): ignored"


def png_colour(file: BinaryIO) -> tuple[Profile | None, tuple[str, ...]]:
    """Find the meaning of the samples of the PNG in `file`, None for sRGB; and notes about what is ignored."""
    found, notes = _colour_chunks(file)
    if b"cICP" in found:
        profile, is_known = _code_points(found)
        if is_known:
            return profile, notes
        notes += (_CODED,)
    if b"iCCP" in found:
        unpacked = _unpack_profile(found[b"iCCP"])
        if unpacked is not None:
            return unpacked, notes
        notes += ("unusable ICC profile: ignored",)
    profile, further = (None, ()) if b"sRGB" in found else _gamma(found)
    return profile, notes + further


def _gamma(found: dict[bytes, bytes]) -> tuple[bytes | None, tuple[str, ...]]:
    """Find the meaning of gAMA and cHRM; cHRM alone has none."""
    if b"gAMA" not in found:
        return None, ()
    (gamma,) = struct.unpack(">I", found[b"gAMA"])
    try:
        return png_gamma(gamma, _primaries(found.get(b"cHRM"))), ()
    except ValueError:
        return None, ("chromaticities (cHRM) that no colours have: shown as sRGB",)


def _colour_chunks(file: BinaryIO) -> tuple[dict[bytes, bytes], tuple[str, ...]]:
    """Read the chunks about colour that are as they should be, each the first of its kind; also returns notes."""
    found, damaged = chunks_before_pixels(file, _WANTED)
    notes = tuple(f"wrong checksum in a chunk about colour ({kind.decode()}): ignored" for kind in damaged)
    if not found:
        return found, notes
    kinds = list(found)
    if b"cICP" in found and b"PLTE" in kinds[: kinds.index(b"cICP")]:
        del found[b"cICP"]  # it has to stand before the palette, which browsers insist on for this chunk alone
    if found.get(b"sRGB", b"\0") >= bytes([_NUM_INTENTS]):
        del found[b"sRGB"]
    return {kind: part for kind, part in found.items() if len(part) == _LENGTHS.get(kind, len(part))}, notes


def _code_points(found: dict[bytes, bytes]) -> tuple[Profile | None, bool]:
    primaries, transfer, matrix, is_full = found[b"cICP"]
    if matrix != 0 or is_full != 1:  # a PNG holds RGB of full range, and nothing else is read
        return None, False
    return png_code_points(primaries, transfer, _peak(found))


def _peak(found: dict[bytes, bytes]) -> float | None:
    """Return the brightest light in cd/m2, of the content or else of the screen it was made on; None if unknown."""
    brightest = struct.unpack_from(">I", found[b"cLLI"])[0] if b"cLLI" in found else 0
    if brightest == 0 and b"mDCV" in found:
        (brightest,) = struct.unpack_from(">I", found[b"mDCV"], 16)
    return brightest / 10_000 or None


def _primaries(chunk: bytes | None) -> Primaries | None:
    if chunk is None:
        return None
    x = [value / 100_000 for value in struct.unpack(">8i", chunk)]
    return Primaries((x[0], x[1]), (x[2], x[3]), (x[4], x[5]), (x[6], x[7]))


def _unpack_profile(chunk: bytes) -> bytes | None:
    """Unpack the profile in an iCCP chunk; None if there is none that can be used.

    One for other spaces of three channels is taken for RGB's: there is nothing else that a PNG could hold.
    """
    name, _, packed = chunk.partition(b"\0")
    data = _unpack(packed[1:]) if 0 < len(name) <= _MAX_NAME_BYTES and packed[:1] == b"\0" else b""
    profile = parse_icc(data)
    if profile is None or profile.space in _SINGLE_SPACES:
        return None if profile is None else data
    return retagged(data, int.from_bytes(data[8:12]), "RGB")


def _unpack(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        profile = stream.decompress(packed, _MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if stream.eof else b""
