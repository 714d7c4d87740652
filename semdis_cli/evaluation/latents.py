"""`semdis eval` of latents: what sets of them tell of classes, and how their channels are spread, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.defaults import EVAL_MARKER
from semdis_cli.evaluation.accuracy import Accuracy, AccuracyDifference
from semdis_cli.evaluation.features import Features, positions_per_image, read_features
from semdis_cli.evaluation.labelled import NO_CLASS, TEST, TRAIN, VALIDATION, ChosenImages, Classes, choose_images
from semdis_cli.evaluation.neighbours import TEMPERATURE, neighbour_votes
from semdis_cli.evaluation.probe import STRENGTHS, choose_probe
from semdis_cli.evaluation.spectrum import describe_spectrum, explained_variance, principal_components
from semdis_cli.events import Planning, Tell
from semdis_cli.files.atomic import publish
from semdis_cli.files.claim import claimed_folder
from semdis_cli.files.json_text import strict_json
from semdis_cli.files.set_names import REPORT_FILE
from semdis_cli.settings import LatentEvalSettings
from semdis_cli.store.reader import LatentSource

_MOST_NEIGHBOUR_ROWS = 1 << 15
_SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a method: which are right, [N] or, of a probe, [images of the test]; `facts`: what it chose."""

    correct: NDArray[np.bool_]
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class LatentFigures:
    """Figures of one set: plain values of its `statistics`, and the `answers` by method, none without classes."""

    source: LatentSource
    statistics: Mapping[str, Any]
    answers: Mapping[str, Answers]


@dataclass(frozen=True, eq=False)
class LatentReport:
    """Figures of several sets of the same images."""

    chosen: ChosenImages
    sets: Sequence[LatentFigures]
    settings: LatentEvalSettings

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        classes = self.chosen.classes
        return {
            "command": "eval",
            "of": "latents",
            "sample": {
                "images": len(self.chosen.keys),
                "of": self.chosen.num_common,
                "max_images": self.settings.max_images,
                "seed": self.settings.seed,
            },
            "labels": {"why_none": self.chosen.why_none} if classes is None else _describe_classes(classes),
            "method": _describe_method(self.settings, len(self.chosen.keys)),
            "sets": [_describe_set(figures) for figures in self.sets],
            "differences": list(_differences(self.sets)),
        }


def write_report(
    sources: Sequence[LatentSource], settings: LatentEvalSettings, output: Path, tell: Tell
) -> dict[str, Any]:
    """Evaluate `sources` as `evaluate_latents` does, write `report.json` into `output`, and return it.

    Raises `UsageError` if the folder holds something else, or the report of others, or cannot be written.
    """
    record = {"of": "latents", "latents_sha256": [source.sha256 for source in sources], **asdict(settings)}
    with claimed_folder(output, EVAL_MARKER, record, ()):
        report = evaluate_latents(sources, settings, tell).to_json() | {"output": str(output)}
        publish(output / REPORT_FILE, [strict_json(report, indent=1).encode() + b"\n"])
    return report


def evaluate_latents(sources: Sequence[LatentSource], settings: LatentEvalSettings, tell: Tell) -> LatentReport:
    """Find out about each of `sources`, of the same images; `tell` hears how far it is.

    Raises `UsageError` for sets without common images, and for a column of classes that is of no use; `StoreError` for
    damaged shards.
    """
    tell(Planning("choosing images"))
    chosen = choose_images(sources, settings)
    figures = []
    for source in sources:
        features = read_features(source, chosen, settings.seed, tell)
        answers = {} if chosen.classes is None else _ask(features, chosen, chosen.classes, settings, tell)
        figures.append(LatentFigures(source, _statistics(features), answers))
    return LatentReport(chosen, figures, settings)


def _statistics(features: Features) -> dict[str, Any]:
    eigenvalues, _ = principal_components(features.covariance.covariance)
    explained = explained_variance(eigenvalues)
    together = list(accumulate(explained))
    numbers = {f"{share:.0%}": int(np.searchsorted(together, share)) + 1 for share in _SHARES} if any(explained) else {}
    return {**features.moments.describe(), **describe_spectrum(explained), "components_for": numbers}


