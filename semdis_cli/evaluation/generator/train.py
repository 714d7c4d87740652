"""One curve: a generator learns one set of latents with one seed, and goes on after a kill where it was."""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semdis_cli.dataset.sampler import BucketBatchSampler
from semdis_cli.errors import CheckpointError, DivergedError, UsageError
from semdis_cli.evaluation.generator import flow
from semdis_cli.evaluation.generator.draws import Draws, noise_of
from semdis_cli.evaluation.generator.held_out import NUM_BINS, HeldOut
from semdis_cli.evaluation.generator.latents import ImageLatents
from semdis_cli.evaluation.generator.settings import GeneratorSettings
from semdis_cli.evaluation.generator.state import GeneratorState
from semdis_cli.events import TrainingProgress
from semdis_cli.files.atomic import publish
from semdis_cli.files.json_text import parse_json, strict_json
from semdis_cli.stops import look
from semdis_cli.tensors import is_out_of_memory
from semdis_cli.threads import WatchedThreads

STATE_FILE, LOG_FILE = "training.safetensors", "log.jsonl"
_PROGRESS_S = 1.0


@dataclass(frozen=True)
class Point:
    """A point of a curve: the step, mean loss of the steps since the last point, held-out loss in each bin of time."""

    step: int
    train_loss: float | None
    by_time: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Held-out loss, the mean over time."""
        return sum(self.by_time) / len(self.by_time)

    def to_json(self) -> dict[str, Any]:
        """As plain values, numbers to six digits; `from_json` leads back to these."""
        train_loss = None if self.train_loss is None else _rounded(self.train_loss)
        return {**asdict(self), "train_loss": train_loss, "by_time": list(map(_rounded, self.by_time))}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Parse what `to_json` gave. Raises `ValueError`, `KeyError` or `TypeError`."""
        train_loss, by_time = fields["train_loss"], tuple(map(float, fields["by_time"]))
        if len(by_time) != NUM_BINS:
            raise ValueError(f"{len(by_time)} bins of time, not {NUM_BINS}")
        return cls(int(fields["step"]), None if train_loss is None else float(train_loss), by_time)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


@dataclass(frozen=True, eq=False)
class LearnedImages:
    """Images to learn from, L, as a sampler wants them: `numbers` in the comparison, `labels` and `bucket_numbers`."""

    sha256: str
    numbers: NDArray[np.int64]
    labels: Tensor
    bucket_numbers: NDArray[np.int32]

    def sampler(self, settings: GeneratorSettings, seed: int) -> BucketBatchSampler:
        """Return whole batches in an order that no set of latents has a say in."""
        return BucketBatchSampler(self, settings.batch_size, seed=seed, drop_last=True)


@dataclass(frozen=True, eq=False)
class CurveImages:
    """Images of a curve: a set's latents, which of them are learned, and which are held out."""

    latents: ImageLatents
    learned: LearnedImages
    held_out: HeldOut


