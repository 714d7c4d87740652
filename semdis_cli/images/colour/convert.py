"""Any kind of sample to 8-bit sRGB: bit depth, palette, alpha and the meaning of the colours."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from semdis_cli.errors import UnreadableImageError
from semdis_cli.images.colour.profiles import conversion_of
from semdis_cli.images.colour.spaces import Profile
from semdis_cli.images.colour.tone_mapping import HighRange, tone_mapped


@dataclass(frozen=True, slots=True)
class Samples:
    """Meaning of the stored samples, as far as Pillow's mode does not say it.

    `white`: the value of white in modes of more than 8 bits; None: their range is not defined. `is_inverted`: there, 0
    is white. `transparent`: the colour that stands for "nothing here", as a value of the image's mode. `drawn`: box
    (left, top, right, bottom) outside of which there is nothing. `profile`: ICC profile, empty if it is known to be
    broken; or what samples of high dynamic range mean; None for sRGB. `notes`: what is ignored of what the file says of
    its colours. `is_cut`: 16 bits of grey are cut to 8 and not rounded, as browsers do before they apply a profile.
    `low`: the low bytes of 16-bit colour, where they count. `mixes_black`: black is mixed into the other inks before a
    profile for CMYK is asked, as browsers do.
    """

    white: int | None = 255
    is_inverted: bool = False
    transparent: int | tuple[int, ...] | None = None
    drawn: tuple[int, int, int, int] | None = None
    profile: Profile | None = None
    notes: tuple[str, ...] = ()
    is_cut: bool = False
    low: Image.Image | None = None
    mixes_black: bool = False


def split_alpha(image: Image.Image, samples: Samples) -> tuple[Image.Image, Image.Image | None]:
    """Split into colour as mode L, RGB or CMYK, and alpha as mode L (None: opaque everywhere), of the size of `image`.

    16-bit grey is scaled by 1/257 and rounded (12-bit by 255/4095); 16-bit colour comes from Pillow as its high bytes.
    Raises `UnreadableImageError` for samples without a defined range (floats, 32-bit integers).
    """
    alpha = _alpha(image, samples)
    image.info.clear()  # transparency is in alpha now, the profile in `samples`; both would follow further conversions
    return _opaque(image, samples), alpha


def to_srgb(colour: Image.Image, samples: Samples) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert an image of mode L, RGB or CMYK to mode RGB in sRGB; also notes about what could not be used or kept.

    Without a usable profile L and RGB are taken for sRGB, and CMYK for plain ink: R = (255-C)(255-K)/255.
    """
    profile = samples.profile
    if isinstance(profile, HighRange):
        return Image.fromarray(tone_mapped(_deep(colour, samples.low), profile)), (*samples.notes, profile.note)
    conversion, notes = (
        (None, ()) if profile is None else conversion_of(profile, colour.mode, mixes_black=samples.mixes_black)
    )
    return (_rgb(colour) if conversion is None else conversion(colour)), samples.notes + notes


def samples_to_srgb(pixels: np.ndarray, mode: str, samples: Samples) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert [H,W,3] uint8 as `to_srgb` does; in mode L the three are equal, and the profile may be for grey."""
    if samples.profile is None:
        return pixels, samples.notes
    colour = Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)
    rgb, notes = to_srgb(colour, samples)
    return np.array(rgb), notes


def composite(colour: Image.Image, alpha: Image.Image | None, background: tuple[int, int, int]) -> Image.Image:
    """Lay a picture over `background`, mode RGB: (colour·alpha + background·(255-alpha))/255, rounded to nearest.

    Computed on sRGB values, not on light, because that is what browsers do and what drawings are made for.
    """
    if alpha is None:
        return colour
    canvas = Image.new("RGB", colour.size, background)
    canvas.paste(colour, mask=alpha)
    return canvas


def _alpha(image: Image.Image, samples: Samples) -> Image.Image | None:
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
        alpha: Image.Image | None = image.getchannel(image.mode[-1])
    elif image.mode == "P" and image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    elif samples.transparent is not None:
        alpha = _differs(image.convert("L") if image.mode == "1" else image, samples.transparent)
    else:
        alpha = None
    return alpha if samples.drawn is None else _only_inside(samples.drawn, alpha, image)


def _differs(image: Image.Image, colour: int | tuple[int, ...]) -> Image.Image:
    """Return 255 where the pixel differs from `colour`, 0 where it equals it."""
    differs = np.asarray(image) != np.asarray(colour)
    return Image.fromarray(np.where(differs.any(axis=2) if differs.ndim == 3 else differs, 255, 0).astype(np.uint8))


def _only_inside(box: tuple[int, int, int, int], alpha: Image.Image | None, image: Image.Image) -> Image.Image | None:
    if box == (0, 0, *image.size):
        return alpha
    inside = Image.new("L", image.size, 0)
    inside.paste(255 if alpha is None else alpha.crop(box), box)
    return inside


def _opaque(image: Image.Image, samples: Samples) -> Image.Image:
    """Return the image without its alpha, as mode L, RGB or CMYK; premultiplied colours are divided by their alpha."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _scaled(image, samples)
    if mode in {"La", "RGBa"}:
        image = image.convert(mode[:-1] + "A")
    if mode in {"1", "L", "LA", "La"}:
        return image.convert("L")
    if mode == "LAB":
        return _lab_transform().apply(image)
    return image if mode == "CMYK" else _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # Pillow would copy an RGB image


def _deep(colour: Image.Image, low: Image.Image | None) -> np.ndarray:
    """Return the samples as [H,W,3] uint8, or uint16 where the low bytes are there."""
    high = np.asarray(_rgb(colour))
    return high if low is None else high.astype(np.uint16) << 8 | np.asarray(_rgb(low))


def _scaled(image: Image.Image, samples: Samples) -> Image.Image:
    white = samples.white
    if white is None or image.mode == "F":
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise UnreadableImageError(f"{kind} samples without a defined range: convert the file to 8 or 16 bits")
    values = np.minimum(np.asarray(image).astype(np.uint32), white)
    if samples.is_inverted:
        values = white - values
    if samples.is_cut:
        return Image.fromarray((values >> 8).astype(np.uint8))
    return Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    """Convert CIE L*a*b* (D50) to sRGB, exactly: by the usual table of 33³ colours, single pixels are 50 levels off."""
    lab, srgb, exact = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), ImageCms.Flags.NOOPTIMIZE
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", flags=exact)