def _ask(
    features: Features, chosen: ChosenImages, classes: Classes, settings: LatentEvalSettings, tell: Tell
) -> dict[str, Answers]:
    """Ask every method for the classes of images: k-NN each image of all others, a probe those of the test."""
    is_used = torch.from_numpy(classes.numbers != NO_CLASS)
    labels, files = torch.from_numpy(classes.numbers)[is_used], torch.from_numpy(chosen.files)[is_used]
    parts, num_classes = torch.from_numpy(classes.parts)[is_used], len(classes.names)
    mean, positions = features.mean[is_used], features.positions[is_used]
    both = torch.cat([mean, features.std[is_used]], 1)
    answers = {}
    for name, rows in (("mean", mean[:, None]), ("mean_std", both[:, None]), ("positions", positions)):
        tell(Planning(f"k-NN and probe of {name.replace('_', ' and ')}"))
        near = rows[:, : max(1, _MOST_NEIGHBOUR_ROWS // len(rows))]
        votes = neighbour_votes(near, labels, files, num_classes, settings.num_neighbours)
        answers[f"knn_{name}"] = Answers((votes.argmax(1) == labels).numpy(), {"rows_per_image": near.shape[1]})
        answers[f"probe_{name}"] = _probe(rows, labels, parts, num_classes)
    return dict(sorted(answers.items()))


def _probe(rows: Tensor, labels: Tensor, parts: Tensor, num_classes: int) -> Answers:
    """Fit a probe to rows [N,P,F]; an image is of the class whose mean log-probability over its P rows is highest."""
    P, is_test = rows.shape[1], parts == TEST
    learnt, validation = rows[~is_test].flatten(0, 1), (parts[~is_test] == VALIDATION).repeat_interleave(P)
    chosen = choose_probe(learnt, labels[~is_test].repeat_interleave(P), validation, num_classes)
    logs = chosen.probe.log_probabilities(rows[is_test].flatten(0, 1)).view(-1, P, num_classes).mean(1)
    return Answers((logs.argmax(1) == labels[is_test]).numpy(), {"rows_per_image": P, "l2": chosen.strength})


def _describe_classes(classes: Classes) -> dict[str, Any]:
    used = classes.numbers != NO_CLASS
    numbers, parts = classes.numbers[used], classes.parts[used]
    return {
        "column": classes.column,
        "classes": len(classes.names),
        "images": len(numbers),
        "classes_left_out": list(classes.left_out),
        "split": {
            name: int((parts == part).sum())
            for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
        },
        "chance": 1 / len(classes.names),
        "majority": {
            "all": float(np.bincount(numbers).max() / len(numbers)),
            "test": float((numbers[parts == TEST] == np.bincount(numbers[parts != TEST]).argmax()).mean()),
        },
    }


def _describe_method(settings: LatentEvalSettings, num_images: int) -> dict[str, Any]:
    return {
        "knn": {
            "similarity": "cosine",
            "neighbours": settings.num_neighbours,
            "temperature": TEMPERATURE,
            "tested_on": "all images, each without those of its file",
        },
        "probe": {
            "l2_choices": list(STRENGTHS),
            "tested_on": "a fifth of the files of each class; another fifth chooses l2",
        },
        "positions_per_image": positions_per_image(num_images),
        "interval": 0.95,
    }


def _describe_set(figures: LatentFigures) -> dict[str, Any]:
    source = figures.source
    return {
        "latents": str(source.path),
        "latents_sha256": source.sha256,
        "images": len(source.keys),
        "channels": source.provenance.layout.channels,
        "statistics": dict(figures.statistics),
        "accuracy": {
            name: {**Accuracy.of(answers.correct).to_json(), **answers.facts}
            for name, answers in figures.answers.items()
        },
    }


def _differences(sets: Sequence[LatentFigures]) -> Iterator[dict[str, Any]]:
    """Yield what each set has right more often than the first, by method."""
    for number, figures in enumerate(sets[1:], 1):
        for name, answers in figures.answers.items():
            difference = AccuracyDifference.of(answers.correct, sets[0].answers[name].correct)
            yield {"method": name, "set": number, "baseline": 0, **difference.to_json()}
