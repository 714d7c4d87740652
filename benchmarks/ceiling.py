# ruff: noqa: INP001, PLC0415, S603 (a script of its own; what one kind needs is no memory of another)
"""What the host alone can do: the verbs of the pipeline on real files, with a device that is as fast as one likes.

    python benchmarks/ceiling.py [--num-images 2931] [--side 256] [--shards 8] [--device-ms 0] [--workers 2]
                                 [--rounds 3] [--gil] [--json] [--folder FOLDER] [KIND ...]

The pipeline is the real one; only the network is replaced, by one that waits for `--device-ms` a call without holding
the interpreter's lock, and gives what it has at hand. So no GPU is faster than what this measures on the same machine,
however fast its kernels. Each kind runs in a process of its own, in turns with the others; the fastest of the rounds
counts. Kinds:

    encode         files -> a finished set in --shards shards
    decode-jpeg    a set -> JPEG files, with --device-ms as above
    decode-png     a set -> PNG files
    roundtrip      files -> JPEG files and their figures, with --device-ms for each half of a call
    bare           threads that do nothing but read these files and decode them
    dataloader     a plain DataLoader of torch with Pillow, that hands over batches of 64

The images are parts of the photographs in tests/photos, `--side` pixels wide and high. `feeding` is the CPU time of the
process that feeds the device, `other` that of all processes less what bare decoding takes: milliseconds an image.
`lock`: milliseconds an image under the interpreter's lock of that process (with --gil, by sampling; needs py-spy on
PATH). `busy`: cores that were. Set OMP_NUM_THREADS=1, or give as many cores as --workers.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(PROJECT))
KINDS = ("encode", "decode-jpeg", "decode-png", "roundtrip", "bare", "dataloader")
RIVALS = {"bare": "bare_decode", "dataloader": "dataloader"}
PASSED = ("num-images", "side", "shards", "device-ms", "workers")
CALL_PIXELS, BATCH_SIZE, SAMPLES_A_SECOND = 64 * 256**2, 64, 250


def make_images(folder: Path, num_images: int, side: int) -> None:
    """Write JPEGs of `side` pixels, parts of photographs at places and scales that are drawn."""
    import numpy as np
    from PIL import Image

    paths = sorted((PROJECT / "tests" / "photos").rglob("*.jpg"))
    photographs = [Image.open(path).convert("RGB") for path in paths]
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(num_images):
        photograph = photographs[number % len(photographs)]
        part = int(generator.integers(min(photograph.size) // 2, min(photograph.size) + 1))
        left, top = (int(generator.integers(0, length - part + 1)) for length in photograph.size)
        box = (left, top, left + part, top + part)
        photograph.resize((side, side), Image.Resampling.LANCZOS, box).save(folder / f"{number:06d}.jpg", quality=90)


def make_tokenizer(side: int, device_ms: float) -> Any:
    """Load the bundled model, and put a device in its place that does nothing but wait."""
    import torch
    from torch import Tensor

    from semdis_cli.defaults import BUNDLED_MODEL
    from semdis_cli.model.tokenizer import Tokenizer
    from semdis_cli.pipeline.processes.fork_server import start_early
    from semdis_cli.settings import TokenizerSettings

    class StandIn(Tokenizer):
        """A tokenizer whose model is no CPU work."""

        is_on_cpu = False

        def encode(
            self,
            images: Tensor,
            keys: Sequence[str],
            *,
            sample_seed: int | None = None,
            noise: str = "philox",
            are_mirrored: bool = False,
            dtype: torch.dtype = torch.float32,
        ) -> Tensor:
            del keys, sample_seed, noise, are_mirrored
            images.permute(0, 2, 3, 1).contiguous()  # what is copied to the device
            time.sleep(device_ms / 1000)
            given: Tensor = latents[dtype][: len(images)]
            return given

        def decode(self, latents: Tensor, keys: Sequence[str], config: Any = None) -> Tensor:
            del keys, config  # a device makes its noise itself
            time.sleep(device_ms / 1000)
            given: Tensor = pixels[: len(latents)]
            return given

    settings = TokenizerSettings(device="cpu", batch_size=max(1, CALL_PIXELS // side**2))
    start_early()  # as the commands do, which then load the model
    tokenizer = StandIn.load(BUNDLED_MODEL, settings)
    first = multiprocessing.get_context("forkserver").Process()  # begins when all is loaded
    first.start()
    first.join()
    size = tokenizer.images_per_call(side, side)
    grid = side // tokenizer.patch_size
    drawn = torch.randn(size, tokenizer.latent_channels, grid, grid)
    latents = {dtype: drawn.to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    pixels = _some_pixels(size, side)
    return tokenizer


def _some_pixels(size: int, side: int) -> Any:
    """Return photographs, uint8 [size,3,side,side]: how long a PNG or JPEG takes depends on what is in it."""
    import numpy as np
    import torch
    from PIL import Image

    paths = sorted((PROJECT / "tests" / "photos").rglob("*.jpg"))
    images = [np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in paths]
    batch = np.stack([images[number % len(images)] for number in range(size)])
    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()


def run_encode(folder: Path, options: argparse.Namespace, output: Path) -> None:
    """List the images of a folder, and encode them as the command does."""
    from semdis_cli.images.loader import Loader
    from semdis_cli.pipeline.encode import encode
    from semdis_cli.settings import EncodeSettings, LoadSettings, ShardSettings
    from semdis_cli.sources.find import find_images

    tokenizer = make_tokenizer(options.side, options.device_ms)
    shards = ShardSettings(shard_images=-(-options.num_images // options.shards))
    settings = EncodeSettings(num_workers=options.workers, shards=shards)
    with measured(), Loader(LoadSettings(), tokenizer.patch_size, options.workers) as loader:
        for _ in encode(find_images([folder]), loader, tokenizer, settings, output):
            pass


def run_decode(latents: Path, options: argparse.Namespace, output: Path) -> None:
    """Decode a set into files as the command does."""
    from semdis_cli.pipeline.decode import decode
    from semdis_cli.settings import DecodeSettings, WriteSettings
    from semdis_cli.store.reader import open_latents

    tokenizer = make_tokenizer(options.side, options.device_ms)
    suffix: Any = {"decode-jpeg": "jpg", "decode-png": "png"}[options.kind]
    settings = replace(DecodeSettings(), num_workers=options.workers, write=WriteSettings(format=suffix))
    with measured():
        for _ in decode(open_latents(latents), tokenizer, settings, output):
            pass


def run_roundtrip(folder: Path, options: argparse.Namespace, output: Path) -> None:
    """List the images of a folder, and encode and decode them as the command does."""
    from semdis_cli.images.loader import Loader
    from semdis_cli.pipeline.encode_plan import plan_encode
    from semdis_cli.pipeline.roundtrip import roundtrip
    from semdis_cli.settings import DecodeSettings, EncodeSettings, LoadSettings, RoundtripSettings, WriteSettings
    from semdis_cli.sources.find import find_images

    tokenizer = make_tokenizer(options.side, options.device_ms)
    decoding = DecodeSettings(num_workers=options.workers, write=WriteSettings(format="jpg"))
    with measured(), Loader(LoadSettings(), tokenizer.patch_size, options.workers) as loader:
        plan = plan_encode(find_images([folder]), loader, tokenizer, EncodeSettings())
        for _ in roundtrip(plan, loader, tokenizer, RoundtripSettings(decode=decoding), output):
            pass


def run_bare(folder: Path, options: argparse.Namespace) -> None:
    """Read and decode all files, in threads that do nothing else."""
    from semdis_cli.images.formats.jpeg.decoder import decode_plain_jpeg, is_fast_jpeg

    assert is_fast_jpeg(), "there is no decoder but Pillow"
    paths = sorted(map(os.fspath, folder.iterdir()))
    size = (options.side, options.side)

    def decode(path: str) -> None:
        with open(path, "rb") as file:  # noqa: PTH123 # a Path for each would be no bare decoding
            assert decode_plain_jpeg(file.read(), size, is_passing=True) is not None

    with measured(), ThreadPoolExecutor(options.workers) as threads:
        for _ in threads.map(decode, paths):
            pass


def run_dataloader(folder: Path, options: argparse.Namespace) -> None:
    """Read all files as a trainer's script does."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Images(Dataset[Any]):
        def __init__(self, paths: list[Path]) -> None:
            self._paths = paths

        def __len__(self) -> int:
            return len(self._paths)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(np.array(Image.open(self._paths[index]).convert("RGB"))).permute(2, 0, 1)

    with measured():
        images = Images(sorted(folder.iterdir()))
        for _ in DataLoader(images, batch_size=BATCH_SIZE, num_workers=options.workers):
            pass


