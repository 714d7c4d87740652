"""Figures and pictures of a run -> the page that shows them."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from heapq import nsmallest
from math import prod
from typing import Any

import numpy as np
import torch

from semdis_cli import __version__
from semdis_cli.evaluation.page.build import write_page
from semdis_cli.evaluation.page.contents import (
    Histogram,
    Page,
    PageContender,
    PageDifference,
    PageImage,
    PageMetric,
    PageVersion,
)
from semdis_cli.evaluation.pca import BasisFit, LatentBasis
from semdis_cli.files.disk import count_cores
from semdis_cli.files.late import LateFiles
from semdis_cli.images.images import write_image
from semdis_cli.metrics.registry import METRICS, PSNR_DB
from semdis_cli.pipeline.measuring.figures import FigureRow
from semdis_cli.pipeline.measuring.kept_pictures import KeptPicture, kept_pictures
from semdis_cli.pipeline.measuring.measured import Finish, Measured
from semdis_cli.settings.page import PageSettings
from semdis_cli.stops import looking
from semdis_cli.threads import WatchedThreads, unless_stopped
from semdis_cli.wording import flatten

_NUM_BINS = 60
_POSITIONS_AT_ONCE = 1 << 13  # of latents: small images one by one take three times as long
_SET_TITLES = {"rfid": "rFID"}
_OF_MACHINE = ("compute.", "model.source", "sampling.noise", "sampling.seed")
_WORDS = {
    "model.name": "model",
    "sampling.num_steps": "steps",
    "sampling.pdg": "path-drop guidance",
    "sampling.pdg_strength": "strength",
    "store_dtype": "stored as",
}
_MOST_FAILURES = 1000


def page_of(settings: PageSettings, title: str) -> Finish:
    """Return what makes the page of a run, and says in the report where it is."""
    path = settings.report
    assert path is not None, "nobody asked for a page"

    def finish(measured: Measured) -> dict[str, Any]:
        pictures, failures = _chosen(measured)
        images, explained = _images(pictures, LateFiles(measured.pictures))
        contenders = [_contender(measured, number) for number in range(len(measured.contenders))]
        page = Page(
            title=title,
            metrics=[_metric(name) for name in METRICS if any(name in one.summary for one in contenders)],
            contenders=contenders,
            images=images,
            num_measured=measured.figures.num_ok,
            failures=failures,
            differences=[*_differences(measured)],
            explained=explained,
            provenance=[*_provenance(measured)],
        )
        written = write_page(page, path, embed_bytes=settings.embed_mib << 20)
        folder = None if written.folder is None else str(written.folder)
        return {"page": {"path": str(path), "folder": folder, "images": len(pictures), "bytes": written.num_bytes}}

    return finish


def _chosen(measured: Measured) -> tuple[list[tuple[KeptPicture, FigureRow]], list[tuple[str, str]]]:
    """Return the pictures that the page shows, in the order of their keys, and inputs that failed."""
    kept = {one.key: one for one in kept_pictures(measured.pictures, len(measured.contenders))}
    rows: dict[str, FigureRow] = {}
    failures: list[tuple[str, str]] = []
    for row in looking(measured.rows.rows()):
        if row.key in kept and row.error is None:  # one that could be read once may be gone since
            rows[row.key] = row
        if row.error is not None and len(failures) < _MOST_FAILURES:
            failures.append((row.key, row.error))
    choice = measured.choice
    assert choice is not None, "pictures were kept"
    others = [row for key, row in rows.items() if not choice.is_sampled(key)]
    worst = {row.key for row in nsmallest(choice.num_worst, others, key=_psnr_db)}
    shown = [key for key in sorted(rows) if key in worst or choice.is_sampled(key)]
    return [(kept[key], rows[key]) for key in shown], failures


def _psnr_db(row: FigureRow) -> float:
    return row.figures[0][PSNR_DB]


def _images(
    pictures: Sequence[tuple[KeptPicture, FigureRow]], files: LateFiles
) -> tuple[list[PageImage], tuple[float, ...]]:
    """Make the files of the pictures, by threads; also the share of the variance that each component explains."""
    with WatchedThreads(count_cores(), "semdis-picture") as threads:
        pack = partial(KeptPicture.packed, files=files)
        packing = [threads.submit(unless_stopped, pack, picture) for picture, _ in pictures]
        basis = _fit(picture for picture, _ in pictures)
        packed = [threads.result(one) for one in packing]
        if basis is None:
            return [], ()
        shown = zip(packed, (row for _, row in pictures), strict=True)
        return [*threads.each(partial(_image, files, basis), shown)], basis.explained


def _fit(pictures: Iterable[KeptPicture]) -> LatentBasis | None:
    """Return the one basis that all latents are coloured by; None for no pictures."""
    fit: BasisFit | None = None
    for latents in _stacked(looking(pictures)):
        fit = BasisFit(latents.shape[1]) if fit is None else fit
        fit.add(latents)
    return None if fit is None else fit.basis()


def _stacked(pictures: Iterable[KeptPicture]) -> Iterator[torch.Tensor]:
    """Yield latents float32 [N,Z,h,w], of as many images in a row as are alike and not too large together."""
    part: list[np.ndarray] = []
    for picture in pictures:
        latents = picture.latents
        is_full = (len(part) + 1) * prod(latents.shape[1:]) > _POSITIONS_AT_ONCE
        if part and (is_full or latents.shape != part[0].shape):
            yield torch.from_numpy(np.stack(part).astype(np.float32))
            part = []
        part.append(latents)
    if part:
        yield torch.from_numpy(np.stack(part).astype(np.float32))


def _image(files: LateFiles, basis: LatentBasis, shown: tuple[KeptPicture, FigureRow]) -> PageImage:
    """Draw the latents of a picture."""
    picture, row = shown
    colours = basis.picture(torch.from_numpy(picture.latents.astype(np.float32)))
    pca = picture.original.with_suffix(".pca.png")
    files.write(pca, write_image(colours.transpose(1, 2, 0), "png"))
    versions = [PageVersion(*one) for one in zip(picture.versions, row.figures, strict=True)]
    return PageImage(picture.key, picture.size, picture.original, pca, tuple(versions))


def _metric(name: str) -> PageMetric:
    metric = METRICS[name]
    return PageMetric(metric.name, metric.title, metric.unit, metric.digits, metric.is_better_high)


def _contender(measured: Measured, number: int) -> PageContender:
    title, record = measured.contenders[number]
    summary = {name: one.to_json() for name, one in measured.figures.summaries(number).items()}
    histograms = {name: _histogram(values) for name, values in measured.figures.values[number].items()}
    set_figures = {_SET_TITLES[name]: value for name, value in measured.set_figures(number).items()}
    return PageContender(title, tuple(_facts(record)), summary, histograms, set_figures)


def _facts(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the settings that a person tells contenders apart by; all of them are in the page's provenance."""
    for name, value in flatten(record):
        is_idle = name == "sampling.pdg_strength" and not record["sampling"]["pdg"]
        if not (is_idle or name.startswith(_OF_MACHINE) or name.endswith("sha256") or value in {"null", "false"}):
            yield _WORDS.get(name, name.rpartition(".")[2]), value


def _provenance(measured: Measured) -> Iterator[tuple[str, str]]:
    """Give all that figures and pictures follow from."""
    yield "semdis", __version__
    yield from flatten(measured.measures, "measures")
    for title, record in measured.contenders:
        yield from flatten(record, title)
    yield from flatten(measured.provenance.to_json(), "encode")


def _histogram(values: np.ndarray) -> Histogram:
    counts, edges = np.histogram(values[~np.isnan(values)], _NUM_BINS)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _differences(measured: Measured) -> Iterator[PageDifference]:
    baseline = measured.contenders[0][0]
    for number, (title, _) in enumerate(measured.contenders):
        for name, one in (measured.figures.differences(number) if number else {}).items():
            yield PageDifference(name, title, baseline, one.mean, one.low, one.high, one.num, one.level)
