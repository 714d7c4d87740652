"""`semdis train`: find images, read them into memory, make or load a model, run the steps, sum up."""

import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch

if sys.platform != "win32":
    import resource

from semdis_cli.defaults import BUNDLED_MODEL, TRAIN_MARKER
from semdis_cli.errors import UsageError
from semdis_cli.events import Event, Failure, ModelReady, Planning, RunFinished, TrainingMeasured, TrainingProgress
from semdis_cli.files.atomic import check_free_space
from semdis_cli.files.claim import check_image_folder, claimed_folder, claimed_settings
from semdis_cli.files.disk import count_cores
from semdis_cli.files.json_text import escape_name
from semdis_cli.model.autoencoder import FCDMDiffAE
from semdis_cli.model.checkpoint import load_config, resolve_model, weights_sha256
from semdis_cli.model.config import FCDMDiffAEConfig
from semdis_cli.model.devices import find_device, find_dtype, move_model
from semdis_cli.records import SourceImage
from semdis_cli.settings import ReadSettings
from semdis_cli.stops import look
from semdis_cli.training.alignment import AlignmentHead
from semdis_cli.training.init import PatchMoments, closed_form_model, random_model
from semdis_cli.training.loop import PICTURES, Trainer, TrainingImages
from semdis_cli.training.pool import CropSampler, ImagePool, in_random_order, read_all
from semdis_cli.training.settings import MADE_HERE, StoredDtype, TrainingSettings, TrainSettings
from semdis_cli.training.state import TrainingState
from semdis_cli.training.step import generator_for
from semdis_cli.training.teacher import Teacher, load_teacher

_HELD_OUT_EACH, _MAX_HELD_OUT = 50, 256
_MAX_MOMENT_IMAGES = 4000
_MAX_CLOSED_WIDTH = 512  # of a model that begins in closed form, where nothing is said


@dataclass(frozen=True)
class TrainJob:
    """A run as it is done: what was asked for, and what that means here. `init`: "pca", "random", or a model."""

    asked: TrainSettings
    settings: TrainingSettings
    config: FCDMDiffAEConfig
    init: str
    device: torch.device
    output: Path

    @property
    def is_compiled(self) -> bool:
        """Tell whether encoder and decoder go through torch.compile."""
        choice = self.asked.compile
        return choice == "on" or (choice == "auto" and self.device.type == "cuda")


def prepare_train(asked: TrainSettings, output: Path) -> TrainJob:
    """Decide what is left open: device, dtype, architecture and start; torch gets its threads.

    Raises `UsageError` and `CheckpointError`.
    """
    is_made = asked.init in MADE_HERE
    config = load_config(asked.config, BUNDLED_MODEL if is_made else asked.init)
    init = asked.init
    if init == "auto":
        init = "pca" if config.model_dim <= _MAX_CLOSED_WIDTH else "random"
    torch.set_num_threads(asked.num_threads or count_cores())
    device = find_device(asked.device)
    dtype: StoredDtype = "bfloat16" if find_dtype(asked.dtype, device) == torch.bfloat16 else "float32"
    return TrainJob(asked, replace(asked.training, dtype=dtype), config, init, device, output)