class CurveTrainer:
    """The run of one curve in a folder of its own."""

    def __init__(
        self,
        state: GeneratorState,
        settings: GeneratorSettings,
        seed: int,
        images: CurveImages,
        folder: Path,
        *,
        save_s: float,
    ) -> None:
        """Take over `state`."""
        self.points: list[Point] = []
        self._state, self._settings, self._seed = state, settings, seed
        self._images, self._folder = images, folder
        self._point_steps = settings.point_steps
        self._sampler = images.learned.sampler(settings, seed)
        self._num_batches = len(self._sampler)
        self._device = next(state.model.parameters()).device
        self._save_s, self._saved_at = save_s, time.perf_counter()

    def run(self) -> Iterator[TrainingProgress | Point]:
        """Take the steps until the last one, from the saved state if there is one.

        Raises `DivergedError` where a point of the curve is not finite, and `CheckpointError` for a damaged state.
        """
        path = self._folder / STATE_FILE
        if path.exists():
            self.points = _points(self._state.load(path).get("points"), self._point_steps, path)
        yield from self.points
        if not self.points:
            yield self._measure()
        first, started, told_at = self._state.step, time.perf_counter(), 0.0
        for latents, keys, labels in self._batches():
            loss = self._step(latents, keys, labels)
            step, now = self._state.step, time.perf_counter()
            if step in self._point_steps:
                yield self._measure()
            elif now - self._saved_at > self._save_s:
                self._save()
            if now - told_at > _PROGRESS_S:
                told_at, s_per_step = now, (now - started) / (step - first)
                left_s = s_per_step * (self._settings.num_steps - step)
                rate = self._settings.batch_size / s_per_step
                yield TrainingProgress(step, self._settings.num_steps, float(loss), rate, left_s)
        path.unlink(missing_ok=True)

    def _batches(self) -> Iterator[tuple[Tensor, list[str], Tensor]]:
        """Yield latents, keys and labels of the batches that are left; a thread reads one ahead."""
        learned, read = self._images.learned, self._images.latents.read
        with WatchedThreads(1, "semdis-latents") as reader:
            pending = deque[tuple[Future[tuple[Tensor, list[str]]], Tensor]]()
            for rows in chain(self._batch_rows(), [None]):
                if rows is not None:
                    pending.append((reader.submit(read, learned.numbers[rows].tolist()), learned.labels[rows]))
                if len(pending) > 1 or (rows is None and pending):
                    coming, labels = pending.popleft()
                    yield *reader.result(coming), labels

    def _batch_rows(self) -> Iterator[list[int]]:
        """Yield the images of each step that is left."""
        step = self._state.step
        while step < self._settings.num_steps:
            epoch, start = divmod(step, self._num_batches)
            self._sampler.set_epoch(epoch, start)
            for rows in self._sampler:
                if step < self._settings.num_steps:
                    yield rows
                step += 1

    def _step(self, latents: Tensor, keys: list[str], labels: Tensor) -> Tensor:
        """Take one step; return its loss, 0-dim."""
        look()
        state, settings, device = self._state, self._settings, self._device
        draws = Draws.of_step(self._seed, state.step, len(latents), settings.label_dropout)
        labels = torch.where(draws.is_hidden, state.model.num_classes, labels).to(device)
        latents, t = latents.to(device), draws.t.to(device)
        noise = noise_of(f"step {state.step}", self._seed, keys, latents)
        try:
            with self._autocast():
                v_hat = state.model(flow.interpolate(latents, noise, t), t, labels)
            loss = flow.squared_error(v_hat, flow.velocity(latents, noise)).mean()
            loss.backward()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size = settings.batch_size
            raise UsageError(f"no memory for a batch of {size}; give a smaller --generator-batch-size") from error
        state.apply_gradients(loss)
        return loss.detach()

    def _measure(self) -> Point:
        """Measure the averaged weights, and publish the curve so far."""
        state = self._state
        num_steps = state.step - (self.points[-1].step if self.points else 0)
        train_loss = float(state.loss_sum) / num_steps if num_steps else None
        point = Point(state.step, train_loss, tuple(self._images.held_out.measure(state.average, self._autocast())))
        if not math.isfinite(point.loss + (train_loss or 0.0)):
            raise DivergedError(
                f"the loss became {point.loss} by step {state.step}; try a smaller --generator-rate", place=self._folder
            )
        state.loss_sum.zero_()
        self.points.append(Point.from_json(point.to_json()))
        if time.perf_counter() - self._saved_at > self._save_s:
            self._save()
        lines = [strict_json(one.to_json()).encode() + b"\n" for one in self.points]
        publish(self._folder / LOG_FILE, lines)
        return self.points[-1]

    def _save(self) -> None:
        self._state.save(self._folder / STATE_FILE, {"points": [point.to_json() for point in self.points]})
        self._saved_at = time.perf_counter()

    def _autocast(self) -> torch.autocast:
        dtype = getattr(torch, self._settings.dtype)
        return torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32)


def finished_points(folder: Path, steps: Sequence[int]) -> list[Point] | None:
    """Return the curve with points at `steps` that an earlier run has finished in `folder`; None if it has not.

    Raises `CheckpointError`.
    """
    path = folder / LOG_FILE
    if not path.exists():
        return None
    try:
        lines = [parse_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"not the log of a curve ({error}); remove it to start this over", place=path) from error
    points = _points(lines, steps, path)
    return points if len(points) == len(steps) else None


def _points(values: object, steps: Sequence[int], path: Path) -> list[Point]:
    """Parse the points of a curve, the first of those at `steps`. Raises `CheckpointError`."""
    try:
        points = [Point.from_json(value) for value in values]  # type: ignore[attr-defined]
        found = [point.step for point in points]
        if found != list(steps[: len(found)]):
            raise ValueError(f"points at the steps {found[:5]}")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"not the points of a curve ({error!r:.80}); remove it to start this over", place=path
        ) from error
    return points
