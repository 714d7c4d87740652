# ruff: noqa: INP001, S603, TID253 (a script of its own)
"""What each --store-dtype costs: bytes an image, and dB of the decoded pictures.

    python benchmarks/store_dtypes.py PHOTOS [OPTION ...]

Runs `semdis encode` and `semdis roundtrip` over the same images with each dtype, computing in float32 so that nothing
else rounds, and prints a table: mean PSNR against what the model was given; PSNR of the decoded pictures against those
of float32 latents, mean and least; and bytes an image of latents and scales. Options go to both commands: --size 256.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semdis_cli.metrics.psnr import psnr_db
from semdis_cli.settings import StoreDtype

EXACT = "float32"
MOST_DB = 100.0  # of pictures that are the same, as roundtrip has it


def run(verb: str, *arguments: str) -> dict[str, Any]:
    """Run a command of `semdis`, and return its report."""
    command = [sys.executable, "-m", "semdis_cli", verb, *arguments, "--json", "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def pictures(folder: Path) -> dict[str, Tensor]:
    """The decoded pictures in a folder, uint8 [H,W,3], by name."""
    return {path.name: torch.from_numpy(np.array(Image.open(path))) for path in sorted(folder.rglob("*.png"))}


def measure(folder: Path, dtype: str, options: list[str]) -> tuple[dict[str, Tensor], float, float]:
    """Return what is decoded from latents of `dtype`, the mean PSNR against the images, and bytes an image."""
    both = ["--store-dtype", dtype, "--dtype", "float32", *options]
    report = run("roundtrip", *both, "-o", str(folder / f"{dtype}-pictures"))
    run("encode", *both, "-o", str(folder / dtype))
    stored = run("inspect", str(folder / dtype))
    num_bytes = stored["bytes"]["latents"] / stored["images"]["ok"]
    return pictures(folder / f"{dtype}-pictures"), report["psnr_db"]["mean"], num_bytes


def main(options: list[str]) -> None:
    """Print the table."""
    print("| stored in | PSNR, dB | against float32, dB | least | bytes an image |\n|---|---|---|---|---|")  # noqa: T201
    with tempfile.TemporaryDirectory() as name:
        exact: dict[str, Tensor] = {}
        for dtype in sorted(get_args(StoreDtype), key=lambda each: each != EXACT):
            found, mean_db, num_bytes = measure(Path(name), dtype, options)
            exact = exact or found
            scores = [min(psnr_db(found[key], exact[key]), MOST_DB) for key in exact]
            cells = ("", "") if dtype == EXACT else (f"{statistics.fmean(scores):.1f}", f"{min(scores):.1f}")
            print(f"| {dtype} | {mean_db:.3f} | {' | '.join(cells)} | {num_bytes:,.0f} |", flush=True)  # noqa: T201


main(sys.argv[1:])
