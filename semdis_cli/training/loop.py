"""The steps of a run: losses, held-out PSNR, log, pictures, checkpoints, and going on after a kill."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semdis_cli.errors import CheckpointError, DivergedError
from semdis_cli.events import CompilingFailed, TrainingMeasured, TrainingProgress
from semdis_cli.files.atomic import explaining, publish
from semdis_cli.files.json_text import strict_json
from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.model.compiling import compile_modules, compiler_errors, first_line, uncompile_modules
from semdis_cli.model.noise import noise_of_images
from semdis_cli.model.pixels import float_to_images, images_to_float
from semdis_cli.stops import look
from semdis_cli.tensors import is_out_of_memory
from semdis_cli.training.latent_stats import mean_and_var_of
from semdis_cli.training.pictures import Reconstruction, write_sheet
from semdis_cli.training.pool import CropSampler, ImagePool
from semdis_cli.training.readings import Readings
from semdis_cli.training.settings import Rhythm, TrainingSettings
from semdis_cli.training.state import TrainingState
from semdis_cli.training.step import Forward, align, draw, forward, generator_for
from semdis_cli.training.teacher import Teacher

STATE_FILE, LOG_FILE, PICTURES = "training.safetensors", "log.jsonl", "pictures"
_MAX_MEASURED, _MAX_PICTURES, _MEASURED_PX = 64, 8, 256
_STATS_BATCHES = 100


@dataclass(frozen=True)
class TrainingImages:
    """Images of a run: those to learn from, on the device, and those to measure with."""

    crops: CropSampler
    held_out: ImagePool


class Trainer:
    """One run in one folder."""

    def __init__(
        self,
        state: TrainingState,
        settings: TrainingSettings,
        images: TrainingImages,
        folder: Path,
        *,
        teacher: Teacher | None = None,
        rhythm: Rhythm | None = None,
        is_compiled: bool = False,
    ) -> None:
        """Take over `state`. `is_compiled`: its encoder and decoder are compiled in the first step, if that works."""
        self.state = state
        self._settings = settings
        self._images = images
        self._folder = folder
        self._teacher = teacher
        self._rhythm = rhythm or Rhythm()
        self._device = state.model.device
        self._unproved = [state.model.encoder, state.model.decoder] if is_compiled else []  # compiled, if that works
        compile_modules(self._unproved, self._device)
        self._readings = Readings()
        self._waits_for_figures = self._device.type != "cuda"  # of a step before the weights take it
        self._sums: dict[str, float] = {}  # of what is logged, since the last line
        self._saved_at = time.perf_counter()

    def run(self) -> Iterator[TrainingProgress | TrainingMeasured | CompilingFailed]:
        """Take the steps until the last one, from the saved state if there is one.

        Raises `DivergedError` at the first loss or gradient that is not finite; the average of the weights before that
        step is saved. What a kill leaves behind is the last saved state, from which the same steps follow.
        """
        self._resume()
        log = Log(self._folder / LOG_FILE, self.state.step)
        clock = Clock(self.state.step, self._settings)
        if self.state.step == 0:
            yield self._measure(log)
        while self.state.step < self._settings.num_steps:
            failed, due = self._advance()
            if failed is not None:
                yield failed
            if due.log:
                yield self._report(log, clock)
            if due.measure:
                yield self._measure(log)
            elif due.save:
                self._save()

    def _advance(self) -> "tuple[CompilingFailed | None, _Due]":
        """Take a step; look at its figures if anything is due after it."""
        try:
            failed = self._step()
            rhythm, is_late = self._rhythm, time.perf_counter() - self._saved_at > self._rhythm.save_s
            due = _Due(self._is_due(rhythm.log_steps), self._is_due(rhythm.measure_steps), is_late)
            if any(due):
                self._settle()
        except DivergedError:
            self.state.save_model(self._folder)
            raise
        return failed, due

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self._settings.num_steps

    def _step(self) -> CompilingFailed | None:
        """Take one step. On CUDA its figures are looked at with the next one, or by `_settle`."""
        look()
        state = self.state
        result, failed = self._compute()
        look()
        figures = result.terms | {"loss": result.loss, "gradient_norm": state.optimizer.clip()}
        self._settle()
        self._readings.put(state.step + 1, figures)
        if self._waits_for_figures:
            self._check()
        look()
        state.apply_gradients(result.posterior.mode())
        return failed

    def _compute(self) -> tuple[Forward, CompilingFailed | None]:
        """Compute terms and gradients; where compiling fails, again without, and say so."""
        failed = None
        try:
            result = self._forward_and_backward()
        except compiler_errors() as error:
            if not self._unproved or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                raise
            uncompile_modules(self._unproved)
            self.state.optimizer.clear()
            failed = CompilingFailed(first_line(error))
            result = self._forward_and_backward()
        self._unproved = []
        return result, failed

    def _forward_and_backward(self) -> Forward:
        settings, step = self._settings, self.state.step
        crops = self._images.crops.draw(settings.batch_size, generator_for(settings.seed, "crops", step))
        images = images_to_float(crops)
        with self._autocast():
            result = self._forward(images)
        result.loss.backward()
        return result

    def _settle(self) -> None:
        """Look at the figures of the steps so far, and let the average follow."""
        self._check()
        self.state.follow()

    def _check(self) -> None:
        """Count the figures of steps. Raises `DivergedError` at the first that is not finite."""
        for reading in self._readings.take():
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(reading.values[name]):
                    raise DivergedError(
                        f"{name} became {reading.values[name]} in step {reading.step}; the weights before it are "
                        "saved; start from them (--init) with smaller rates",
                        place=self._folder,
                    )
            self._count(reading.values | {"rate": self.state.optimizer.rate(reading.step - 1)})

    def _forward(self, images: Tensor) -> Forward:
        """Compute all terms for `images` [B,3,H,W] float32 in [-1, 1]."""
        state, settings = self.state, self._settings
        noise = generator_for(settings.seed, "noise", state.step, self._device)
        result = forward(state.model, images, draw(state.model, images, settings.loss, noise), settings.loss)
        if self._teacher is not None and state.head is not None:
            chance = generator_for(settings.seed, "alignment", state.step, self._device)
            height, width = result.latents.shape[2:]
            features = self._teacher.features(images, (height, width))
            cosine = align(state.head, features, result.latents, chance)
            result.terms["alignment"] = settings.loss.alignment * cosine
        return result

    def _autocast(self) -> torch.autocast:
        dtype = getattr(torch, self._settings.dtype)
        return torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32)

    def _count(self, values: dict[str, float]) -> None:
        for name, value in {**values, "steps": 1.0}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _report(self, log: "Log", clock: "Clock") -> TrainingProgress:
        """Write a log line with the means since the last one."""
        count = self._sums.pop("steps")
        means = {name: total / count for name, total in self._sums.items()}
        self._sums = {}
        images_per_s, left_s = clock.rate_and_left_s(self.state.step)
        log.add({"step": self.state.step, **means, "images_per_s": images_per_s})
        return TrainingProgress(self.state.step, self._settings.num_steps, means["loss"], images_per_s, left_s)

    def _measure(self, log: "Log") -> TrainingMeasured:
        """Measure held-out PSNR of the averaged weights in one step; write model, log, pictures and state."""
        is_last = self.state.step == self._settings.num_steps
        self.state.save_model(self._folder, self._latent_stats() if is_last else None)
        rows = [self._reconstruct(i) for i in range(min(len(self._images.held_out), _MAX_MEASURED))]
        mean = sum(psnr_db(row.decoded, row.image) for row in rows) / len(rows)
        log.add({"step": self.state.step, "held_out_psnr_db": mean})
        write_sheet(self._folder / PICTURES / f"step-{self.state.step:07d}.png", rows[:_MAX_PICTURES])
        self._save()
        return TrainingMeasured(self.state.step, mean)

    def _latent_stats(self) -> tuple[Tensor, Tensor]:
        """Compute mean and variance [Z] of the averaged weights' latents over fresh crops.

        The running statistics are those of the weights on their way, which the average lags behind.
        """
        return mean_and_var_of(self._latents(i) for i in range(_STATS_BATCHES))

    @torch.no_grad()
    def _latents(self, number: int) -> Tensor:
        """Return raw latents of one batch of crops, float32."""
        look()
        settings = self._settings
        crops = self._images.crops.draw(settings.batch_size, generator_for(settings.seed, "statistics", number))
        with self._autocast():
            return self.state.average.encode_posterior(images_to_float(crops)).mode()

    @torch.no_grad()
    def _reconstruct(self, index: int) -> Reconstruction:
        """Send the middle of a held-out image through the averaged weights."""
        look()
        model, held_out = self.state.average, self._images.held_out
        image = centre(held_out.images[index], _MEASURED_PX, model.config.effective_patch_size)
        x = images_to_float(image[None].to(self._device))
        noise = noise_of_images("decode", 0, [held_out.keys[index]], tuple(x.shape[1:])) * model.config.pixel_noise_std
        with self._autocast():
            latents = model.encode(x)
            latents = latents.nan_to_num()  # of weights that diverged, as the next step says; `decode` refuses others
            decoded = model.decode(latents, x.shape[2], x.shape[3], noise=noise)
        return Reconstruction(image, float_to_images(decoded)[0].cpu(), latents[0].cpu())

    def _save(self) -> None:
        self.state.save(self._folder / STATE_FILE, {"sums": list(self._sums.items())})  # in their order
        self._saved_at = time.perf_counter()

    def _resume(self) -> None:
        path = self._folder / STATE_FILE
        if not path.exists():
            return
        try:
            self._sums = dict(self.state.load(path).get("sums", ()))
        except CheckpointError as error:
            raise error.adding("; remove it to start over, or give -o a new folder") from error


class _Due(NamedTuple):
    """Tasks that are due after a step."""

    log: bool
    measure: bool
    save: bool


class Clock:
    """Speed of the steps of this process."""

    def __init__(self, step: int, settings: TrainingSettings) -> None:
        self._first, self._settings = step, settings
        self._started = time.perf_counter()

    def rate_and_left_s(self, step: int) -> tuple[float, float]:
        """Return images a second so far, and seconds until the last step at that rate."""
        s_per_step = (time.perf_counter() - self._started) / (step - self._first)
        return self._settings.batch_size / s_per_step, s_per_step * (self._settings.num_steps - step)


class Log:
    """JSON lines, one each for what was averaged or measured. What a killed run wrote past its last save is dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        publish(path, _lines_up_to(path, step) if step and path.exists() else [])

    def add(self, values: dict[str, Any]) -> None:
        """Append a line, numbers to six digits."""
        rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}
        with explaining(self._path), self._path.open("a") as file:
            file.write(strict_json(rounded) + "\n")


def _lines_up_to(path: Path, step: int) -> list[bytes]:
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]  # not a torn one
    try:
        return [line for line in lines if json.loads(line)["step"] <= step]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"not the log of a training run ({error}); remove it to go on without", place=path
        ) from error


def centre(image: Tensor, largest_px: int, multiple_px: int) -> Tensor:
    """Cut the middle out of an image [3,H,W], each side at most `largest_px` and a multiple of `multiple_px`."""
    height, width = (min(side, largest_px) // multiple_px * multiple_px for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
