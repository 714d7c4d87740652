"""A set of latents of one size whose images have labels, as trainers want it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semdis_cli.provenance import Provenance
from semdis_cli.store.reader import open_latents
from semdis_cli.store.writing.finished import Base
from semdis_cli.store.writing.plan import SetPlan, plan_sha256
from tests.store import PROVENANCE, SmallPlan, values_of, write_next

CLASSES = ("cat", "dog", "eel")
WHITENING = {"mean": [0.5, -1.0, 2.0], "std": [2.0, 0.3, 3.0]}
LABELS = {f"{name}/{number}.jpg": label for label, name in enumerate(CLASSES) for number in range(4)}


@dataclass(frozen=True)
class LabelledPlan(SmallPlan):
    """A plan whose labels have names."""

    classes: tuple[str, ...] = ()

    def on(self, base: Base) -> SetPlan:
        small = super().on(base)
        parts = self.provenance, small.shards, small.failures, base, small.changes, self.classes
        return replace(small, classes=self.classes, sha256=plan_sha256(*parts))


def write_labelled(
    root: Path,
    labels: Mapping[str, int | None] = LABELS,
    classes: Sequence[str] = CLASSES,
    shard_images: int = 3,
    **settings: Any,
) -> Path:
    """Write a finished set of images with these labels, by key, and names of them; None: no label."""
    record = Provenance.from_json({**PROVENANCE, "whitening": WHITENING, **settings})
    plan = LabelledPlan(record, tuple(labels), shard_images, failures=(), classes=tuple(classes))
    with plan.open(root) as latents:
        while latents.remaining:
            write_next(latents, {key: {"label": label} for key, label in labels.items() if label is not None})
        latents.finish()
    return root


def raw_in(root: Path) -> dict[str, Tensor]:
    """The raw latents of each image, [Z,h,w] float32, in the order of the shards."""
    source, whitening = open_latents(root), open_latents(root).provenance.whitening
    shards = [source.read(stored) for stored in source.shards]
    stored = {key: values_of(shard, row) for shard in shards for row, key in enumerate(shard.keys)}
    if not source.provenance.is_whitened:
        return stored
    assert whitening is not None
    mean, std = (torch.tensor(values)[:, None, None] for values in (whitening.mean, whitening.std))
    return {key: latents * std + mean for key, latents in stored.items()}
