"""`semdis train`: photographs -> a model of one's own."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from semdis_cli.cli import options, train_options
from semdis_cli.cli.display import Display, Position, open_display
from semdis_cli.cli.report import MAX_SHOWN, follow, more, one_line, printable
from semdis_cli.cli.setup import count_workers, find_inputs, input_rules, refuse_absent_device, refuse_pipes
from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.errors import ExitCode, UsageError
from semdis_cli.events import Event, Failure, ModelReady, Planning, RunFinished, TrainingMeasured, TrainingProgress
from semdis_cli.records import SourceImage
from semdis_cli.wording import count

if TYPE_CHECKING:
    from semdis_cli.sources.input_rules import InputRules


def train(
    context: typer.Context,
    sources: options.Sources = None,
    output: train_options.Output = Path("model"),
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    exclude: options.Exclude = None,
    include: options.Include = None,
    all_files: options.AllFiles = False,
    held_out: train_options.HeldOut = None,
    init: train_options.Init = "auto",
    config: train_options.Config = None,
    steps: train_options.StepCount = 10_000,
    batch_size: train_options.BatchSize = 32,
    crop: train_options.Crop = 128,
    seed: options.Seed = 0,
    memory: train_options.Memory = 8.0,
    log_every: train_options.LogEvery = 20,
    measure_every: train_options.MeasureEvery = 500,
    teacher: train_options.Teacher = None,
    alignment: train_options.Alignment = 0.01,
    sid2_bias: train_options.SidBias = -2.0,
    one_step_share: train_options.OneStepShare = 0.0,
    balance: train_options.Balance = 0.0,
    path_drop: train_options.PathDrop = 0.1,
    variance_expansion: train_options.VarianceExpansion = 1e-5,
    latent_scale: train_options.LatentScale = 1e-4,
    optimizer: train_options.OptimizerName = "muon",
    muon_rate: train_options.MuonRate = 2e-3,
    adamw_rate: train_options.AdamwRate = 1e-3,
    linear_rate_factor: train_options.LinearRateFactor = 0.1,
    weight_decay: train_options.WeightDecay = 0.0,
    warmup_steps: train_options.WarmupSteps = 100,
    clip_norm: train_options.ClipNorm = 1.0,
    ema_decay: train_options.EmaDecay = 0.9995,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights_dtype: train_options.WeightsDtype = "float32",
    compiled: train_options.Compile = "auto",
    threads: options.Threads = None,
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on photographs: folders, files, or tars of packed crops. Run again to go on after a stop.

    The folder holds the model at any time, log.jsonl with the losses, and pictures/ to look at.

    Example: `semdis train photos/ -o mymodel/ --steps 2000`, then `semdis encode photos/ --model mymodel/`
    """
    refuse_pipes(*(sources or ()), output, *(held_out or ()), config)
    refuse_absent_device(device)
    rules = input_rules(exclude, include, all_files=all_files)
    display = context.with_resource(open_display(quiet=quiet))
    find = partial(_find, output=output, quiet=quiet, rules=rules, display=display)
    images, failures = find(sources, files_from, null=null)
    measured, measured_failures = _find_held_out(held_out, find) if held_out else ([], [])

    import torch

    from semdis_cli.model.checkpoint import resolve_model
    from semdis_cli.model.config import CONFIG_FILE, FCDMDiffAEConfig
    from semdis_cli.model.devices import find_device, find_dtype
    from semdis_cli.training.loop import Rhythm
    from semdis_cli.training.settings import LossSettings, OptimizerSettings, TrainingSettings
    from semdis_cli.training.train import TrainJob
    from semdis_cli.training.train import train as run

    is_made = init in {"auto", "pca", "random"}
    if config is not None and not is_made:
        raise UsageError("--config goes with --init pca or random; a model brings its own")
    architecture = FCDMDiffAEConfig.load(
        config or resolve_model(BUNDLED_MODEL if is_made else init).folder / CONFIG_FILE
    )
    if init == "auto":
        init = "pca" if architecture.model_dim <= 512 else "random"
    torch.set_num_threads(threads or count_workers(None))
    found_device = find_device(device)
    settings = TrainingSettings(
        num_steps=steps,
        batch_size=batch_size,
        crop_px=crop,
        seed=seed,
        dtype="bfloat16" if find_dtype(dtype, found_device) == torch.bfloat16 else "float32",
        weights_dtype=weights_dtype,
        loss=LossSettings(
            sid2_bias=sid2_bias,
            one_step_share=one_step_share,
            balance=balance,
            variance_expansion=variance_expansion,
            latent_scale=latent_scale,
            alignment=alignment,
            path_drop=path_drop,
        ),
        optimizer=OptimizerSettings(
            name=optimizer,
            muon_rate=muon_rate,
            adamw_rate=adamw_rate,
            linear_rate_factor=linear_rate_factor,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            clip_norm=clip_norm,
            ema_decay=ema_decay,
        ),
    )
    job = TrainJob(
        settings=settings,
        config=architecture,
        init=init,
        output=output,
        teacher=teacher,
        device=found_device,
        num_workers=count_workers(workers),
        memory_bytes=int(memory * 2**30),
        rhythm=Rhythm(log_steps=log_every, measure_steps=measure_every),
        compile=compiled == "on" or (compiled == "auto" and found_device.type == "cuda"),
    )
    if not quiet:
        display.say(
            f"semdis: training in {settings.dtype} on {found_device}, "
            + (f"aligned with {teacher}" if teacher else "without a teacher: the alignment term is off")
        )
    events = run(images, measured, (*failures, *measured_failures), job)
    raise typer.Exit(
        follow(events, as_json=as_json, quiet=quiet, summarise=_summary, display=display, make_view=_TrainView)
    )


