# ruff: noqa: INP001, T201 (a script of its own)
"""What figures and the page cost: `semdis roundtrip` with and without them, in turns.

    python benchmarks/measuring.py [FOLDER] [--num-images 3000] [--rounds 3] [--model semdis-small] [--json]

Cuts crops of 256x256 px out of the photographs of FOLDER (default: the sample photographs), runs the real command on
them in each way, `--rounds` times in turns, and prints the medians of the seconds of the run, as its report has them,
with their ratios to the first way: PSNR alone; with SSIM; with SSIM and the page; with MS-SSIM too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

import numpy as np  # noqa: TID253
from PIL import Image  # noqa: TID253

PROJECT = Path(__file__).parents[1]
_SIDE_PX = 256
WAYS = {
    "PSNR": ("--metrics", "psnr"),
    "PSNR, SSIM": ("--metrics", "psnr,ssim"),
    "PSNR, SSIM, page": ("--metrics", "psnr,ssim", "--report", "{output}.html"),
    "PSNR, SSIM, MS-SSIM, page": ("--metrics", "psnr,ssim,ms-ssim", "--report", "{output}.html"),
}


def make_crops(photos: Path, folder: Path, num_images: int) -> Path:
    """Cut crops at random places out of photographs that are large enough."""
    generator = np.random.default_rng(0)
    paths = [path for path in sorted(photos.rglob("*")) if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"}]
    opened = [Image.open(path).convert("RGB") for path in paths]
    large = [photo for photo in opened if min(photo.size) > _SIDE_PX]
    for number in range(num_images):
        photo = large[number % len(large)]
        left, top = (int(generator.integers(side - _SIDE_PX)) for side in photo.size)
        path = folder / f"{number:06}.jpg"
        photo.crop((left, top, left + _SIDE_PX, top + _SIDE_PX)).save(path, quality=92)
    return folder


def run_s(photos: Path, output: Path, model: str, options: tuple[str, ...]) -> float:
    """Run the command; return the seconds of the run."""
    filled = [option.format(output=output) for option in options]
    command = [sys.executable, "-m", "semdis_cli", "roundtrip", os.fspath(photos), "--model", model]
    command += ["-o", os.fspath(output), "-q", *filled]
    environment = os.environ | {"PYTHONPATH": os.fspath(PROJECT)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603 (this project)
    elapsed_s: float = json.loads((output / "report.json").read_bytes())["elapsed_s"]
    rmtree(output)
    return elapsed_s


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=PROJECT / "tests" / "photos")
    parser.add_argument("--num-images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="semdis-small")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "photos").mkdir()
        photos = make_crops(arguments.folder, Path(name) / "photos", arguments.num_images)
        for _ in range(arguments.rounds):
            for way, options in WAYS.items():
                seconds[way].append(run_s(photos, Path(name) / "output", arguments.model, options))
    medians = {way: statistics.median(runs) for way, runs in seconds.items()}
    first = medians["PSNR"]
    if arguments.json:
        print(json.dumps({way: {"run_s": one, "ratio": one / first} for way, one in medians.items()}))
        return
    for way, one in medians.items():
        print(f"{way:28} {one:8.2f} s  {one / first:6.3f}  {min(seconds[way]):.2f} .. {max(seconds[way]):.2f}")


if __name__ == "__main__":
    main()
