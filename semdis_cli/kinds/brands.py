"""Pictures in ISO base media files (ISO/IEC 14496-12, 23008-12): AVIF told from HEIC and its relatives by their brands.

A file names the specifications that it follows in its first box, one of them as the major brand, which says little:
pictures of either coding may have `mif1` there, `miaf` or a profile's name.
"""

import re
import struct

AVIF, HEIC, JPEG_XL = "AVIF", "HEIC", "JXL"

_AVIF_BRANDS = frozenset({b"avif", b"avis", b"avio", b"MA1A", b"MA1B"})
_LIBAVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"heif", b"MiHB", b"MiHA", b"MiHE"}
)
_GENERAL_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"MiPr", b"1pic", b"tmap"})
_JXL_BRANDS = frozenset({b"jxl "})
KNOWN_BRANDS = _AVIF_BRANDS | _HEIC_BRANDS | _GENERAL_BRANDS | _JXL_BRANDS

_MAX_BRANDS_BYTES = 512
# An item's entry (ISO/IEC 14496-12, 8.11.6): version 2 or 3, flags, its number, no protection, its type.
_ITEM = re.compile(rb"infe(?:\x02.{3}.{2}|\x03.{3}.{4})\0\0(av01|hvc1|hev1|lhv1)", re.DOTALL)


def brands_of(start: bytes) -> frozenset[bytes]:
    """List the brands of the file that begins with `start`, as far as they lie in it; none if it has no such box."""
    if start[4:8] != b"ftyp" or len(start) < 12:
        return frozenset()
    (length,) = struct.unpack_from(">I", start)
    end = min(length, len(start), _MAX_BRANDS_BYTES)
    others = (start[at : at + 4] for at in range(16, end - 3, 4))
    return frozenset({start[8:12], *others})


def format_by_brands(start: bytes) -> str | None:
    """Return `AVIF`, `HEIC` or `JXL` by the start of a file; None if it is none of them, or does not say.

    AVIF counts if any brand is one of its; where all brands are general, the type of the first picture in the file
    does, if `start` reaches that far.
    """
    brands = brands_of(start)
    for known, name in ((_AVIF_BRANDS, AVIF), (_HEIC_BRANDS, HEIC), (_JXL_BRANDS, JPEG_XL)):
        if brands & known:
            return name
    if brands & _GENERAL_BRANDS:
        item = _ITEM.search(start)
        return None if item is None else AVIF if item[1] == b"av01" else HEIC
    return None


def with_avif_brand(data: bytes) -> bytes:
    """Give the AVIF in `data` a brand by which libavif knows it; it is left as it is if it has one."""
    return data if brands_of(data) & _LIBAVIF_BRANDS else data[:8] + b"avif" + data[12:]
