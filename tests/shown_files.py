"""Image files of every kind that a browser shows, for a comparison with it: a generator for each format.

A new kind is a line in one of them, or an odd image (`tests.odd_images`), which is compared too. Where we mean to show
something else than the browser, the file is in `EXCEPTIONS`, with the reason.
"""

import importlib
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from PIL import Image

from semdis_cli.kinds.jxl_start import has_jxl
from tests.avif_bytes import avif, icc, light_level, nclx
from tests.image_bytes import png, png_chunk
from tests.image_profiles import (
    SRGB,
    SWAPPED,
    WIDE,
    bent_table_profile,
    cicp,
    grey_profile,
    press_profile,
    rgb_profile,
    useless_profiles,
)

ShownFiles = Iterator[tuple[str, bytes]]

SRGB_PLACES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
WIDE_PLACES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)

# What is shown otherwise, and why.
EXCEPTIONS = {
    "png/cHRM with a white of no luminance": "the browser shows black",
    "png/cICP with a matrix": "the browser shows nothing",
    "avif/transfer 9": "the browser shows nothing",
    "avif/transfer 12": "the browser shows nothing",
    "avif/alpha": "the browser takes the alpha plane for one of limited range",
    "avif/useless profile: cut": "the browser shows nothing",
    "avif/profile for grey": "the browser shows nothing",
    "avif/10/18": "HLG in XYZ: negative light of single channels",
}
# Of the odd images.
ODD_EXCEPTIONS = {
    "turned/exif_after.png": "the browser looks for EXIF before the pixels alone",
    "turned/lossless.webp": "the browser turns no WebP",
    "run_lengths.bmp": "the browser does not show it",
    "gaps.bmp": "the browser does not show it",
    "alpha1555.bmp": "the browser shows it as empty",
    "no_alpha.bmp": "the browser shows it as empty",
    "animated.avif": "the browser takes sequences for ones of limited range",
    "colour/log.avif": "the browser shows nothing",
    "colour/no_white.png": "the browser shows black",
}


def colours() -> np.ndarray:
    """[64,64,3] uint8: greys, ramps of pure and mixed colours, and colours from everywhere."""
    rng = np.random.default_rng(1)
    ramp = np.arange(256)[:, None]
    pure = [
        ramp * np.array(mix) for mix in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
    ]
    any_colour, dark = rng.integers(0, 256, (2048, 3)), 255 * rng.random((256, 3)) ** 3
    return np.concatenate([*pure, any_colour, dark]).astype(np.uint8).reshape(64, 64, 3)


