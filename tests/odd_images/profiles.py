"""Files with ICC profiles: such as change the colours, and such as are of no use."""

import struct
import zlib

import numpy as np

from tests.image_bytes import icc_profile, jpeg_segment, png, png_chunk
from tests.image_profiles import press_profile
from tests.odd_images.formats import Files
from tests.odd_images.picture import ALPHA, FOUR, FOUR_GREYS, GREY, PICTURE, SEEN_THROUGH, OddImage, jpeg, saved


def profiles() -> Files:
    # The three channels drive green, blue and red light, so (g, b, r) in the file is (r, g, b) to the eye.
    profile = icc_profile("GBR")
    stored = PICTURE[:, :, [1, 2, 0]]
    chunk = _iccp(zlib.compress(profile))
    what = "profile that swaps the channels"
    yield OddImage("profile/swapped.png", what, colours=FOUR, tolerance=1), png(stored, before=[chunk])
    yield OddImage("profile/swapped.jpg", what, colours=FOUR, tolerance=5), jpeg(stored, icc_profile=profile)
    webp = saved(stored, "WEBP", lossless=True, icc_profile=profile)
    yield OddImage("profile/swapped.webp", what, colours=FOUR, tolerance=1), webp
    yield OddImage("profile/swapped.tif", what, colours=FOUR, tolerance=1), saved(stored, "TIFF", icc_profile=profile)
    see_through = png(np.concatenate([stored, ALPHA], axis=2), colour_type=6, before=[chunk])
    swapped_alpha = OddImage("profile/swapped_alpha.png", f"{what}, and alpha", colours=SEEN_THROUGH, tolerance=1)
    yield swapped_alpha, see_through
    plain = jpeg(icc_profile=icc_profile("RGB"))
    yield OddImage("profile/same_as_srgb.jpg", "profile that changes nothing", colours=FOUR, tolerance=4), plain
    swapped = jpeg(stored)
    start = swapped.index(b"\xff\xda")
    behind = jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + profile)
    moved = OddImage("profile/behind.jpg", "profile behind the frame header", colours=FOUR, tolerance=5)
    yield moved, swapped[:start] + behind + swapped[start:]
    grey = jpeg(GREY, icc_profile=press_profile())
    for_another = OddImage(
        "profile/for_another_mode.jpg", "CMYK profile in a grey file", colours=FOUR_GREYS, tolerance=2, has_note=True
    )
    yield for_another, grey
    yield from _broken_profiles(profile)


def _broken_profiles(profile: bytes) -> Files:
    whole = jpeg()
    first_of_two = jpeg_segment(0xE2, b"ICC_PROFILE\0\x01\x02" + profile[:200])
    jpegs = {
        "broken": ("no profile at all", jpeg(icc_profile=b"no profile at all")),
        "cut": ("profile cut off", jpeg(icc_profile=profile[: len(profile) // 2])),
        "half_missing": ("first part of two of a profile", whole[:2] + first_of_two + whole[2:]),
        "for_ink": ("profile for CMYK in an RGB file", jpeg(icc_profile=profile[:16] + b"CMYK" + profile[20:])),
        "many_tags": (
            "profile that claims two billion tags",
            jpeg(icc_profile=profile[:128] + struct.pack(">I", 2**31 - 1) + profile[132:]),
        ),
    }
    for name, (what, data) in jpegs.items():
        yield OddImage(f"profile/{name}.jpg", what, colours=FOUR, tolerance=3, has_note=True), data
    unpackable = png(PICTURE, before=[_iccp(b"not deflate")])
    yield OddImage("profile/broken.png", "profile that cannot be unpacked", colours=FOUR, has_note=True), unpackable
    bomb = png(PICTURE, before=[_iccp(zlib.compress(bytes(20 * 2**20), 1))])
    yield OddImage("profile/bomb.png", "profile of 20 MiB once unpacked", colours=FOUR, has_note=True), bomb


def _iccp(packed: bytes) -> bytes:
    return png_chunk(b"iCCP", b"test\0\0" + packed)
