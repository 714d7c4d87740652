"""Facts of samples that Pillow does not pass on: a JPEG's profile, an AVIF's code points, low bytes of 16 bits."""

import io

from PIL import Image, ImageFile, JpegImagePlugin

from semdis_cli.images.colour.convert import Samples
from semdis_cli.images.colour.spaces import avif_code_points
from semdis_cli.images.formats.avif.box_colour import box_colour
from semdis_cli.images.formats.jpeg.profile import jpeg_profile
from semdis_cli.images.formats.pillow import open_image


def jpeg_samples(image: ImageFile.ImageFile, data: bytes) -> Samples:
    """Return what the samples of a JPEG mean, by a profile that may stand anywhere before the pixels.

    `image`: opened from `data`. Pillow has seen all segments: without an APP2 among them there is nothing to look for.
    """
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return Samples(profile=jpeg_profile(data), mixes_black=True) if "APP2" in image.app else Samples()


def avif_samples(image: ImageFile.ImageFile, data: bytes) -> Samples:
    """Return what the samples of an AVIF mean: a profile beats code points. `image`: opened from `data`."""
    if isinstance(profile := image.info.get("icc_profile"), bytes):
        return Samples(profile=profile)
    colour = box_colour(data)
    if colour.code_points is None:
        return Samples()
    meaning, notes = avif_code_points(*colour.code_points, colour.peak)
    return Samples(profile=meaning, notes=notes)


def low_byte_image(png: bytes) -> Image.Image | None:
    """Decode the low bytes of the samples of 16 bits of a PNG of colour; None for one of grey.

    Pillow keeps the high ones. Told that the samples are little-endian, it keeps the others.
    """
    image = open_image("PNG", io.BytesIO(png))
    if image.mode not in {"RGB", "RGBA"}:
        return None
    image.tile = [tile._replace(args=f"{image.mode};16L") for tile in image.tile]
    image.load()
    return image
