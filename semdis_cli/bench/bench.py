"""`bench`: everything that is measured, in one run."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from semdis_cli.bench.end_to_end import Costs, EndToEnd, Run, run_decode, run_encode, summarise
from semdis_cli.bench.limit import Setting, StageCost, find_limit, with_cost, with_threads
from semdis_cli.bench.machine import GemmRate, Machine, describe_machine, measure_gemm
from semdis_cli.bench.model import ModelSpeed, OwnGemmRate, measure_decode, measure_encode, measure_own_gemm
from semdis_cli.bench.peers import PeerSpeed, check_size, measure_peer
from semdis_cli.bench.processes import PeakMemory, Request, StartUp, ask_child, measure_start_up, peak_memory
from semdis_cli.bench.sample import Sample, gather_images, repeated
from semdis_cli.bench.settings import BenchSettings
from semdis_cli.bench.stages import Stages, measure_stages
from semdis_cli.bench.timing import QUICK, THOROUGH, Effort, StageBench
from semdis_cli.errors import UsageError
from semdis_cli.files.disk import free_bytes, temporary_folder
from semdis_cli.images.loader import Loader
from semdis_cli.images.synthetic import jpeg_of
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.peers import PEERS, find_peer
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.calls import start_workers
from semdis_cli.pipeline.decode import sampling_of
from semdis_cli.pipeline.report import compute_record
from semdis_cli.settings import DecodeSettings, EncodeSettings
from semdis_cli.sources.find import FoundImages

Tell = Callable[[str], object]
_MOST_IMAGES = 1 << 16  # of a run
_SHARE_OF_DISK = 0.25


@dataclass(frozen=True)
class Thoroughness:
    """Amounts of measuring: images of the sample, runs from files to files and their length, starts of the command.

    `stages`: what is done for each stage before the first run, and again after each.
    """

    effort: Effort
    stages: Effort
    num_images: int
    num_runs: int
    run_s: float
    num_starts: int


_QUICK = Thoroughness(QUICK, QUICK, num_images=8, num_runs=1, run_s=1.0, num_starts=1)
_THOROUGH = Thoroughness(THOROUGH, replace(THOROUGH, num_rounds=3), num_images=32, num_runs=5, run_s=6.0, num_starts=3)


@dataclass(frozen=True)
class BenchReport:
    """All figures. `settings` and `images` are plain values: what was measured, and with what."""

    machine: Machine
    settings: dict[str, Any]
    images: dict[str, Any]
    gemm: GemmRate
    own_gemm: OwnGemmRate
    model_encode: ModelSpeed
    model_decode: ModelSpeed
    memory: PeakMemory
    stages: Stages
    encode: EndToEnd
    decode: EndToEnd
    start_up: StartUp
    peer: PeerSpeed | None
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for `json.dumps`."""
        return {"command": "bench", **asdict(self)}


def bench(settings: BenchSettings, tell: Tell) -> BenchReport:
    """Measure everything; `tell` hears what is being measured. Temporary files are gone at the end, whatever happens.

    Raises `UsageError` for settings that do not fit, images that cannot be used, or a peer that is not installed.
    """
    started = time.perf_counter()
    if settings.against is not None:
        find_peer(settings.against, f"--against {settings.against}")
    tokenizer = Tokenizer.load(settings.model.name, settings.run, revision=settings.model.revision)
    with (
        tempfile.TemporaryDirectory(prefix="semdis-bench-", dir=_temporary_folder()) as temporary,
        Loader(settings.load, tokenizer.patch_size, settings.num_workers) as loader,
    ):
        encoding = EncodeSettings(num_workers=settings.num_workers)
        return _Bench(settings, tokenizer, loader, encoding, Path(temporary), tell).measure(started)


def _temporary_folder() -> Path:
    folder = temporary_folder()
    if folder is None:
        raise UsageError("there is no folder for temporary files; set TMPDIR to one that can be written")
    return folder