def train(
    images: Sequence[SourceImage], held_out: Sequence[SourceImage], failures: Sequence[Failure], job: TrainJob
) -> Iterator[Event]:
    """Train on `images` and measure on `held_out` (a part of `images` if that is empty), into the folder `job.output`.

    The folder holds a checkpoint at any time, with the state to go on from. Raises `UsageError` for too few images or
    an output folder of another run, `DivergedError`, `NoSpaceError`, `CheckpointError`.
    """
    started = time.perf_counter()
    _check_crop(job)
    check_image_folder(job.output, TRAIN_MARKER)
    learned, measured = _split(images, held_out, job.settings.seed)
    claim = partial(
        claimed_folder, job.output, TRAIN_MARKER, _record(learned, measured, job), [PurePosixPath(PICTURES, "x")]
    )
    if (job.output / TRAIN_MARKER).exists():  # a run that cannot go on is refused before its images are read
        with claim():
            pass
    teacher = None if job.asked.teacher is None else load_teacher(job.asked.teacher, job.device)

    yield from failures
    inputs = _Inputs(num_failed=len(failures))
    yield from inputs.read(learned, measured, job, replace=not held_out)
    inputs.check(job)

    state = _start(inputs.learned, teacher, job)
    yield ModelReady(
        state.num_parameters, len(inputs.learned), len(inputs.held_out), inputs.num_unread, inputs.learned.num_bytes
    )
    with claim():
        check_free_space(job.output, 2 * state.num_bytes)
        crops = CropSampler(inputs.learned.images, job.settings.crop_px, job.device)
        images_in_memory = TrainingImages(crops, inputs.held_out)
        trainer = Trainer(
            state,
            job.settings,
            images_in_memory,
            job.output,
            teacher=teacher,
            rhythm=job.asked.rhythm,
            is_compiled=job.is_compiled,
        )
        last: dict[str, float] = {}
        for event in trainer.run():
            match event:
                case TrainingMeasured():
                    last["held_out_psnr_db"] = round(event.psnr_db, 4)
                case TrainingProgress():
                    last["images_per_s"] = round(event.images_per_s, 2)
            yield event
    elapsed_s = round(time.perf_counter() - started, 1)
    yield RunFinished(inputs.num_ok, inputs.num_failed, _report(inputs, state, job, last) | {"elapsed_s": elapsed_s})


def _report(inputs: "_Inputs", state: TrainingState, job: TrainJob, last: dict[str, float]) -> dict[str, Any]:
    """Make the closing report; `last`: the last figures of the run, if it had any steps to do."""
    return {
        "command": "train",
        "images": {
            "ok": inputs.num_ok,
            "failed": inputs.num_failed,
            "held_out": len(inputs.held_out),
            "unread": inputs.num_unread,
        },
        "steps": state.step,
        "parameters": state.num_parameters,
        "held_out_psnr_db": None,
        "images_per_s": None,
        **last,
        "peak_memory_mib": _peak_memory_mib(job.device),
        "output": str(job.output),
    }


@dataclass
class _Inputs:
    """Images in memory, to learn from and to measure with, and the number of those that are not."""

    learned: ImagePool = field(default_factory=ImagePool)
    held_out: ImagePool = field(default_factory=ImagePool)
    num_failed: int = 0
    num_unread: int = 0

    @property
    def num_ok(self) -> int:
        return len(self.learned) + len(self.held_out)

    def read(
        self, learned: Sequence[SourceImage], measured: Sequence[SourceImage], job: TrainJob, *, replace: bool
    ) -> Iterator[Failure | Planning]:
        """Read all; yields images that cannot be used. With `replace`, others are measured if none of these can."""
        before, rest = self.num_failed, list(learned)
        yield from self._count(_fill(self.held_out, measured, job, job.asked.memory_bytes))
        while replace and not self.held_out and rest:
            yield from self._count(_fill(self.held_out, [rest.pop(0)], job, job.asked.memory_bytes))
        yield from self._count(_fill(self.learned, rest, job, job.asked.memory_bytes - self.held_out.num_bytes))
        self.num_unread = len(learned) + len(measured) - self.num_ok - (self.num_failed - before)
        yield Planning("preparing the model, and taking the first steps")

    def _count(self, events: Iterator[Failure | Planning]) -> Iterator[Failure | Planning]:
        for event in events:
            self.num_failed += isinstance(event, Failure)
            yield event

    def check(self, job: TrainJob) -> None:
        """Raise `UsageError` if there is nothing to learn from, or nothing to measure with."""
        if not self.learned or not self.held_out:
            raise UsageError(
                f"too few images: {len(self.learned)} to learn from and {len(self.held_out)} to measure with can be "
                f"used; give more, no side shorter than --crop {job.settings.crop_px}, and more --memory if they are "
                "large"
            )


