"""ICC profiles to sRGB, through LittleCMS, with the choices that browsers make."""

import io
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageCms

from semdis_cli.images.colour.icc import parse_icc, retagged, with_plain_lab
from semdis_cli.images.colour.spaces import icc_code_points
from semdis_cli.images.colour.tone_mapping import HighRange, tone_mapped

Conversion = Callable[[Image.Image], Image.Image]

# Descriptions of profiles that are sRGB itself; converting from them would cost time and rounding for nothing.
_SRGB_DESCRIPTIONS = frozenset({"sRGB", "sRGB IEC61966-2.1", "sRGB IEC61966-2-1", "sRGB built-in", "sRGB2014", "c2"})
_SPACES = {"L": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}
_SRGB_LEVELS = 3  # by which a profile of sRGB may be off
_VERSION_2 = 0x02400000
_LEVELS = np.arange(256, dtype=np.uint8)


@lru_cache(maxsize=16)
def conversion_of(data: bytes, mode: str, *, mixes_black: bool = False) -> tuple[Conversion | None, tuple[str, ...]]:
    """Find the conversion of pictures of `mode` from a profile to sRGB; None if there is none to do, and why.

    As in browsers it is by the perceptual intent, or by the primaries of a profile without tables; and a grey picture
    may have a profile for RGB, of R = G = B. `mixes_black`: a CMYK picture is turned into one without black (K) before
    its profile is asked, as browsers do; otherwise it is seen as the press prints it. Kept for the next image: one
    camera or program writes one profile into all its files, and a conversion serves many threads at once.
    """
    profile = parse_icc(data)
    if profile is None:
        return None, ("unusable ICC profile: ignored",)
    wanted = _SPACES[mode]
    if profile.space not in wanted:
        return None, (f"the ICC profile is for {profile.space}, the image is {wanted[0]}: ignored",)
    coded = icc_code_points(profile) if profile.space == "RGB" else None
    if isinstance(coded, HighRange):
        return (lambda picture: _tone_mapped(picture, coded)), (coded.note,)
    build: Callable[[bytes], Conversion | None] = (
        _as_printed if mode == "CMYK" and not mixes_black else partial(_conversion, mode=mode)
    )
    try:
        return build(data if coded is None else coded), ()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, ("unusable ICC profile: ignored",)


def _as_printed(data: bytes) -> Conversion:
    """Convert all inks by their profile, with compensation for the black point, for formats that no browser shows."""
    source, flags = ImageCms.ImageCmsProfile(io.BytesIO(data)), ImageCms.Flags.HIGHRESPRECALC
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "CMYK", "RGB", flags=flags).apply


def _conversion(data: bytes, mode: str) -> Conversion | None:
    source, profile = ImageCms.ImageCmsProfile(io.BytesIO(with_plain_lab(data))), parse_icc(data)
    if profile is None:
        raise ValueError("not a profile")
    transform = _transform(source, mode="L" if profile.space == "GRAY" else profile.space, is_table=profile.is_table)
    if source.profile.profile_description in _SRGB_DESCRIPTIONS and _changes_little(transform):
        return None
    if mode == "CMYK":
        return lambda picture: transform.apply(_without_black(picture))
    return _by_table(transform) if mode == "L" else transform.apply


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tell whether an RGB transform leaves pure colours and greys about as they are: a description is soon copied."""
    if transform.input_mode != "RGB":
        return False
    probes = np.concatenate(
        [_LEVELS[:, None].repeat(3, axis=1), _LEVELS[::51, None, None] * np.eye(3, dtype=np.uint8)], axis=None
    )
    stored = probes.reshape(1, -1, 3)
    return int(np.abs(np.asarray(transform.apply(Image.fromarray(stored))).astype(int) - stored).max()) <= _SRGB_LEVELS


def _transform(source: ImageCms.ImageCmsProfile, mode: str, *, is_table: bool) -> ImageCms.ImageCmsTransform:
    """Make LittleCMS's transform to sRGB.

    Tables are read colour by colour (through its usual table of 49³ or 23⁴ colours single ones are 20 levels off), and
    for version 2: to a profile of version 4 LittleCMS compensates for the black point, which browsers do not.
    """
    if mode == "RGB" and not is_table:
        flags = ImageCms.Flags.HIGHRESPRECALC
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
    return ImageCms.buildTransform(source, _srgb_2(), mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE)


@lru_cache(maxsize=1)
def _srgb_2() -> ImageCms.ImageCmsProfile:
    latest = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return ImageCms.ImageCmsProfile(io.BytesIO(retagged(latest, _VERSION_2, "RGB")))


def _by_table(transform: ImageCms.ImageCmsTransform) -> Conversion:
    """Look the transform of each of the 256 greys up in a table."""
    greys = Image.fromarray(_LEVELS[None])
    shown = np.asarray(transform.apply(greys if transform.input_mode == "L" else greys.convert("RGB")))[0]
    tables = shown.T.reshape(-1).tolist()
    return lambda picture: Image.merge("RGB", (picture,) * 3).point(tables)


def _without_black(picture: Image.Image) -> Image.Image:
    """Mix the black of a CMYK picture into the other inks, K = 0: what is seen without a profile, as inks."""
    inks = Image.eval(picture.convert("RGB"), lambda level: 255 - level).split()
    return Image.merge("CMYK", (*inks, Image.new("L", picture.size, 0)))


def _tone_mapped(picture: Image.Image, meaning: HighRange) -> Image.Image:
    return Image.fromarray(tone_mapped(np.asarray(picture.convert("RGB")), meaning))
