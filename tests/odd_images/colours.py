"""Files that say their colours by numbers, or by profiles of another kind; the outcome is what Chromium 156 shows."""

from PIL import Image

from tests.avif_bytes import avif, light_level, nclx
from tests.image_bytes import png
from tests.image_profiles import SRGB, SWAPPED, bent_table_profile, cicp, grey_profile, press_profile, rgb_profile
from tests.odd_images.formats import Files
from tests.odd_images.picture import COLOURS, GREY, HEIGHT, INKS, PICTURE, RGB, WIDTH, OddImage, jpeg, spots
from tests.shown_files import SRGB_CHUNK, SRGB_PLACES, WIDE_PLACES, chrm, gama, iccp, png_cicp

_P3: tuple[RGB, ...] = ((218, 0, 26), (0, 163, 0), (40, 40, 208), (128, 128, 128))
_BT2020: tuple[RGB, ...] = ((249, 0, 27), (0, 169, 0), (0, 36, 209), (128, 128, 128))
_PQ: tuple[RGB, ...] = ((255, 0, 0), (0, 226, 0), (0, 0, 255), (132, 132, 132))
_HLG: tuple[RGB, ...] = ((230, 0, 13), (0, 138, 0), (0, 20, 173), (99, 99, 99))
_LINEAR: tuple[RGB, ...] = ((229, 110, 110), (110, 208, 110), (110, 110, 229), (188, 188, 188))
_IMAGEMAGICK: tuple[RGB, ...] = ((201, 35, 35), (35, 161, 35), (35, 35, 201), (129, 129, 129))


def colours() -> Files:
    yield from _pngs()
    yield from _avifs()
    yield from _profiles()


def _pngs() -> Files:
    swapped = iccp(rgb_profile(SWAPPED, 2.2))
    both = [gama(45455), chrm(*SRGB_PLACES)]
    kinds = {
        "gamma": ("gAMA of linear light", [gama(100_000)], _LINEAR),
        "imagemagick": ("gAMA and cHRM as ImageMagick 6 writes them", both, _IMAGEMAGICK),
        "usual_gamma": ("gAMA of 1/2.2 alone: as usual", [gama(45455)], COLOURS),
        "primaries_alone": ("cHRM without gAMA: nothing", [chrm(*WIDE_PLACES)], COLOURS),
        "srgb_chunk": ("sRGB and another gAMA", [gama(100_000), SRGB_CHUNK], COLOURS),
        "cicp": ("Display P3 by cICP", [png_cicp(12, 13)], _P3),
        "cicp_and_profile": ("cICP and another profile", [swapped, png_cicp(12, 13)], _P3),
        "pq": ("PQ in BT.2020 by cICP", [png_cicp(9, 16)], _PQ),
        "hlg": ("HLG in BT.2020 by cICP", [png_cicp(9, 18)], _HLG),
    }
    for name, (what, chunks, expected) in kinds.items():
        has_note = expected in {_PQ, _HLG}
        odd = OddImage(f"colour/{name}.png", what, colours=spots(*expected), tolerance=1, has_note=has_note)
        yield odd, png(PICTURE, before=chunks)
    no_white = [gama(100_000), chrm(31270, 0, *SRGB_PLACES[2:])]
    for name, what, chunks in (
        ("unknown", "cICP of unknown code points", [png_cicp(12, 200)]),
        ("no_white", "cHRM with a white of no luminance", no_white),
    ):
        odd = OddImage(f"colour/{name}.png", what, colours=spots(*COLOURS), has_note=True)
        yield odd, png(PICTURE, before=chunks)


def _avifs() -> Files:
    kinds = {
        "p3": ("Display P3 by code points", [nclx(12, 13)], _P3),
        "bt2020": ("BT.2020 by code points", [nclx(9, 13)], _BT2020),
        "pq": ("PQ in BT.2020", [nclx(9, 16), light_level(1000)], _PQ),
        "hlg": ("HLG in BT.2020", [nclx(9, 18)], _HLG),
    }
    for name, (what, properties, expected) in kinds.items():
        has_note = expected in {_PQ, _HLG}
        odd = OddImage(f"colour/{name}.avif", what, colours=spots(*expected), tolerance=3, has_note=has_note)
        yield odd, avif(PICTURE, properties)
    odd = OddImage("colour/log.avif", "logarithmic values", colours=spots(*COLOURS), tolerance=3, has_note=True)
    yield odd, avif(PICTURE, [nclx(1, 9)])


def _profiles() -> Files:
    inks = Image.frombytes("CMYK", (WIDTH, HEIGHT), INKS.tobytes())
    printed: tuple[RGB, ...] = ((225, 133, 118), (123, 195, 122), (130, 133, 195), (182, 183, 168))
    mixed: tuple[RGB, ...] = ((207, 87, 87), (89, 174, 81), (68, 99, 208), (159, 160, 161))
    coded = rgb_profile(SWAPPED, 2.2, cicp=cicp(12, 13))
    kinds: dict[str, tuple[str, bytes, tuple[RGB | int, ...]]] = {
        "grey_with_rgb": (
            "RGB profile in a grey file",
            jpeg(GREY, icc_profile=rgb_profile(SRGB, 1.8)),
            (40, 109, 176, 227),
        ),
        "grey": ("grey profile", jpeg(GREY, icc_profile=grey_profile(1.0)), (96, 160, 208, 239)),
        "code_points": ("profile with code points (cicp)", jpeg(icc_profile=coded), _P3),
        "press": ("CMYK with a profile", jpeg(inks, quality=100, icc_profile=press_profile()), printed),
        "table": ("profile of a table", jpeg(icc_profile=bent_table_profile()), mixed),
    }
    for name, (what, data, expected) in kinds.items():
        yield OddImage(f"colour/{name}.jpg", what, colours=spots(*expected), tolerance=4), data