def _split(
    images: Sequence[SourceImage], held_out: Sequence[SourceImage], seed: int
) -> tuple[list[SourceImage], list[SourceImage]]:
    """Split the images into those to learn from and those to measure with, shuffled; none is in both."""
    if held_out:
        places = {_place(image) for image in held_out}
        learned = [image for image in images if _place(image) not in places]
        return in_random_order(learned, seed), list(held_out)[:_MAX_HELD_OUT]
    if len(images) < 2:
        given = "1 image is" if len(images) == 1 else f"{len(images)} images are"
        raise UsageError(f"{given} too few: one to learn from and one to measure with at the least")
    order = in_random_order(images, seed)
    count = min(max(len(order) // _HELD_OUT_EACH, 1), _MAX_HELD_OUT)
    return order[count:], order[:count]


def _place(image: SourceImage) -> tuple[Path, object]:
    """Return where an image's bytes are, however it was named."""
    path, place = image.reader.locate(image)
    return Path(path).resolve(), place


def _fill(
    pool: ImagePool, images: Sequence[SourceImage], job: TrainJob, memory_bytes: int
) -> Iterator[Failure | Planning]:
    """Read images into `pool` as long as memory is left; yields those that cannot be used."""
    crop_px, left = job.settings.crop_px, memory_bytes - pool.num_bytes
    read = read_all(images, ReadSettings(), job.asked.num_workers)
    for num_read, (image, pixels) in enumerate(read, start=1):
        yield Planning("reading the images", num_read, len(images))
        if isinstance(pixels, Failure):
            yield pixels
        elif min(pixels.shape[1:]) < crop_px:
            height, width = pixels.shape[1:]
            yield Failure(image.key, f"smaller than a crop: {width}x{height} px, --crop is {crop_px}")
        elif pixels.numel() > left:
            return
        else:
            pool.add(image.key, pixels)
            left -= pixels.numel()


def _check_crop(job: TrainJob) -> None:
    multiple = job.config.effective_patch_size
    if job.settings.crop_px % multiple:
        raise UsageError(f"--crop {job.settings.crop_px} is not a multiple of the patch, {multiple} px")


def _start(pool: ImagePool, teacher: Teacher | None, job: TrainJob) -> TrainingState:
    """Make the state of step 0."""
    seed = job.settings.seed
    match job.init:
        case "pca":
            moments = PatchMoments(job.config.patch_size)
            for image in pool.images[:_MAX_MOMENT_IMAGES]:
                look()
                moments.add(image)
            model = closed_form_model(job.config, moments, seed=seed)
        case "random":
            model = random_model(job.config, seed=seed)
        case name:
            model = FCDMDiffAE.from_folder(resolve_model(name).folder)[0].float()
    look()
    model = move_model(model.to(memory_format=torch.channels_last), job.device, None)  # type: ignore[call-overload]
    head = None
    if teacher is not None:
        head = AlignmentHead(model.config.latent_channels, teacher.feature_dim)
        head = head.initialise(generator_for(seed, "head", 0)).to(job.device)
    return TrainingState(model, head, job.settings)


def _record(learned: Sequence[SourceImage], measured: Sequence[SourceImage], job: TrainJob) -> dict[str, Any]:
    """Return all that decides the weights: a run that goes on is compared with it."""
    digest = hashlib.sha256()
    for image in (*learned, *measured):
        digest.update(f"{image.key}\0{image.num_bytes}\0".encode(errors="surrogatepass"))
    return {
        "command": "train",
        "settings": job.settings.to_json(),
        "init": _init_record(job),
        "config_sha256": hashlib.sha256(job.config.to_json().encode()).hexdigest(),
        "teacher": job.asked.teacher,
        "device": job.device.type,
        "memory_bytes": job.asked.memory_bytes,
        "images": {"learned": len(learned), "held_out": len(measured), "sha256": digest.hexdigest()},
    }


def _init_record(job: TrainJob) -> Any:
    """Record what training begins with: of a model its weights, so that it may move; old records have only its name."""
    if job.init in {"pca", "random"} or isinstance(claimed_settings(job.output, TRAIN_MARKER).get("init"), str):
        return job.init
    location = resolve_model(job.init)
    return {"name": escape_name(location.name), "weights_sha256": weights_sha256(location.folder)}


def _peak_memory_mib(device: torch.device) -> float:
    """Return the most memory held at a time: of the device if it is an accelerator, else of the process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if sys.platform == "win32":
        return 0.0
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)
