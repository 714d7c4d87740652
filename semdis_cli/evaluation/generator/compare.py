"""`--generator`: sets of latents -> images in common -> a curve for each set and seed -> report and pictures."""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import torch

from semdis_cli.defaults import GENERATOR_MARKER
from semdis_cli.evaluation.generator.curves import PlotFormat, check_matplotlib, plot_curves
from semdis_cli.evaluation.generator.dit import SHAPES, DiT
from semdis_cli.evaluation.generator.facts import SetFacts, notes, picture_note, report_of
from semdis_cli.evaluation.generator.matched import MatchedSets, match_sets
from semdis_cli.evaluation.generator.settings import GeneratorRunSettings, GeneratorSettings
from semdis_cli.evaluation.generator.state import GeneratorState
from semdis_cli.evaluation.generator.summary import SetCurves
from semdis_cli.evaluation.generator.train import (
    LOG_FILE,
    STATE_FILE,
    CurveImages,
    CurveTrainer,
    Point,
    finished_points,
)
from semdis_cli.events import Event, GeneratorMeasured, RunFinished, RunStarted, TrainingProgress
from semdis_cli.files.atomic import check_free_space, make_folder, publish
from semdis_cli.files.claim import check_image_folder, claimed_folder
from semdis_cli.files.disk import count_cores
from semdis_cli.files.json_text import strict_json
from semdis_cli.model.devices import find_device, find_dtype, move_model

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class GeneratorJob:
    """A comparison as it is done."""

    settings: GeneratorSettings
    device: torch.device
    output: Path
    save_s: float


def prepare_generator(asked: GeneratorRunSettings, output: Path) -> GeneratorJob:
    """Decide what is left open: device and dtype; torch gets its threads. Raises `UsageError`."""
    check_matplotlib()
    check_image_folder(output, GENERATOR_MARKER)
    torch.set_num_threads(asked.num_threads or count_cores())
    device = find_device(asked.device)
    is_half = find_dtype(asked.dtype, device) == torch.bfloat16
    settings = replace(asked.generator, dtype="bfloat16" if is_half else "float32")
    return GeneratorJob(settings, device, output, asked.save_s)


def compare(paths: Sequence[Path], job: GeneratorJob) -> Iterator[Event]:
    """Train a generator on each set of `paths` with each seed, and publish report and pictures of the curves.

    Run again, it goes on where it was stopped. Raises `UsageError` for sets that cannot be compared or an output folder
    of another run, `StoreError`, `DivergedError`, `NoSpaceError`, `CheckpointError`.
    """
    started = time.perf_counter()
    matched = yield from match_sets(paths)
    matched.check(job.settings.batch_size)
    folders = {
        (number, seed): PurePosixPath(f"{number + 1}-seed{seed}")
        for seed in job.settings.seeds
        for number in range(len(paths))
    }
    with claimed_folder(job.output, GENERATOR_MARKER, _record(matched, job), [f / LOG_FILE for f in folders.values()]):
        images = yield from _read_images(matched, job.settings)
        facts = tuple(SetFacts.of(matched, number, one, job.settings.size) for number, one in enumerate(images))
        said = [*matched.notes(), *notes(facts, job.settings, job.device)]
        yield RunStarted(len(matched.common), 0, 0.0, note="\n".join(said))

        runs = {
            (number, seed): _CurveRun(matched, images[number], (number, seed), job.output / folder, job)
            for (number, seed), folder in folders.items()
        }
        for num_done, run in enumerate(runs.values()):
            yield from run.events(num_done, len(runs))

        curves = [
            _curves_of(one, title, [runs[number, seed] for seed in job.settings.seeds])
            for number, (one, title) in enumerate(zip(images, matched.titles, strict=True))
        ]
        _publish_pictures(job, curves, picture_note(matched, facts, job.settings, job.device))
        report = report_of(matched, facts, curves, job.settings, said) | {"device": job.device.type}
        report |= {"elapsed_s": round(time.perf_counter() - started, 1), "output": str(job.output)}
        publish(job.output / REPORT_FILE, [strict_json(report, indent=1).encode() + b"\n"])
    yield RunFinished(len(matched.common), 0, report)


