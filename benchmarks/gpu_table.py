# ruff: noqa: INP001, S603 (a script of its own)
"""What a GPU does with the published architecture, beside what was predicted of an H200 with 16 cores.

    python benchmarks/gpu_table.py [--device cuda] [--size 256 --size 1024] [--quick] [--json]

`semdis bench` for each size, with the model as it is and compiled: the model alone, and from files to files. Weights
are random, which takes no less time. A line for each figure: images a second, the interval that was predicted, and
whether that was right. The intervals were reckoned before anything had run on a GPU, from bytes and operations of each
kernel; those of whole runs say what 16 cores can read and write.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
WAYS = ("off", "on")
FIGURES = {
    "model_encode": "encode, the model alone",
    "model_decode": "decode, the model alone",
    "encode": "encode, photographs to shards",
    "decode": "decode, shards to PNG",
}
PREDICTED = {
    ("model_encode", 256, "off"): (6900, 11200),
    ("model_encode", 1024, "off"): (430, 700),
    ("model_encode", 256, "on"): (16500, 25800),
    ("model_encode", 1024, "on"): (1020, 1600),
    ("model_decode", 256, "off"): (3400, 5500),
    ("model_decode", 1024, "off"): (210, 340),
    ("model_decode", 256, "on"): (6800, 11400),
    ("model_decode", 1024, "on"): (430, 710),
    ("encode", 256, "off"): (400, 800),
    ("encode", 1024, "off"): (300, 600),
    ("encode", 256, "on"): (400, 800),
    ("encode", 1024, "on"): (300, 600),
    ("decode", 256, "off"): (2500, 4600),
    ("decode", 1024, "off"): (180, 290),
    ("decode", 256, "on"): (3000, 4600),
    ("decode", 1024, "on"): (200, 290),
}


@dataclass(frozen=True)
class Line:
    """A figure, in images a second; `predicted`: the interval, None where nobody has reckoned it."""

    figure: str
    size: int
    compiled: str
    images_per_s: float
    predicted: tuple[int, int] | None

    @property
    def verdict(self) -> str:
        """Say what became of the prediction."""
        if self.predicted is None:
            return "-"
        low, high = self.predicted
        return "slower" if self.images_per_s < low else "faster" if self.images_per_s > high else "right"

    def to_json(self) -> dict[str, Any]:
        """Return the figure as plain values."""
        return {**vars(self), "verdict": self.verdict}

    def __str__(self) -> str:
        low_high = "-" if self.predicted is None else "{:,} to {:,}".format(*self.predicted)
        name, way = FIGURES[self.figure], "compiled" if self.compiled == "on" else "eager"
        return f"| {name}, {self.size}² | {way} | {self.images_per_s:,.0f} | {low_high} | {self.verdict} |"


def make_model(folder: Path) -> None:
    """Write a model of the published architecture."""
    sys.path.insert(0, os.fspath(PROJECT))
    from semdis_cli.model.autoencoder import FCDMDiffAE  # noqa: PLC0415 (what is measured need not have it in memory)

    FCDMDiffAE().save_pretrained(folder)


def measure(model: Path, options: argparse.Namespace) -> Iterator[Line]:
    """Yield the figures of `semdis bench`, a run for each size and way."""
    for size, compiled in product(options.size or [256, 1024], WAYS):
        facts = ["--model", os.fspath(model), "--size", str(size), "--device", options.device, "--compile", compiled]
        command = [sys.executable, "-m", "semdis_cli", "bench", "--json", *facts, *(["--quick"] * options.quick)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        report = json.loads(done.stdout)
        for figure in FIGURES:
            predicted = PREDICTED.get((figure, size, compiled))
            yield Line(figure, size, compiled, report[figure]["images_per_s"]["median"], predicted)


def report(lines: Iterator[Line], *, as_json: bool) -> None:
    """Write the figures as JSON, or as a table, each as it comes."""
    if as_json:
        sys.stdout.write(json.dumps([line.to_json() for line in lines], indent=2) + "\n")
        return
    sys.stdout.write("| | | images/s | predicted | |\n|---|---|---|---|---|\n")
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def main() -> None:
    """Make a model, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, action="append", help="pixels, wide and high; may be given often")
    parser.add_argument("--quick", action="store_true", help="as of semdis bench: seconds instead of minutes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        make_model(model)
        report(measure(model, options), as_json=options.json)


if __name__ == "__main__":
    main()