@dataclass(frozen=True)
class _Bench:
    """One run of the bench: what its parts share."""

    settings: BenchSettings
    tokenizer: Tokenizer
    loader: Loader
    encode_settings: EncodeSettings
    folder: Path
    tell: Tell

    def measure(self, started: float) -> BenchReport:
        """Measure one part after the other. `started`: on the clock `time.perf_counter`."""
        settings, plan = self.settings, self._thoroughness
        self.tell("gathering images")
        num_images = settings.num_images or plan.num_images
        sample = gather_images(settings.data, num_images, self.loader, self.folder / "images")
        if settings.against is not None:
            check_size(settings.against, sample.size)
        gemm, own_gemm, model_encode, model_decode = self._measure_model(sample)
        stages, encode, decode = self._measure_runs(sample)
        memory, start_up = self._measure_processes(sample)
        peer = self._measure_peer(sample)
        return BenchReport(
            machine=describe_machine(self.tokenizer.model.device),
            settings=self._describe_settings(),
            images=self._describe_images(sample, stages),
            gemm=gemm,
            own_gemm=own_gemm,
            model_encode=model_encode,
            model_decode=model_decode,
            memory=memory,
            stages=stages,
            encode=encode,
            decode=decode,
            start_up=start_up,
            peer=peer,
            elapsed_s=time.perf_counter() - started,
        )

    @property
    def _thoroughness(self) -> Thoroughness:
        return _QUICK if self.settings.quick else _THOROUGH

    @property
    def _effort(self) -> Effort:
        return self._thoroughness.effort

    def _measure_model(self, sample: Sample) -> tuple[GemmRate, OwnGemmRate, ModelSpeed, ModelSpeed]:
        tokenizer, sampling = self.tokenizer, self._sampling
        device, dtype = tokenizer.model.device, tokenizer.model.dtype
        with start_workers(tokenizer, self.settings.num_workers) as workers:
            self.tell("multiplying matrices")
            gemm = measure_gemm(device, dtype, workers, self._effort)
            height, width = sample.size
            self.tell(f"running the model by itself, at {height}x{width}")
            encode = measure_encode(tokenizer, sample.size, gemm, workers, self._effort)
            decode = measure_decode(tokenizer, sample.size, sampling, gemm, workers, self._effort)
            own_gemm = measure_own_gemm(tokenizer, sample.size, workers, self._thoroughness.stages)
            gemm = gemm.and_again(measure_gemm(device, dtype, workers, self._effort))
        return gemm, own_gemm, encode.beside(gemm), decode.beside(gemm)

    def _measure_runs(self, sample: Sample) -> tuple[Stages, EndToEnd, EndToEnd]:
        """Run from files to files, in turns with the stages by themselves."""
        num_runs = self._thoroughness.num_runs
        passes = [self._measure_stages(sample)]
        found = self._images_of_a_run(sample, passes[0])
        latents, images = self.folder / "latents", self.folder / "decoded"
        encoded: list[Run] = []
        decoded: list[Run] = []
        for number in range(1, num_runs + 1):
            self.tell(f"running from files to files, {number} of {num_runs}")
            encoded.append(run_encode(found, self.loader, self.tokenizer, self.encode_settings, latents))
            decoded.append(run_decode(latents, self.tokenizer, self._decode_settings, images))
            passes.append(self._measure_stages(sample))
        stages, near = Stages.over(passes), [Stages.over(both) for both in pairwise(passes)]
        encode, decode = (
            Costs(stages.encode, [n.encode for n in near]),
            Costs(stages.decode, [n.decode for n in near]),
        )
        scaled = {} if stages.scaled_reading is None else {"--jpeg-scaling": stages.scaled_reading}
        formats = {f"--format {name}": cost for name, cost in stages.other_formats.items()}
        num_threads = self.settings.num_workers
        return (
            stages,
            summarise("encode", encoded, encode, num_threads, self._other_settings(stages.encode, scaled)),
            summarise("decode", decoded, decode, num_threads, self._other_settings(stages.decode, formats)),
        )

    def _measure_stages(self, sample: Sample) -> Stages:
        self.tell("running each stage by itself")
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            start_workers(self.tokenizer, self.settings.num_workers) as workers,
        ):
            num_images, effort = len(sample.found.images), self._thoroughness.stages
            stage_bench = StageBench(num_images, workers, self.tokenizer.is_on_cpu, effort)
            verbs = (self.encode_settings, self._decode_settings)
            return measure_stages(sample.found, self.loader, self.tokenizer, verbs, stage_bench, Path(folder))

    @property
    def _decode_settings(self) -> DecodeSettings:
        settings = self.settings
        return DecodeSettings(settings.sampling, write=settings.write, num_workers=settings.num_workers)

    @property
    def _sampling(self) -> FCDMDiffAEInferenceConfig:
        return sampling_of(self._decode_settings)

    def _images_of_a_run(self, sample: Sample, stages: Stages) -> FoundImages:
        """Repeat the images so often that a run takes some seconds."""
        costs = stages.encode, stages.decode
        slower = min(find_limit(one, self.settings.num_workers).images_per_s for one in costs)
        most = min(_MOST_IMAGES, self._images_on_disk(sample.size))
        num_images = min(most, self._thoroughness.run_s * slower)
        return repeated(sample.found, max(1, round(num_images / len(sample.found.images))))

    def _images_on_disk(self, size: tuple[int, int]) -> float:
        """Return how many images of `size` (H, W) px a run may write, were their files as large as their pixels."""
        free = free_bytes(self.folder)
        return math.inf if free is None else _SHARE_OF_DISK * free / (3 * size[0] * size[1])

    def _other_settings(self, costs: Sequence[StageCost], changed: Mapping[str, StageCost]) -> list[Setting]:
        """Find the limit under settings that were not used: a thread for each core, and what costs one stage less.

        `changed`: by option, the cost of the stage that it changes.
        """
        num_threads, num_cores = self.settings.num_workers, describe_machine(self.tokenizer.model.device).num_cores
        settings = [
            Setting(option, find_limit(with_cost(costs, cost), num_threads).images_per_s)
            for option, cost in changed.items()
        ]
        if num_threads < num_cores:
            limit = find_limit(with_threads(costs, num_threads, num_cores), num_cores)
            settings.insert(0, Setting(f"--workers {num_cores}", limit.images_per_s))
        return settings

    def _measure_processes(self, sample: Sample) -> tuple[PeakMemory, StartUp]:
        """Measure memory and start-up in fresh processes."""
        self.tell("starting fresh processes, for start-up and memory")
        settings = self.settings
        encode, decode = (ask_child(self._request(verb, sample.size)) for verb in ("encode", "decode"))
        options = ["--model", settings.model.name, "--device", settings.run.device, "--dtype", settings.run.dtype]
        options += [] if settings.model.revision is None else ["--revision", settings.model.revision]
        image = self.folder / "first.jpg"
        image.write_bytes(jpeg_of(sample.size))
        start_up = measure_start_up(image, options, encode, self.folder, self._thoroughness.num_starts)
        return peak_memory(encode, decode), start_up

    def _request(self, verb: str, size: tuple[int, int]) -> Request:
        settings = self.settings
        run, sampling = asdict(settings.run), asdict(self._sampling)
        return Request(verb, settings.model.name, settings.model.revision, run, settings.num_workers, size, sampling)

    def _measure_peer(self, sample: Sample) -> PeerSpeed | None:
        settings = self.settings
        if settings.against is None:
            return None
        self.tell(f"running {PEERS[settings.against].title} in turns with this model")
        with start_workers(self.tokenizer, settings.num_workers) as workers:
            return measure_peer(settings.against, self.tokenizer, sample.size, self._sampling, workers, self._effort)

    def _describe_settings(self) -> dict[str, Any]:
        """Return what was measured: the model, how it was run, and the options that decide the rest."""
        settings, tokenizer = self.settings, self.tokenizer
        return {
            "model": asdict(tokenizer.identity),
            "compute": compute_record(tokenizer),
            "workers": settings.num_workers,
            "geometry": settings.load.geometry.to_json(),
            "jpeg_scaling": settings.jpeg_scaling,
            "sampling": asdict(self._sampling),
            "write": asdict(settings.write),
            "quick": settings.quick,
        }

    def _describe_images(self, sample: Sample, stages: Stages) -> dict[str, Any]:
        num_images = len(sample.found.images)
        return {
            "source": "synthetic" if self.settings.data is None else str(self.settings.data),
            "num_images": num_images,
            "num_unusable": sample.num_unusable,
            "mean_file_bytes": sample.num_bytes / num_images,
            "mean_input_megapixels": stages.megapixels_per_image,
        }
