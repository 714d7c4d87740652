"""Pages to test: pictures whose pixels are known, and figures that are told from their places."""

from pathlib import Path

import numpy as np

from semdis_cli.evaluation.page.contents import (
    Histogram,
    Page,
    PageContender,
    PageDifference,
    PageImage,
    PageMetric,
    PageVersion,
)
from semdis_cli.images.images import write_image

METRICS = (PageMetric("psnr_db", "PSNR", "dB", 2, True), PageMetric("lpips", "LPIPS", "", 3, False))
TITLES = ("one step", "ten steps")
LARGE, SMALL = (160, 240), (48, 64)
OFFSETS = (4, 10)  # of each contender's pixels from the original's


def make_page(folder: Path, num_images: int, titles: tuple[str, ...] = TITLES) -> Page:
    """A page whose image i has PSNRs of 20 + i (and one more) dB; every second one is small."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {size: _files(folder, size) for size in (LARGE, SMALL)}
    images = [_image(number, *files[(LARGE, SMALL)[number % 2]], len(titles)) for number in range(num_images)]
    return Page(
        title="photos against themselves",
        metrics=METRICS,
        contenders=[_contender(place, title, images) for place, title in enumerate(titles)],
        images=images,
        num_measured=num_images,
        failures=[("broken.jpg", "damaged JPEG")],
        differences=[PageDifference("psnr_db", title, titles[0], 1.0, 0.5, 1.5, num_images) for title in titles[1:]],
        explained=(0.5, 0.2, 0.1),
        provenance=[("Command", "semdis eval photos/"), ("Model", "tiny")],
    )


def pixels(size: tuple[int, int], offset: int = 0) -> np.ndarray:
    """[H,W,3] uint8: noise in 40..120, with `offset` added to all of it."""
    values = np.random.default_rng(size[0]).integers(40, 121, (*size, 3), np.uint8)
    return values + np.uint8(offset)


def _files(folder: Path, size: tuple[int, int]) -> tuple[tuple[int, int], list[Path]]:
    """Original, latents and versions."""
    grid = np.random.default_rng(0).integers(0, 256, (size[0] // 16, size[1] // 16, 3), np.uint8)
    pictures = [pixels(size), grid, *(pixels(size, offset) for offset in OFFSETS)]
    paths = [folder / f"{size[0]}-{number}.png" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(write_image(picture, "png"))
    return size, paths


def _image(number: int, size: tuple[int, int], files: list[Path], num_versions: int) -> PageImage:
    versions = (
        PageVersion(
            files[2 + place], {"psnr_db": 20.0 + number + place, "lpips": ((7 * number) % 10) / 20 + place / 100}
        )
        for place in range(num_versions)
    )
    return PageImage(f"photos/image {number:04d}.jpg", size, files[0], files[1], tuple(versions))


def _contender(place: int, title: str, images: list[PageImage]) -> PageContender:
    values = {
        metric.name: np.array([image.versions[place].figures[metric.name] for image in images]) for metric in METRICS
    }
    return PageContender(
        title=title,
        facts=(("steps", str(1 + 9 * place)),),
        summary={name: _summary(found) for name, found in values.items()},
        histograms={name: _histogram(found) for name, found in values.items()},
        set_figures={"rFID": 3.5 + place},
    )


def _summary(values: np.ndarray) -> dict[str, float]:
    names = ("median", "p5", "p95", "min", "max")
    quantiles = np.percentile(values, [50, 5, 95, 0, 100])
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        **dict(zip(names, map(float, quantiles), strict=True)),
    }


def _histogram(values: np.ndarray) -> Histogram:
    counts, edges = np.histogram(values, 10)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))