def _find(
    sources: Sequence[Path] | None,
    files_from: str | None,
    *,
    null: bool,
    output: Path,
    quiet: bool,
    rules: "InputRules",
    display: Display,
) -> tuple[Sequence[SourceImage], Sequence[Failure]]:
    """All images of the sources, in tars or not, and the inputs that are none."""
    from semdis_cli.sources.tars import find_tars

    display.plan(Planning("listing photos"))
    tars, others = find_tars(sources or (), rules)
    quiet = quiet or bool(tars)  # in a folder of them they would be the files that are passed over
    found = find_inputs(
        others, files_from, null=null, output=output, quiet=quiet, packed=tars, rules=rules, display=display
    )
    return found.images, found.failures


def _find_held_out(
    held_out: list[Path], find: Callable[..., tuple[Sequence[SourceImage], Sequence[Failure]]]
) -> tuple[Sequence[SourceImage], Sequence[Failure]]:
    """The images to measure with, as `find` finds them. Raises `UsageError` if there are none."""
    images, failures = find(held_out, None, null=False)
    if not images:
        raise UsageError(f"--held-out {', '.join(map(str, held_out))}: no images found")
    return images, failures


def _summary(report: dict[str, Any]) -> str:
    rate = f", {report['images_per_s']:.1f} images/s" if report["images_per_s"] is not None else ", nothing left to do"
    return (
        f"{count(report['steps'], 'step')} -> {report['output']}; {report['elapsed_s']:.0f} s{rate}, at most "
        f"{report['peak_memory_mib']:,.0f} MiB of memory"
    )


class _TrainView:
    """Shows a run of steps."""

    def __init__(self, display: Display, *, as_json: bool, quiet: bool) -> None:
        self.display = display
        self.code = ExitCode.OK
        self._num_failed = 0
        self.report: dict[str, Any] = {}
        self._psnr_db: float | None = None
        self._as_json = as_json
        self._quiet = quiet

    def take(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Planning():
                self.display.plan(event)
            case Failure():
                self._fail(event)
            case ModelReady() if not self._quiet:
                self.display.say(
                    f"semdis: {event.num_parameters:,} parameters; {count(event.num_images, 'image')} to learn from "
                    f"({event.image_bytes / 2**20:,.0f} MiB), {event.num_held_out:,} to measure with"
                    + (f"; {event.num_unread:,} more do not fit in --memory" if event.num_unread else "")
                )
            case TrainingProgress():
                held_out = f"held-out {self._psnr_db:.2f} dB, " if self._psnr_db is not None else ""
                rates = f"loss {event.loss:.5f}, {held_out}{event.images_per_s:.1f} images/s"
                self.display.show(Position(event.step, event.num_steps, "steps", rates, event.left_s))
            case TrainingMeasured():
                self._psnr_db = event.psnr_db
                if not self._as_json:
                    self.display.result(f"{event.step}\t{event.psnr_db:.2f}")
            case RunFinished():
                self.report = event.report

    def left_out(self) -> Iterator[str]:
        """Give the line for failures that were not shown."""
        return more(self._num_failed, "more failure")

    def closing(self, summary: str) -> Iterator[str]:
        """Give the line that sums the run up."""
        yield f"semdis: {summary}"

    def _fail(self, failure: Failure) -> None:
        self._num_failed += 1
        self.code = ExitCode.SOME_FAILED
        if self._num_failed <= MAX_SHOWN:
            self.display.say(f"failed: {one_line(f'{printable(failure.key)}: {failure.reason}')}")
