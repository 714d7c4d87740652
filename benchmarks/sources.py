# ruff: noqa: INP001, PLC0415, S603 (a script of its own; what one kind needs is no memory of another)
"""What it costs to read images of 256x256 pixels from a folder, from tars, zips and Parquet: CPU, wall time, memory.

    python benchmarks/sources.py [--num-images 100000] [--rounds 3] [--workers 1] [--cold] [--folder FOLDER] [KIND ...]

Makes the same JPEGs in all kinds: as files, WebDataset tars, EDM2's zips and Parquet of the Hub; with a .txt and a
.json beside each image as files, tars, and tars that gzip compressed. Then each kind is read in processes of its own,
in turns: listed, sizes from headers, and loaded to pixels, as `semdis encode` does it before the model. The least of
the rounds counts. Memory is that of the whole process at its peak (VmHWM; Linux), with a tenth of the images and with
all of them. `--cold`: all bytes of the files leave the page cache before each round, and come from the disk again; the
column `wall` counts then. Pin it to one core to disturb nobody: taskset -c 1 python benchmarks/sources.py
"""

import argparse
import gzip
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

CONTAINER_IMAGES, GROUP_IMAGES, DRAWN = 10_000, 1000, 64
CAPTION = "a photograph of something that somebody would describe in about this many words"
COUNTS = ("list", "plan", "load")
Rows = list[tuple[str, bytes]]


def make_images(first: int, end: int) -> Rows:
    """Names and JPEGs of about 20 kB; no two have equal bytes."""
    import numpy as np
    from PIL import Image

    generator, drawn = np.random.default_rng(0), []
    for _ in range(DRAWN):
        small = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        drawn.append(file.getvalue())
    return [(f"{number:09d}", _with_comment(drawn[number % DRAWN], number)) for number in range(first, end)]


def _with_comment(jpeg: bytes, number: int) -> bytes:
    return jpeg[:2] + b"\xff\xfe\0\x12" + f"{number:016d}".encode() + jpeg[2:]


def _beside(name: str) -> list[tuple[str, bytes]]:
    return [(f"{name}.txt", CAPTION.encode()), (f"{name}.json", json.dumps({"caption": CAPTION}).encode())]


def write_folder(path: Path, rows: Rows) -> None:
    """Write files in a folder, with their captions."""
    path.mkdir(parents=True)
    for name, data in rows:
        for file, content in ((f"{name}.jpg", data), *_beside(name)):
            (path / file).write_bytes(content)


def write_bare_folder(path: Path, rows: Rows) -> None:
    """Write files in a folder, and nothing else."""
    path.mkdir(parents=True)
    for name, data in rows:
        (path / f"{name}.jpg").write_bytes(data)


