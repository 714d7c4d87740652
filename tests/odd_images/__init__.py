"""Folders of odd image files, with what must become of each: derived from the formats, not from our reader."""

from collections.abc import Iterator
from pathlib import Path

from tests.odd_images import broken, colours, formats, places, profiles, shapes
from tests.odd_images.picture import HEIGHT, WIDTH, OddImage, quadrants

__all__ = ["HEIGHT", "SECTIONS", "WIDTH", "OddImage", "build_odd_images", "odd_files", "odd_shapes", "quadrants"]

SECTIONS = {
    "JPEG": formats.jpegs,
    "Turned and mirrored": formats.turned,
    "PNG": formats.pngs,
    "PNG with transparency": formats.transparent_pngs,
    "WebP": formats.webps,
    "GIF": formats.gifs,
    "TIFF": formats.tiffs,
    "BMP": formats.bmps,
    "AVIF": formats.avifs,
    "ICC profiles": profiles.profiles,
    "Colours by numbers": colours.colours,
    "Names": formats.names,
    "JPEG, cut off": broken.cut_jpegs,
    "Others, cut off": broken.cut_others,
    "Headers that lie": broken.lies,
    "Bombs": broken.bombs,
    "Kinds that are not read": broken.unsupported,
    "No images, or damaged": broken.no_images,
}
SHAPE_SECTIONS = {"Thin and small": shapes.thin, "Headers that claim less": shapes.shorter}


def odd_files() -> Iterator[tuple[OddImage, bytes]]:
    """Every file that holds the picture, or cannot be read, and its bytes."""
    for files in SECTIONS.values():
        yield from files()


def odd_shapes() -> Iterator[tuple[OddImage, bytes]]:
    """Every file of another size, and its bytes."""
    for files in SHAPE_SECTIONS.values():
        yield from files()


def build_odd_images(folder: Path) -> list[OddImage]:
    """Write the files below `folder`, and say what they are, in key order."""
    built = places.build_in_folder(folder)
    for odd, data in (*odd_files(), *odd_shapes()):
        path = folder / odd.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        built.append(odd)
    return sorted(built, key=lambda odd: odd.key)
