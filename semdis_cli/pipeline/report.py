"""Report of a run: what it did and where its time went, summed while it goes and written as `report.json`."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from semdis_cli.events import BatchDone, ColumnTrouble, Event, RunFinished, StageTimes, TimeSpent
from semdis_cli.files.atomic import publish
from semdis_cli.files.json_text import escape_name, strict_json
from semdis_cli.files.set_names import REPORT_FILE
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.store.writing.far_set import FarSet


class RunTotals:
    """Sums of a run's batches, from the moment it is made.

    `tokenizer`: None where no model runs. `num_threads`: what works at once; stages are counted in their seconds.
    `far`: the set in a store, if the output is its stage; it gets the report too.
    """

    def __init__(self, verb: str, tokenizer: Tokenizer | None, num_threads: int = 1, far: FarSet | None = None) -> None:
        self._verb = verb
        self._tokenizer = tokenizer
        self.num_threads = num_threads
        self._far = far
        self._started = time.perf_counter()
        self._num_images = 0
        self._megapixels = 0.0
        self._times = StageTimes()
        self._num_troubles = 0

    def add(self, event: Event) -> Event:
        """Hand an event on; count the images, the time and the troubles that it tells of."""
        match event:
            case BatchDone():
                self._num_images += event.num_images
                self._megapixels += event.megapixels
                self._times += event.times
            case TimeSpent():
                self._times += event.times
            case ColumnTrouble():
                self._num_troubles += 1
        return event

    def finish(
        self,
        output: Path | None,
        *,
        num_ok: int,
        num_failed: int,
        num_missing: int | None = None,
        report_path: Path | None = None,
        **results: Any,
    ) -> RunFinished:
        """Write `report.json` into `output` and return it as the closing event. `results` are the verb's own facts.

        `output`: None where all went to stdout; then nothing is written. `num_missing`: None for a verb that counts
        none. `report_path`: where it is written instead.
        """
        elapsed_s = max(time.perf_counter() - self._started, 1e-9)  # a clock may stand still
        idle_s = self.num_threads * elapsed_s - (sum(asdict(self._times).values()) - self._times.publish_s)
        times = self._times + StageTimes(wait_s=max(0.0, idle_s))
        report: dict[str, Any] = {
            "command": self._verb,
            "images": {"ok": num_ok, "failed": num_failed, "this_run": self._num_images},
            "elapsed_s": round(elapsed_s, 3),
            "images_per_s": round(self._num_images / elapsed_s, 3),
            "megapixels_per_s": round(self._megapixels / elapsed_s, 3),
            "threads": self.num_threads,
            "stages": _stages(times),
            "output": "-" if output is None else str(output if self._far is None else self._far.url),
            **results,
        }
        if num_missing is not None:
            report["images"] |= {"missing": num_missing}
        if self._num_troubles:
            report["column_troubles"] = self._num_troubles
        if self._tokenizer is not None:
            report |= {"model": model_record(self._tokenizer), "compute": compute_record(self._tokenizer)}
            is_alone = "processes" not in results  # others choose for themselves
            chosen = self._tokenizer.chosen_sizes if is_alone else {}
            sizes = {"images_per_call": chosen, "halved": self._tokenizer.halved_to}
            report |= {name: by_size(found) for name, found in sizes.items() if found}
        if output is not None:
            publish(report_path or output / REPORT_FILE, [strict_json(report, indent=1).encode() + b"\n"])
        if self._far is not None:
            self._far.push_report()
        return RunFinished(num_ok, num_failed, report)


def by_size(numbers: Mapping[tuple[int, int], int]) -> dict[str, int]:
    """Return numbers by size (H, W) as they are reported: by "HxW"."""
    return {f"{height}x{width}": number for (height, width), number in numbers.items()}


def _stages(times: StageTimes) -> dict[str, float]:
    """Return the seconds of each stage; of measuring only where something was measured."""
    seconds = {name: round(value, 3) for name, value in asdict(times).items()}
    return seconds if times.measure_s else {name: seconds[name] for name in seconds if name != "measure_s"}


def model_record(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return which model it is; of its name, which may be a path, the text (`unescape_name` leads back)."""
    record = asdict(tokenizer.identity)
    return record | {"name": escape_name(record["name"])}


def compute_record(tokenizer: Tokenizer) -> dict[str, Any]:
    """The settings of the computation that can change the last bits of a latent."""
    record: dict[str, Any] = {
        "device": tokenizer.device_name,
        "dtype": tokenizer.dtype_name,
        "kernels": tokenizer.kernels,
        "batch_size": tokenizer.batch_size or "by size",
        "torch": version("torch"),
    }
    if tokenizer.is_on_cpu:
        record["num_threads"] = tokenizer.num_threads
    return record
