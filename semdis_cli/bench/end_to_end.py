"""`encode` and `decode` as the commands run them, from files to files."""

import shutil
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.bench.limit import Limit, Reached, Setting, Spread, StageCost, explain, find_limit
from semdis_cli.errors import UsageError
from semdis_cli.events import Event, RunFinished
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.settings import DecodeSettings, EncodeSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.stops import looking
from semdis_cli.store.reader import open_latents
from semdis_cli.wording import count

_STAGES = ("read_s", "encode_s", "decode_s", "write_s", "wait_s")


@dataclass(frozen=True)
class EndToEnd:
    """Whole runs, start-up left out, beside the limit that their stages set.

    `share_of_limit`: of each run, by the stages just before and after it, since a machine drifts more than a run falls
    short. `limit`: by the stages of all times. `busy_shares`: of the time of all threads, by what they did, `wait` for
    nothing.
    """

    num_images: int
    elapsed_s: Spread
    images_per_s: Spread
    megapixels_per_s: Spread
    limit: Limit
    share_of_limit: Spread
    busy_shares: dict[str, float]
    explanation: str


@dataclass(frozen=True)
class Run:
    """Figures of one run, from its report."""

    num_images: int
    elapsed_s: float
    megapixels_per_s: float
    busy_shares: dict[str, float]

    @property
    def images_per_s(self) -> float:
        """Return images from files to files in a second."""
        return self.num_images / max(self.elapsed_s, 1e-9)

    @classmethod
    def of(cls, events: Iterator[Event]) -> "Run":
        """Carry out a run. Raises `UsageError` if one of its images fails: it would be measured as if it were fast."""
        report: dict[str, Any] = {}
        try:
            for event in looking(events):
                if isinstance(event, RunFinished):
                    report = event.report
        finally:
            if isinstance(events, Generator):  # its threads end before its folder is removed
                events.close()
        if report["images"]["failed"]:
            raise UsageError(
                f"{count(report['images']['failed'], 'image')} failed: measure with images that can be used"
            )
        thread_s = report["threads"] * max(report["elapsed_s"], 1e-9)
        shares = {name.removesuffix("_s"): report["stages"][name] / thread_s for name in _STAGES}
        return cls(report["images"]["this_run"], report["elapsed_s"], report["megapixels_per_s"], shares)


def run_encode(found: FoundImages, loader: Loader, tokenizer: Tokenizer, settings: EncodeSettings, output: Path) -> Run:
    """Encode into `output` from the start, whatever is there, and leave the latents there."""
    _remove(output)
    return Run.of(encode(found, loader, tokenizer, settings, output))


def run_decode(latents: Path, tokenizer: Tokenizer, settings: DecodeSettings, output: Path) -> Run:
    """Decode `latents` into `output` from the start, whatever is there."""
    _remove(output)
    return Run.of(decode(open_latents(latents), tokenizer, settings, output))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Costs:
    """Costs of a verb's stages: over all of its runs, and around each of them."""

    overall: Sequence[StageCost]
    around: Sequence[Sequence[StageCost]]


def summarise(verb: str, runs: Sequence[Run], costs: Costs, num_threads: int, others: Sequence[Setting]) -> EndToEnd:
    """Compare the runs of a verb with the limit that its stages set. `others`: settings that could be used instead."""
    limit = find_limit(costs.overall, num_threads)
    limits = [find_limit(one, num_threads) for one in costs.around]
    share = Spread.of([run.images_per_s / near.images_per_s for run, near in zip(runs, limits, strict=True)])
    busy_shares = {name: Spread.of([run.busy_shares[name] for run in runs]).median for name in runs[0].busy_shares}
    return EndToEnd(
        num_images=runs[0].num_images,
        elapsed_s=Spread.of([run.elapsed_s for run in runs]),
        images_per_s=Spread.of([run.images_per_s for run in runs]),
        megapixels_per_s=Spread.of([run.megapixels_per_s for run in runs]),
        limit=limit,
        share_of_limit=share,
        busy_shares=busy_shares,
        explanation=explain(verb, limit, Reached(share.median, busy_shares["wait"]), others),
    )
