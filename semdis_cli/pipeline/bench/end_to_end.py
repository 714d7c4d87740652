"""`encode` and `decode` as the commands run them, from files to files."""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.data.loader import Loader
from semdis_cli.data.sources import FoundImages
from semdis_cli.errors import UsageError
from semdis_cli.events import Event, RunFinished
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.bench.limit import Limit, Reached
from semdis_cli.pipeline.bench.rounds import Spread
from semdis_cli.pipeline.decode import DecodeSettings, decode
from semdis_cli.pipeline.encode import EncodeSettings, encode
from semdis_cli.store.reader import open_latents

_STAGES = ("read_s", "encode_s", "decode_s", "write_s", "wait_s")


@dataclass(frozen=True)
class EndToEnd:
    """A whole run, start-up left out, beside the limit that its stages set.

    `busy_shares`: of the time of all threads, by what they did, `wait` for nothing.
    """

    num_images: int
    elapsed_s: Spread
    images_per_s: Spread
    megapixels_per_s: Spread
    limit: Limit
    share_of_limit: float
    busy_shares: dict[str, float]
    explanation: str


@dataclass(frozen=True)
class Run:
    """What one run reported."""

    num_images: int
    elapsed_s: float
    megapixels_per_s: float
    busy_shares: dict[str, float]

    @classmethod
    def of(cls, events: Iterator[Event]) -> "Run":
        """Carry out a run. Raises `UsageError` if one of its images fails: it would be measured as if it were fast."""
        report: dict[str, Any] = {}
        try:
            for event in events:
                if isinstance(event, RunFinished):
                    report = event.report
        finally:
            if isinstance(events, Generator):  # its threads end before its folder is removed
                events.close()
        if report["images"]["failed"]:
            raise UsageError(f"{report['images']['failed']} images failed: measure with images that can be used")
        thread_s = report["threads"] * max(report["elapsed_s"], 1e-9)
        shares = {name.removesuffix("_s"): report["stages"][name] / thread_s for name in _STAGES}
        return cls(report["images"]["this_run"], report["elapsed_s"], report["megapixels_per_s"], shares)


def run_encode(
    found: FoundImages,
    loader: Loader,
    tokenizer: Tokenizer,
    settings: EncodeSettings,
    output: Path,
    num_runs: int,
) -> list[Run]:
    """Encode into `output`, `num_runs` times from the start; what the last one wrote is left there."""
    return _repeat(lambda: encode(found, loader, tokenizer, settings, output), output, num_runs)


def run_decode(latents: Path, tokenizer: Tokenizer, settings: DecodeSettings, output: Path, num_runs: int) -> list[Run]:
    """Decode `latents` into `output`, `num_runs` times from the start."""
    return _repeat(lambda: decode(open_latents(latents), tokenizer, settings, output), output, num_runs)


def _repeat(start: Callable[[], Iterator[Event]], output: Path, num_runs: int) -> list[Run]:
    runs = []
    for _ in range(num_runs):
        if output.exists():
            shutil.rmtree(output)
        runs.append(Run.of(start()))
    return runs


def summarise(runs: Sequence[Run], limit: Limit, explain: Callable[[Reached], str]) -> EndToEnd:
    """`explain`: what was reached of the limit -> what holds the run up, for a person."""
    images_per_s = Spread.of([run.num_images / max(run.elapsed_s, 1e-9) for run in runs])
    busy_shares = {name: Spread.of([run.busy_shares[name] for run in runs]).median for name in runs[0].busy_shares}
    reached = Reached(images_per_s.median / limit.images_per_s, busy_shares["wait"])
    return EndToEnd(
        num_images=runs[0].num_images,
        elapsed_s=Spread.of([run.elapsed_s for run in runs]),
        images_per_s=images_per_s,
        megapixels_per_s=Spread.of([run.megapixels_per_s for run in runs]),
        limit=limit,
        share_of_limit=reached.share_of_limit,
        busy_shares=busy_shares,
        explanation=explain(reached),
    )
