"""`semdis inspect`: what latents are, and what made them."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from semdis_cli.cli.display import open_display
from semdis_cli.cli.options import Reporting, StoredLatents, command
from semdis_cli.cli.report import describe_left_out, describe_renamed, follow
from semdis_cli.cli.setup import refuse_others, refuse_pipes
from semdis_cli.cli.streams import put
from semdis_cli.cli.tables import Section, first_rows, show
from semdis_cli.defaults import PICTURES_MARKER
from semdis_cli.errors import ExitCode
from semdis_cli.files.json_text import strict_json
from semdis_cli.files.url import Location
from semdis_cli.option import Option
from semdis_cli.settings import PictureSettings
from semdis_cli.wording import count, flatten

Channels = Annotated[bool, Option("Mean and std of every channel.")]

_NAMED_CLASSES = 4
_FAR_MEAN, _FAR_STD = 0.05, 0.05

Json = dict[str, Any]


@command()
def inspect(
    *,
    latents: StoredLatents = Path("latents"),
    channels: Channels = False,
    pictures: PictureSettings,
    reporting: Reporting,
) -> None:
    """Show what latents are: what made them, how many, how large, what failed, and their statistics.

    Reads the lists of a set, or the whole of a single shard; `semdis verify` says whether a set is whole. Pictures are
    PNG files with the names of the images, beside a legend; for them all latents are read.

    Example: `semdis inspect latents/ --pca colours/`
    """
    from semdis_cli.store.verifying.summary import summarise

    refuse_pipes(latents, pictures.pca, pictures.channels)
    refuse_others(latents)
    _check_folders(pictures)
    summary = summarise(latents)
    code = _draw(latents, pictures, reporting, summary) if pictures.folders else ExitCode.OK
    if reporting.as_json:  # it never says more than errors, but -q is good for every command
        put(strict_json(summary))
    else:
        for section in _sections(summary, with_channels=channels):
            show(section)
    raise typer.Exit(code)


def _check_folders(pictures: PictureSettings) -> None:
    """Raise `UsageError` for a folder that cannot be written, before anything is read."""
    from semdis_cli.files.claim import check_image_folder

    for flag, folder in pictures.folders.items():
        check_image_folder(folder, PICTURES_MARKER, flag)


def _draw(latents: Location, pictures: PictureSettings, reporting: Reporting, summary: Json) -> ExitCode:
    """Write pictures of latents, and add to `summary` what was found out for them. Returns the exit code."""
    from semdis_cli.evaluation.draw import PictureJob, draw_pictures
    from semdis_cli.evaluation.pictures import ChannelPictures, PcaPictures
    from semdis_cli.evaluation.spectrum import describe_spectrum
    from semdis_cli.evaluation.stored import fit_basis
    from semdis_cli.store.reader import open_latents

    source = open_latents(latents)
    with open_display(quiet=reporting.quiet) as display:
        fit = fit_basis(source, display.plan)
    basis, code = fit.basis(), ExitCode.OK
    summary["statistics"] |= describe_spectrum(basis.explained)
    for flag, folder in pictures.folders.items():
        kind = PcaPictures(basis) if flag == "--pca" else ChannelPictures.of(fit)
        events = draw_pictures(PictureJob(source, kind, folder, flag, pictures.scale))
        told = Reporting(as_json=False, quiet=reporting.quiet)
        code = max(code, follow(events, told, summarise=_pictures_in))
    return code


def _pictures_in(report: Json) -> str:
    return f"{count(report['images']['ok'], 'picture')} in {report['output']}{describe_renamed(report)}"


def _sections(summary: Json, *, with_channels: bool) -> Iterator[Section]:
    """All that there is to tell, top to bottom."""
    yield Section(summary["latents"], ("", ""), tuple(_facts(summary)))
    yield Section("Settings", ("", ""), tuple(flatten(summary["provenance"])))
    versions = [
        (f"{version['shards']:,}", f"{version['latents']:,}", line)
        for version in summary.get("versions", ())
        for line in version["differs"] or ["the settings above"]
    ]
    if versions:
        yield Section("Versions that made them", ("#shards", "#latents", "differs in"), versions)
    buckets = [
        (_by(bucket["grid"]), _by(bucket["image_px"]), f"{bucket['images']:,}", _size(bucket["bytes"]))
        for bucket in summary["buckets"]
    ]
    yield Section("Sizes", ("#grid", "#pixels", "#images", "#latents"), first_rows(buckets, "sizes"))
    columns = [
        (name, f"{facts['images']:,}", f"{facts['missing']:,}", _classes(facts))
        for name, facts in summary.get("columns", {}).items()
    ]
    if columns:
        yield Section("Columns", ("name", "#images", "#missing", "classes"), first_rows(columns, "columns"))
    tensors = [
        (name, facts["dtype"], _shape(facts), f"{facts['images']:,}", f"{facts['missing']:,}", _size(facts["bytes"]))
        for name, facts in summary.get("tensors", {}).items()
    ]
    if tensors:
        headings = ("name", "dtype", "shape", "#images", "#missing", "#size")
        yield Section("Columns of tensors", headings, first_rows(tensors, "columns"))
    yield from _groups("Failures", "reason", summary["failures"])
    yield from _groups("Notes", "note", summary["notes"])
    shards = [(shard["name"], f"{shard['images']:,}", _size(shard["bytes"])) for shard in summary["shards"]]
    yield Section("Shards", ("name", "#images", "#size"), first_rows(shards, "shards"))
    yield from _statistics(summary["statistics"], with_channels=with_channels)


def _facts(summary: Json) -> Iterator[tuple[str, str]]:
    images, sizes, sources = summary["images"], summary["bytes"], summary["sources"]
    yield "images", f"{images['ok']:,} ok, {images['failed']:,} failed"
    if images["removed"] or images["superseded"]:
        yield "not served", f"{images['removed']:,} removed, {images['superseded']:,} superseded"
    if left_out := summary.get("left_out"):
        yield "left out", describe_left_out(left_out)
    yield "sources", f"{_size(sources['bytes'])}, {sources['megapixels']:,.1f} megapixels"
    if num_masks := summary.get("mask_files"):
        yield "masks", f"files of {count(num_masks, 'image')}"
    yield "latents", _size(sizes["latents"])
    on_disk = sizes["shards"] + sizes["index"] + sizes.get("tensors", 0)
    yield "on disk", f"{_size(on_disk)}, shards: {len(summary['shards']):,}"


def _shape(facts: Json) -> str:
    """`12..77 x 4096`, or `768`, or nothing of plain numbers."""
    least, most = facts["lengths"]
    sizes = [f"{least}" if least == most else f"{least}..{most}", *map(str, facts["shape"][1:])]
    return " x ".join(sizes) if facts["shape"] else ""


def _classes(facts: Json) -> str:
    """`2: 0 cat (17), 1 dog (4)`: how many classes there are, and the first ones with the numbers of their images."""
    names, counts = facts.get("classes", ()), facts.get("images_by_class", {})
    first = ", ".join(
        f"{' '.join([number, *names[int(number) : int(number) + 1]])} ({images:,})"
        for number, images in islice(counts.items(), _NAMED_CLASSES)
    )
    return f"{len(counts):,}: {first}{', ...' if len(counts) > _NAMED_CLASSES else ''}" if counts else ""


def _groups(title: str, what: str, groups: Sequence[Json]) -> Iterator[Section]:
    if groups:
        rows = [(f"{group['images']:,}", group["pattern"], group["example"]["key"]) for group in groups]
        yield Section(title, ("#images", what, "for example"), first_rows(rows, "kinds"))


def _statistics(statistics: Json, *, with_channels: bool) -> Iterator[Section]:
    """The extremes over channels, or all of them."""
    mean, std = statistics["mean"], statistics["std"]
    if not mean or not statistics["positions"]:
        return
    num_far_mean = sum(abs(value) >= _FAR_MEAN for value in mean)
    num_far_std = sum(abs(value - 1) > _FAR_STD for value in std)
    rows = (
        ("mean", _extreme(mean, min(mean)), _extreme(mean, max(mean)), f"{num_far_mean:,} beyond ±{_FAR_MEAN}"),
        ("std", _extreme(std, min(std)), _extreme(std, max(std)), f"{num_far_std:,} beyond 1 ± {_FAR_STD}"),
    )
    title = f"Statistics of {len(mean):,} channels over {statistics['positions']:,} positions"
    yield Section(title, ("", "smallest", "largest", "channels off"), rows)
    if explained := statistics.get("explained_variance"):
        yield _spectrum(statistics, explained)
    if with_channels:
        every = [(f"{number}", f"{mean[number]:.6f}", f"{std[number]:.6f}") for number in range(len(mean))]
        yield Section("Channels", ("#channel", "#mean", "#std"), every)


def _spectrum(statistics: Json, explained: Sequence[float]) -> Section:
    """The shares of the variance of the first principal components."""
    together = list(accumulate(explained))
    chosen = [number for number in (1, 2, 3, 4, 8, 16, 32, 64, 128) if number < len(explained)] + [len(explained)]
    rows = [(f"{number}", f"{explained[number - 1]:.2%}", f"{together[number - 1]:.2%}") for number in chosen]
    ranks = f"effective rank {statistics['effective_rank']:.1f}, participation ratio"
    title = f"Explained variance ({ranks} {statistics['participation_ratio']:.1f})"
    return Section(title, ("#component", "#alone", "#with those before"), rows)


def _extreme(values: Sequence[float], value: float) -> str:
    return f"{value:.4f} (channel {values.index(value)})"


def _by(sides: Sequence[int]) -> str:
    return f"{sides[0]}x{sides[1]}"


def _size(num_bytes: int) -> str:
    return count(num_bytes, "byte") if num_bytes < 2**20 else f"{num_bytes / 2**20:,.1f} MiB"