def write_tar(path: Path, rows: Rows) -> None:
    """Write a tar of samples."""
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        for name, data in rows:
            for member, content in ((f"{name}.jpg", data), *_beside(name)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def write_bare_tar(path: Path, rows: Rows) -> None:
    """Write a tar of images alone."""
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        for name, data in rows:
            info = tarfile.TarInfo(f"{name}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_packed_tar(path: Path, rows: Rows) -> None:
    """Write a tar of samples, compressed."""
    write_tar(path, rows)
    plain = path.with_suffix(".tar")
    with plain.open("rb") as file, gzip.open(f"{plain}.gz", "wb", compresslevel=1) as packed:
        shutil.copyfileobj(file, packed)
    plain.unlink()


def write_zip(path: Path, rows: Rows) -> None:
    """Write a stored zip with labels, as EDM2 has it."""
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        for name, data in rows:
            archive.writestr(f"{name}.jpg", data)
        archive.writestr("dataset.json", json.dumps({"labels": [[f"{name}.jpg", 1] for name, _ in rows]}))


def write_parquet(path: Path, rows: Rows) -> None:
    """Write a Parquet of the Hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": data, "path": f"{name}.jpg"} for name, data in rows], kind)
    table = pa.table({"image": images, "text": [CAPTION] * len(rows)})
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=GROUP_IMAGES)


KINDS: dict[str, Callable[[Path, Rows], None]] = {
    "folder": write_bare_folder,
    "tar": write_bare_tar,
    "zip": write_zip,
    "parquet": write_parquet,
    "folder+captions": write_folder,
    "tar+captions": write_tar,
    "tar.gz+captions": write_packed_tar,
}


def make(root: Path, kinds: list[str], num_images: int) -> None:
    """Write the images as all kinds: a tenth of them under `few`, all of them under `all`."""
    for size, number in (("few", num_images // 10), ("all", num_images)):
        for first in range(0, number, CONTAINER_IMAGES):
            rows = make_images(first, min(first + CONTAINER_IMAGES, number))
            for kind in kinds:
                path = root / kind / size / f"{first // CONTAINER_IMAGES:05d}"
                path.parent.mkdir(parents=True, exist_ok=True)
                KINDS[kind](path, rows)


def cpu_s() -> float:
    """Return the CPU time of this process so far, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib() -> float:
    """Return the most memory that this process had. What `getrusage` says is that of its parent, if that had more."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def measure(source: Path, num_workers: int) -> None:
    """Read a source, and write what it took as JSON: seconds of CPU and wall for each step, and the peak of memory."""
    import torch

    from semdis_cli.images.loader import Loader
    from semdis_cli.memory import keep_freed_blocks
    from semdis_cli.settings import LoadSettings
    from semdis_cli.sources.find import find_images

    keep_freed_blocks()  # as the command does
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    started = time.perf_counter(), cpu_s()

    def note(step: str) -> None:
        nonlocal started
        now = time.perf_counter(), cpu_s()
        found[f"{step}_wall"], found[step] = now[0] - started[0], now[1] - started[1]
        started = time.perf_counter(), cpu_s()

    images = find_images([source]).images
    note("list")
    with Loader(LoadSettings(), 16, num_workers) as loader:
        planned, failures = loader.plan(images)
        note("plan")
        for first in range(0, len(planned), 256):
            loader.load_all(planned[first : first + 256])
        note("load")
    assert not failures
    found["num_images"] = len(planned)
    found["peak_mib"] = peak_mib()
    sys.stdout.write(json.dumps(found))


def run(source: Path, num_workers: int) -> dict[str, float]:
    """Measure a source in a process of its own."""
    command = [sys.executable, __file__, "--measure", os.fspath(source), "--workers", str(num_workers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def forget(source: Path) -> None:
    """Let the page cache forget the bytes of all files in a folder, as after a restart."""
    os.sync()  # what was not written yet would stay
    for path in source.rglob("*.*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rounds(
    root: Path, kinds: list[str], number: int, num_workers: int, *, is_cold: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what each kind took, in turns."""
    for _ in range(number):
        for kind in kinds:
            if is_cold:
                forget(root / kind / "all")
            yield kind, run(root / kind / "all", num_workers)


def report(kind: str, results: list[dict[str, float]], few: dict[str, float]) -> str:
    """Return a line of the table: the least of all rounds, in microseconds an image, and the peaks of memory."""
    number = results[0]["num_images"]
    best = {step: min(result[step] for result in results) / number * 1e6 for step in COUNTS}
    total = min(sum(result[step] for step in COUNTS) for result in results) / number * 1e6
    wall = min(sum(result[f"{step}_wall"] for step in COUNTS) for result in results) / number * 1e6
    steps = " ".join(f"{best[step]:7.1f}" for step in COUNTS)
    peaks = f"{few['peak_mib']:8.0f} {min(result['peak_mib'] for result in results):8.0f}"
    return f"{kind:16} {steps} {total:7.1f} {wall:7.1f} {peaks}\n"


def main() -> None:
    """Make, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--num-images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="threads that read")
    parser.add_argument("--cold", action="store_true", help="read from the disk, not from the page cache")
    parser.add_argument("--folder", type=Path, help="where to make the images; kept if given")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure, options.workers)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        missing = [kind for kind in options.kinds if not (root / kind).exists()]
        make(root, missing, options.num_images)
        few = {kind: run(root / kind / "few", options.workers) for kind in options.kinds}
        results: dict[str, list[dict[str, float]]] = {kind: [] for kind in options.kinds}
        sys.stdout.write("us of CPU an image   list    plan    load     all    wall   MiB: 1/10      all\n")
        for kind, result in rounds(root, options.kinds, options.rounds, options.workers, is_cold=options.cold):
            results[kind].append(result)
        for kind in options.kinds:
            sys.stdout.write(report(kind, results[kind], few[kind]))


if __name__ == "__main__":
    main()