def _read_images(matched: MatchedSets, settings: GeneratorSettings) -> Generator[Event, None, list[CurveImages]]:
    """Return the images of each set as its curves get them."""
    images = []
    for number in range(len(matched.sets)):
        one = yield from matched.images_of(number, settings)
        images.append(one)
    return images


def _curves_of(images: CurveImages, title: str, runs: "Sequence[_CurveRun]") -> SetCurves:
    """Return the curves of a set, one a seed."""
    held_out = images.held_out
    points = tuple(tuple(run.points) for run in runs)
    return SetCurves(title, points, tuple(held_out.linear_errors()), held_out.constant_error())


def _publish_pictures(job: GeneratorJob, curves: Sequence[SetCurves], note: str) -> None:
    title = f"How fast DiT-{job.settings.size} learns latents"
    for suffix in get_args(PlotFormat):
        publish(job.output / f"curves.{suffix}", [plot_curves(title, note, curves, suffix)])


def _record(matched: MatchedSets, job: GeneratorJob) -> dict[str, Any]:
    """Return all that decides a curve but its seed: a run that goes on is compared with it, and may add seeds."""
    settings = {name: value for name, value in job.settings.to_json().items() if name not in {"seed", "num_seeds"}}
    return {
        "command": "eval",
        "of": "generator",
        "settings": settings,
        "device": job.device.type,
        "latents_sha256": [one.sha256 for one in matched.sets],
        "images_sha256": matched.common.sha256,
    }


@dataclass(eq=False)
class _CurveRun:
    """One curve; `place`: the number of its set, and its seed."""

    matched: MatchedSets
    images: CurveImages
    place: tuple[int, int]
    folder: Path
    job: GeneratorJob

    def __post_init__(self) -> None:
        self.points: list[Point] = []

    def events(self, num_done: int, num_curves: int) -> Generator[Event, None, None]:
        """Train, unless an earlier run has finished it; `num_done` of all curves come before."""
        settings = self.job.settings
        finished = finished_points(self.folder, settings.point_steps)
        if finished is not None:
            (self.folder / STATE_FILE).unlink(missing_ok=True)  # a kill may have come before that
            self.points = finished
            yield self._measured(finished[-1])
            return
        for event in self._trainer().run():
            if isinstance(event, Point):
                self.points.append(event)
                yield self._measured(event)
            else:
                yield _of_all(event, num_done, num_curves)

    def _trainer(self) -> CurveTrainer:
        number, seed = self.place
        settings = self.job.settings
        num_channels = len(self.images.latents.normalisation.mean)
        model = DiT(SHAPES[settings.size], num_channels, self.matched.patches[number], self.matched.num_classes)
        state = GeneratorState(move_model(model.initialise(seed), self.job.device, None), settings)
        make_folder(self.folder)
        check_free_space(self.folder, 2 * state.num_bytes)
        return CurveTrainer(state, settings, seed, self.images, self.folder, save_s=self.job.save_s)

    def _measured(self, point: Point) -> GeneratorMeasured:
        number, seed = self.place
        level = self.images.held_out.linear_errors()
        return GeneratorMeasured(self.matched.titles[number], seed, point.step, point.loss / (sum(level) / len(level)))


def _of_all(event: TrainingProgress, num_done: int, num_curves: int) -> TrainingProgress:
    """Return the progress of one curve as that of all of them."""
    step, total = num_done * event.num_steps + event.step, num_curves * event.num_steps
    s_per_step = event.left_s / max(event.num_steps - event.step, 1)
    return TrainingProgress(step, total, event.loss, event.images_per_s, s_per_step * (total - step))
