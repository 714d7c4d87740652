"""Facts that curves cannot be read without: sizes, costs, what was run, and what none of it says."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from semdis_cli.evaluation.generator.dit import SHAPES, flops, num_parameters
from semdis_cli.evaluation.generator.matched import MatchedSets
from semdis_cli.evaluation.generator.settings import GeneratorSettings, GeneratorSize
from semdis_cli.evaluation.generator.summary import SetCurves, difference
from semdis_cli.evaluation.generator.train import CurveImages
from semdis_cli.files.json_text import escape_name
from semdis_cli.wording import count

NO_FID = (
    "A loss curve is no FID: it says how fast these latents are learned, not how good images are that are made of them."
)


@dataclass(frozen=True)
class SetFacts:
    """Facts of a set, and of the generator that learns it.

    `grids`: those of its images, as `16x16`; a token of `patch` x `patch` positions has `values_per_token`.
    `gflops_per_image`: of a forward pass, 10^9, for the largest grid.
    """

    title: str
    path: str
    latents_sha256: str
    model: str
    dtype: str
    grids: tuple[str, ...]
    channels: int
    dead_channels: int
    patch: int
    tokens_per_image: tuple[int, ...]
    values_per_token: int
    parameters: int
    gflops_per_image: float

    @classmethod
    def of(cls, matched: MatchedSets, number: int, images: CurveImages, size: GeneratorSize) -> Self:
        """Collect them."""
        one, patch, shape = matched.sets[number], matched.patches[number], SHAPES[size]
        normalisation = images.latents.normalisation
        channels = len(normalisation.mean)
        grids = [grids[number] for grids in matched.buckets.grids]
        tokens = tuple(sorted({h * w // patch**2 for h, w in grids}))
        return cls(
            title=matched.titles[number],
            path=escape_name(str(one.path)),
            latents_sha256=one.sha256,
            model=escape_name(str(one.provenance.get("model", {}).get("name"))),
            dtype=str(one.provenance.get("dtype")),
            grids=tuple(f"{h}x{w}" for h, w in sorted(set(grids))),
            channels=channels,
            dead_channels=normalisation.num_dead,
            patch=patch,
            tokens_per_image=tokens,
            values_per_token=channels * patch**2,
            parameters=num_parameters(shape, channels * patch**2, matched.num_classes),
            gflops_per_image=round(flops(shape, channels * patch**2, tokens[-1]) / 1e9, 4),
        )


def notes(facts: Sequence[SetFacts], settings: GeneratorSettings, device: torch.device) -> Iterator[str]:
    """Say what sizes mean for the comparison, a line each."""
    if len({(one.grids, one.channels) for one in facts}) > 1:
        shapes = " and ".join(f"{one.channels} x {', '.join(one.grids)}" for one in facts)
        yield f"latents of different shapes ({shapes}): equal losses do not mean equally good generators"
    width = SHAPES[settings.size].width
    for one in facts:
        if one.values_per_token > width:
            yield (
                f"{one.title}: a token has {one.values_per_token} values, more than the network is wide ({width}): it "
                "cannot learn them well; choose a larger --generator-size"
            )
        if one.dead_channels:
            yield f"{one.title}: {count(one.dead_channels, 'channel')} never change"
    if settings.num_seeds == 1:
        yield "one seed: differences have no interval; --generator-seeds 3 gives some"
    if device.type == "cpu":
        yield "a CPU's few steps are a rehearsal: conclusions need a GPU's many"


def report_of(
    matched: MatchedSets,
    facts: Sequence[SetFacts],
    curves: Sequence[SetCurves],
    settings: GeneratorSettings,
    said: Sequence[str],
) -> dict[str, Any]:
    """Return the closing report: what was run, on which images, every figure of the curves, and their differences."""
    seen = settings.num_steps * settings.batch_size
    pairs = [(one, other) for one in curves for other in curves if one is not other]
    return {
        "command": "eval",
        "of": "generator",
        "settings": settings.to_json(),
        "images": {
            "common": len(matched.common),
            "learned": len(matched.learned),
            "in_no_batch": len(matched.learned) - matched.num_usable(settings.batch_size),
            "held_out": len(matched.held_out),
            "measured": len(matched.measured(settings)),
            "seen": seen,
            "epochs": round(seen / matched.num_usable(settings.batch_size), 3),
        },
        "classes": matched.num_classes,
        "labels_from": None if matched.labels.origin is None else escape_name(matched.labels.origin),
        "loss": {
            "target": "v = eps - x at x_t = (1 - t) x + t eps, t uniform; channels of mean 0 and variance 1",
            "relative_to": "the best linear prediction of a value of v from the same value of x_t, channel by channel",
            "share_of": "the variance of v: the best constant",
        },
        "sets": [asdict(fact) | one.to_json(settings.batch_size) for fact, one in zip(facts, curves, strict=True)],
        "differences": [difference(one, other) for one, other in pairs],
        "notes": [*said, NO_FID],
    }


def picture_note(
    matched: MatchedSets, facts: Sequence[SetFacts], settings: GeneratorSettings, device: torch.device
) -> str:
    """Say below the picture what was run."""
    seen = settings.num_steps * settings.batch_size
    epochs = seen / matched.num_usable(settings.batch_size)
    parameters = " / ".join(dict.fromkeys(f"{one.parameters / 1e6:.1f}" for one in facts))
    classes = f"{matched.num_classes} classes" if matched.num_classes else "no classes"
    num_measured = len(matched.measured(settings))
    seeds = f"{count(settings.num_seeds, 'seed')}{', bands: 95 % intervals' if settings.num_seeds > 1 else ''}"
    return (
        f"{parameters} million parameters, {settings.dtype} on {device.type}; {len(matched.learned):,} images, "
        f"{classes}; {settings.num_steps:,} steps of {settings.batch_size}, {epochs:.1f} epochs; {seeds}.\n"
        f"Averaged weights on {num_measured:,} held-out images. 1: what the best linear prediction from single values "
        "leaves. A loss curve is no FID."
    )