@contextmanager
def measured() -> Iterator[None]:
    """Wait for the word to begin, and write what the block took to stdout, as JSON."""
    import torch

    torch.set_num_threads(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started, feeding_s, cpu_s = time.perf_counter(), time.process_time(), session_cpu_s()
    yield
    found = {"wall_s": time.perf_counter() - started, "feeding_s": time.process_time() - feeding_s}
    sys.stdout.write(json.dumps({**found, "cpu_s": session_cpu_s() - cpu_s}) + "\n")


def session_cpu_s() -> float:
    """Return the CPU time of all processes of this session, living or reaped: workers may be children of a helper."""
    session, ticks = os.getsid(0), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))  # of itself, and of its children that it has waited for
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """Figures of one run of a kind."""

    wall_s: float
    feeding_s: float
    cpu_s: float
    lock_share: float | None


def run(kind: str, folder: Path, options: argparse.Namespace) -> Run:
    """Measure a kind once, in a process of its own."""
    facts = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in PASSED]
    command = [sys.executable, __file__, "--measure", kind, "--folder", os.fspath(folder), *facts]
    with tempfile.TemporaryDirectory() as temporary:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        samples = Path(temporary) / "samples"
        sampler = None
        if options.gil:
            facts = ["--gil", "--format", "raw", "--rate", str(SAMPLES_A_SECOND), "--output", os.fspath(samples)]
            quiet = subprocess.DEVNULL
            sampling = ["py-spy", "record", "--pid", str(process.pid), "--duration", "unlimited", *facts]
            sampler = subprocess.Popen(sampling, stdout=quiet, stderr=quiet)
            time.sleep(1)  # it is looking for the interpreter
        process.stdin.write("go\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
        process.wait()
        share = None
        if sampler is not None:
            sampler.wait()
            held = sum(int(line.rpartition(" ")[2]) for line in samples.read_text(encoding="utf-8").splitlines())
            share = held / SAMPLES_A_SECOND / found["wall_s"]
    return Run(**found, lock_share=share)


def measure(kind: str, folder: Path, options: argparse.Namespace) -> None:
    """Carry out one run, whose output is removed afterwards."""
    options.kind = kind
    output = Path(tempfile.mkdtemp(dir=folder)) / "output"
    try:
        if kind == "encode":
            run_encode(folder / "images", options, output)
        elif kind.startswith("decode"):
            run_decode(folder / "latents", options, output)
        elif kind == "roundtrip":
            run_roundtrip(folder / "images", options, output)
        elif kind == "bare":
            run_bare(folder / "images", options)
        else:
            run_dataloader(folder / "images", options)
    finally:
        shutil.rmtree(output.parent)


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Make the images, and a set for decoding."""
    if not (folder / "images").exists():
        make_images(folder / "images", options.num_images, options.side)
    if not (folder / "latents").exists() and any(kind.startswith("decode") for kind in options.kinds):
        facts = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in PASSED]
        command = [sys.executable, __file__, "--measure", "set", "--folder", os.fspath(folder), *facts]
        subprocess.run(command, check=True, input="go\n", stdout=subprocess.DEVNULL, text=True)


def figures(options: argparse.Namespace, results: dict[str, list[Run]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of each kind, by the fastest of its rounds."""
    number = options.num_images
    bare = min((run.cpu_s for run in results.get("bare", [])), default=None)
    for kind, runs in results.items():
        best = min(runs, key=lambda run: run.wall_s)
        is_reading = kind in {"encode", "roundtrip", "dataloader"}
        other = None if is_reading and bare is None else best.cpu_s - (bare if is_reading and bare else 0)
        lock = None if best.lock_share is None else best.lock_share * best.wall_s / number * 1000
        yield (
            kind,
            {
                "images_per_s": round(number / best.wall_s, 1),
                "feeding_cpu_ms_per_image": round(best.feeding_s / number * 1000, 3),
                "cpu_ms_per_image": round(best.cpu_s / number * 1000, 3),
                "other_cpu_ms_per_image": None if other is None else round(other / number * 1000, 3),
                "lock_ms_per_image": None if lock is None else round(lock, 3),
                "cores_busy": round(best.cpu_s / best.wall_s, 2),
            },
        )


def report(options: argparse.Namespace, found: dict[str, dict[str, Any]]) -> None:
    """Write the figures as a table, or as JSON."""
    if options.json:
        rates = {f"{name}_images_per_s": found[kind]["images_per_s"] for kind, name in RIVALS.items() if kind in found}
        kinds = {kind: values for kind, values in found.items() if kind not in RIVALS}
        decode = {"decode": kinds["decode-jpeg"]} if "decode-jpeg" in kinds else {}
        settings = {name: getattr(options, name.replace("-", "_")) for name in PASSED}
        sys.stdout.write(json.dumps({"settings": settings, **kinds, **decode, **rates}, indent=2) + "\n")
        return
    sys.stdout.write("ms of CPU an image   images/s  feeding      all    other     lock     busy\n")
    for kind, values in found.items():
        columns = [f"{'-' if value is None else value:>8}" for value in values.values()]
        sys.stdout.write(f"{kind:20} {' '.join(columns)}\n")


def main() -> None:
    """Make, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--num-images", type=int, default=2931)
    parser.add_argument("--side", type=int, default=256, help="pixels of each image, wide and high")
    parser.add_argument("--shards", type=int, default=8, help="that the set gets")
    parser.add_argument("--device-ms", type=float, default=0, help="that a call of the network takes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gil", action="store_true", help="sample who holds the interpreter's lock")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to make the images and all else; what is there is used")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "set":
        run_encode(options.folder / "images", options, options.folder / "latents")
        return
    if options.measure is not None:
        measure(options.measure, options.folder, options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        prepare(folder, options)
        results: dict[str, list[Run]] = {kind: [] for kind in options.kinds}
        for _ in range(options.rounds):
            for kind in options.kinds:
                results[kind].append(run(kind, folder, options))
        report(options, dict(figures(options, results)))


if __name__ == "__main__":
    main()