def gama(value: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", value))


def chrm(*places: int) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8i", *places))


def png_cicp(primaries: int, transfer: int, matrix: int = 0, full_range: int = 1) -> bytes:
    return png_chunk(b"cICP", bytes([primaries, transfer, matrix, full_range]))


def iccp(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"test\0\0" + zlib.compress(profile))


def clli(brightest: int) -> bytes:
    return png_chunk(b"cLLI", struct.pack(">II", brightest * 10_000, 0))


def mdcv(brightest: int) -> bytes:
    places = (35400, 14600, 8500, 39850, 6550, 2300, 15635, 16450)
    return png_chunk(b"mDCV", struct.pack(">8HII", *places, brightest * 10_000, 100))


SRGB_CHUNK = png_chunk(b"sRGB", b"\0")


def colour_chunks() -> dict[str, Sequence[bytes]]:
    """Return what a PNG may say of its colours, alone and together."""
    swapped = iccp(rgb_profile(SWAPPED, 2.2))
    linear = gama(100_000)
    places = {
        "of nothing": (0,) * 8,
        "on a line": (31270, 32900, 20000, 20000, 30000, 30000, 40000, 40000),
        "beyond 1": (31270, 32900, 164000, 33000, 30000, 60000, 15000, 6000),
        "negative": (31270, 32900, 64000, 33000, 30000, 60000, -15000, 6000),
        "of XYZ": (33333, 33333, 100000, 0, 0, 100000, 0, 0),
        "with another white": (44757, 40745, *SRGB_PLACES[2:]),
        "with a white of no luminance": (31270, 0, *SRGB_PLACES[2:]),
        "of a short chunk": (),
    }
    chunks: dict[str, Sequence[bytes]] = {
        "nothing": [],
        "as ImageMagick": [gama(45455), chrm(*SRGB_PLACES)],
        "gamma behind primaries": [chrm(*WIDE_PLACES), gama(45455)],
        "primaries alone": [chrm(*WIDE_PLACES)],
        "gamma 0 with primaries": [gama(0), chrm(*WIDE_PLACES)],
        "linear with primaries": [linear, chrm(*WIDE_PLACES)],
        "sRGB over gamma": [linear, chrm(*WIDE_PLACES), SRGB_CHUNK],
        "sRGB with no such intent": [png_chunk(b"sRGB", b"\x09"), linear],
        "sRGB of no bytes": [png_chunk(b"sRGB", b""), linear],
        "profile over all but code points": [SRGB_CHUNK, linear, swapped],
        "broken profile, then gamma": [png_chunk(b"iCCP", b"x\0\0junk"), linear],
        "broken profile, then sRGB": [png_chunk(b"iCCP", b"x\0\0junk"), SRGB_CHUNK, linear],
        "code points over a profile": [png_cicp(12, 13), swapped],
        "code points behind a profile": [swapped, png_cicp(9, 13)],
        "unknown code points, then a profile": [png_cicp(12, 200), swapped],
        "unspecified code points, then gamma": [png_cicp(2, 13), linear],
        "cICP of limited range": [png_cicp(12, 13, 0, 0)],
        "cICP with a matrix": [png_cicp(12, 13, 9, 1)],
        "short cICP, then gamma": [png_chunk(b"cICP", bytes([12, 13, 0])), linear],
        "two gammas": [linear, gama(45455)],
        "short gamma": [png_chunk(b"gAMA", b"\0\1")],
        "light in SDR": [png_cicp(12, 13), clli(500)],
    }
    chunks |= {
        f"gamma {value}": [gama(value)] for value in (0, 1, 1000, 43181, 43182, 45455, 47727, 47728, 55556, 10**6)
    }
    chunks |= {f"gamma {value}": [gama(value)] for value in (30000, 100_000, 2**31 - 1)}
    chunks |= {f"cHRM {name}": [linear, chrm(*some)] for name, some in places.items() if some}
    chunks["cHRM of a short chunk"] = [linear, png_chunk(b"cHRM", bytes(20))]
    for code in (*range(14), 22, 23, 255):
        chunks[f"primaries {code}"] = [png_cicp(code, 13)]
    for code in (*range(20), 255):
        chunks[f"transfer {code}"] = [png_cicp(1, code)]
        chunks[f"transfer {code} of BT.2020"] = [png_cicp(9, code)]
    for peak in (0, 1, 100, 203, 204, 400, 4000, 10_000, 20_000):
        chunks[f"PQ up to {peak}"] = [png_cicp(9, 16), clli(peak)]
        chunks[f"HLG up to {peak}"] = [png_cicp(9, 18), clli(peak)]
    chunks["PQ on a screen of 4000"] = [png_cicp(9, 16), mdcv(4000)]
    chunks["PQ up to 500 on a screen of 4000"] = [png_cicp(9, 16), mdcv(4000), clli(500)]
    chunks |= {f"profile: {name}": [iccp(data)] for name, data in profiles().items()}
    return chunks


def profiles() -> dict[str, bytes]:
    """Of every kind and for every kind of picture."""
    some = {
        "swapped": rgb_profile(SWAPPED, 2.2),
        "wide": rgb_profile(WIDE, 2.2),
        "linear": rgb_profile(SRGB, 1.0),
        "gamma 1.8": rgb_profile(SRGB, 1.8),
        "table": bent_table_profile(),
        "linear grey": grey_profile(1.0),
        "grey of gamma 2.2": grey_profile(2.2),
        "press": press_profile(),
        "scanner": rgb_profile(SWAPPED, 2.2).replace(b"mntr", b"scnr"),
        "Lab": rgb_profile(SWAPPED, 2.2).replace(b"RGB ", b"Lab "),
        "longer": rgb_profile(SWAPPED, 2.2) + b"junk",
    }
    for code in (0, 1, 2, 4, 8, 11, 12, 13, 14, 16, 18):
        some[f"cicp 12/{code}"] = rgb_profile(SWAPPED, 2.2, cicp=cicp(12, code))
    for code in (0, 1, 2, 3, 9):
        some[f"cicp {code}/13"] = rgb_profile(SWAPPED, 2.2, cicp=cicp(code, 13))
    some["cicp of limited range"] = rgb_profile(SWAPPED, 2.2, cicp=cicp(12, 13, 0, 0))
    return some | {f"useless: {name}": data for name, data in useless_profiles().items()}


def pngs() -> ShownFiles:
    """Every colour chunk in RGB, and a few of them in every colour type and depth."""
    picture = colours()
    for name, chunks in colour_chunks().items():
        yield f"png/{name}", png(picture, before=chunks)
    grey = picture[:, :, 1:2]
    alpha = np.arange(4096).reshape(64, 64, 1) % 256
    palette = png_chunk(b"PLTE", picture.reshape(-1, 3)[1600:1856].tobytes())
    kinds: list[tuple[str, np.ndarray, int, int, Sequence[bytes]]] = [
        ("grey of 16 bits", grey.astype(int) * 257 - 100 * (grey > 0), 16, 0, []),
        ("RGB of 16 bits", picture.astype(int) * 256 + 77, 16, 2, []),
        ("grey and alpha", np.concatenate([grey, alpha], axis=2), 8, 4, []),
        ("RGBA", np.concatenate([picture, alpha], axis=2), 8, 6, []),
        ("RGBA of 16 bits", np.concatenate([picture.astype(int) * 256 + 99, alpha * 257], axis=2), 16, 6, []),
        ("palette", grey, 8, 3, [palette]),
        ("palette and alpha", grey, 8, 3, [palette, png_chunk(b"tRNS", bytes(range(256)))]),
        ("grey with a key", grey, 8, 0, [png_chunk(b"tRNS", b"\0\x40")]),
        ("RGB with a key", picture, 8, 2, [png_chunk(b"tRNS", b"\0\x40\0\x40\0\x40")]),
    ]
    kinds += [(f"grey of {depth} bits", grey >> (8 - depth), depth, 0, []) for depth in (1, 2, 4, 8)]
    kinds += [(f"palette of {depth} bits", grey >> (8 - depth), depth, 3, [palette]) for depth in (1, 2, 4)]
    every = colour_chunks()
    some: tuple[str, ...] = (
        "nothing",
        "gamma 100000",
        "as ImageMagick",
        "primaries 12",
        "transfer 16 of BT.2020",
        "transfer 18",
    )
    some += ("profile: wide", "profile: linear grey", "profile: table", "profile: press", "profile: cicp 12/16")
    for what, samples, depth, colour_type, before in kinds:
        for name in some:
            chunks = [*every[name], *before]
            yield f"png/{what}, {name}", png(samples, bit_depth=depth, colour_type=colour_type, before=chunks)
    yield "png/code points behind the palette", png(grey, colour_type=3, before=[palette, png_cicp(12, 13)])
    yield "png/gamma behind the pixels", png(picture, after=[gama(100_000)])


def jpegs() -> ShownFiles:
    """Grey, RGB and CMYK, with every profile."""
    smooth = Image.fromarray(colours()).resize((256, 192), Image.Resampling.BICUBIC)
    inks = Image.merge("CMYK", (*smooth.split(), smooth.convert("L").point(lambda level: level // 2)))
    modes = {"RGB": smooth, "grey": smooth.convert("L"), "CMYK": inks}
    for mode, picture in modes.items():
        for name, data in {"no profile": None, **profiles()}.items():
            yield f"jpeg/{mode}, {name}", _saved(picture, "JPEG", quality=100, subsampling=0, icc_profile=data or b"")
        for sampling in (1, 2):
            wide = rgb_profile(WIDE, 2.2)
            yield (
                f"jpeg/{mode}, sampling {sampling}",
                _saved(picture, "JPEG", subsampling=sampling, icc_profile=wide, progressive=True),
            )


def webps() -> ShownFiles:
    """Lossy and lossless, with and without alpha, with every profile."""
    picture = colours()
    alpha = (np.arange(4096).reshape(64, 64, 1) % 256).astype(np.uint8)
    for name, data in {"no profile": b"", **profiles()}.items():
        yield f"webp/lossless, {name}", _saved(Image.fromarray(picture), "WEBP", lossless=True, icc_profile=data)
    for name, data in {"no profile": b"", "wide": rgb_profile(WIDE, 2.2)}.items():
        see_through = Image.fromarray(np.concatenate([picture, alpha], axis=2))
        yield f"webp/lossless alpha, {name}", _saved(see_through, "WEBP", lossless=True, exact=True, icc_profile=data)
        yield f"webp/lossy, {name}", _saved(Image.fromarray(picture), "WEBP", quality=90, icc_profile=data)


def avifs() -> ShownFiles:
    """Code points of every kind, ranges and samplings, profiles and both."""
    picture = colours()
    for code in (*range(14), 22, 23, 255):
        yield f"avif/primaries {code}", avif(picture, [nclx(code, 13)])
    for code in (*range(10), 12, *range(13, 20), 255):
        yield f"avif/transfer {code}", avif(picture, [nclx(1, code)])
    for primaries, transfer in product((1, 4, 9, 10, 12), (1, 2, 8, 13, 16, 18)):
        yield f"avif/{primaries}/{transfer}", avif(picture, [nclx(primaries, transfer)])
    for peak in (0, 100, 300, 4000, 10_000):
        yield f"avif/PQ up to {peak}", avif(picture, [nclx(9, 16), light_level(peak)])
        yield f"avif/HLG up to {peak}", avif(picture, [nclx(9, 18), light_level(peak)])
    for matrix, full_range in product((1, 5, 6, 9), (0, 1)):
        yield f"avif/matrix {matrix}, range {full_range}", avif(picture, [nclx(12, 13, matrix, full_range)])
    smooth = np.asarray(Image.fromarray(picture).resize((256, 192), Image.Resampling.BICUBIC))
    for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:0:0"):
        yield f"avif/sampling {sampling}", avif(smooth, [nclx(12, 13)], subsampling=sampling)
    yield from _avifs_with_profiles(picture)


def _avifs_with_profiles(picture: np.ndarray) -> ShownFiles:
    swapped = icc(rgb_profile(SWAPPED, 2.2))
    yield "avif/profile", avif(picture, [swapped])
    yield "avif/profile, then code points", avif(picture, [swapped, nclx(12, 13)])
    yield "avif/code points, then a profile", avif(picture, [nclx(12, 13), swapped])
    yield "avif/no colour", avif(picture, [])
    alpha = np.arange(4096).reshape(64, 64, 1) % 256
    yield "avif/alpha", _saved(Image.fromarray(np.concatenate([picture, alpha], axis=2).astype(np.uint8)), "AVIF")
    yield "avif/useless profile: cut", avif(picture, [icc(useless_profiles()["cut"])])
    yield "avif/profile for grey", avif(picture, [icc(grey_profile(1.0))])


def others() -> ShownFiles:
    """GIF and BMP: there is nothing in them to say colours with, as far as browsers go."""
    picture = Image.fromarray(colours())
    yield "gif/palette", _saved(picture.quantize(64), "GIF")
    yield "bmp/24 bits", _saved(picture, "BMP")
    yield "bmp/palette", _saved(picture.quantize(64), "BMP")


def jxls() -> ShownFiles:
    """Lossless, of a few kinds, where the extra is there to write them."""
    if not has_jxl():
        return
    importlib.import_module("pillow_jxl")
    picture = Image.fromarray(colours())
    for mode in ("L", "RGB", "RGBA"):
        yield f"jxl/{mode}", _saved(picture.convert(mode), "JXL", lossless=True)
    yield "jxl/lossy", _saved(picture, "JXL", quality=90)


def shown_files() -> ShownFiles:
    """Every file, by its name."""
    for files in (pngs, jpegs, webps, avifs, jxls, others):
        yield from files()


def _saved(picture: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    if not options.get("icc_profile", True):
        del options["icc_profile"]
    picture.save(file, name, **options)
    return file.getvalue()
