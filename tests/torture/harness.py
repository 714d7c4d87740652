"""Running `semdis` as real processes that end where and how a test wants: what all the torture is made of."""

import json
import os
import re
import signal
import subprocess
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from semdis_cli.files.atomic import is_temporary
from tests.cli.conftest import Outcome
from tests.forks import Started, python
from tests.store import contents as all_contents
from tests.torture.launcher import Job
from tests.torture.watch import Change, Stop

PROJECT = Path(__file__).parents[2]
SIZES = [(16, 16), (32, 32), (20, 40)]


class Runner:
    """Runs `semdis` quickly, a process for each run. `modules` are loaded first, beside what encode and decode need."""

    def __init__(self, folder: Path, model: Path, modules: Sequence[str] = ()) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._server = subprocess.Popen(
            [*python(*modules), "-m", "tests.torture.launcher", os.fspath(model)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        arguments: list[str],
        *,
        kill: signal.Signals = signal.SIGKILL,
        before: tuple[int, Path] | None = None,
        after_s: float | None = None,
        **surroundings: str | int,
    ) -> Outcome:
        """Run to the end, or until `kill`: sent before the n-th file operation below a folder, or after some time.

        `surroundings`: `umask`, `locks` and `clock` of `Job`.
        """
        operation, folder = before or (0, Path("/"))
        job = self._job(arguments)
        job |= {"signal": int(kill), "operation": operation, "folder": os.fspath(folder), "after_s": after_s}
        self._start(job | surroundings)
        return self.wait()

    def watch(
        self, arguments: list[str], folder: Path, stop: Stop | None = None, **surroundings: str | int
    ) -> tuple[Outcome, list[Change]]:
        """Run to the end or to `stop`; also the changes below `folder` that were made, in order."""
        log = self._folder / "changes.jsonl"
        job = self._job(arguments) | {"folder": os.fspath(folder.resolve()), "log": os.fspath(log)}
        self._start(job | {"stop": stop and asdict(stop)} | surroundings)
        outcome = self.wait()
        with log.open("rb") as lines:
            return outcome, [Change.from_line(line) for line in lines]

    def start(self, arguments: list[str], **surroundings: str | float | None) -> None:
        """Begin a run, whose outcome `wait` returns."""
        self._start(self._job(arguments) | surroundings)

    def wait(self) -> Outcome:
        """How the run that was started ended."""
        assert self._server.stdout is not None
        code = int(self._server.stdout.readline())
        stdout, stderr = ((self._folder / name).read_bytes() for name in ("stdout", "stderr"))
        return Outcome(code, os.fsdecode(stdout), os.fsdecode(stderr))

    def close(self) -> None:
        self._server.communicate()

    def _job(self, arguments: list[str]) -> dict[str, object]:
        names = {name: os.fspath(self._folder / name) for name in ("stdout", "stderr")}
        return {"arguments": arguments, **names}

    def _start(self, job: dict[str, object]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(asdict(Job(**job))) + "\n")  # type: ignore[arg-type]
        self._server.stdin.flush()


def make_images(folder: Path, num_images: int) -> Path:
    """Small images of three sizes, the same each time; changed just now, see `wait_until_settled`."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(num_images):
        pixels = generator.integers(0, 256, (*SIZES[number % len(SIZES)], 3), dtype=np.uint8)
        save_image(Image.fromarray(pixels), folder / f"{number:02d}.png")
    return folder


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image that was modified long ago."""
    image.save(path)
    make_old(path)


def make_old(path: Path) -> None:
    """Modified at a time of its own, in 2020."""
    time_s = 1_577_836_800 + zlib.crc32(path.read_bytes()) % 31_536_000
    os.utime(path, (time_s, time_s))


def wait_until_settled(folder: Path) -> Path:
    """Return when no file in `folder` was changed just now: it might change again unseen."""
    newest_ns = max((path.stat().st_ctime_ns for path in folder.iterdir()), default=0)
    time.sleep(max(0.0, 2.1 - (time.time_ns() - newest_ns) / 1e9))
    return folder


def make_few_images(folder: Path) -> Path:
    """Six images, one of which is cut short, and a file that is no image at all: four shards of up to two images."""
    make_images(folder, 6)
    (folder / "04.png").write_bytes((folder / "04.png").read_bytes()[:-100])
    (folder / "06.png").write_bytes(b"not a picture")
    for name in ("04.png", "06.png"):
        make_old(folder / name)
    return folder


def encode_arguments(images: Path, output: Path, model: Path, *more: str, shard_images: int = 3) -> list[str]:
    return [
        *("encode", os.fspath(images), "-o", os.fspath(output), "--model", os.fspath(model)),
        *("--shard-images", str(shard_images), "--threads", "1", *more),
    ]


def decode_arguments(latents: Path, output: Path) -> list[str]:
    return ["decode", os.fspath(latents), "-o", os.fspath(output), "--threads", "1", "--workers", "1"]


def contents(root: Path) -> dict[str, bytes | None]:
    """Every file below `root` with its bytes and every folder with None, but not the report: it holds times."""
    return {name: data for name, data in all_contents(root).items() if name != "report.json"}


def temporaries(root: Path) -> list[str]:
    """The names of temporary files left anywhere below `root`."""
    return [path.name for path in root.rglob("*") if is_temporary(path.name)]


def differences(root: Path, expected: Path) -> list[str]:
    """In what two folders differ, a line a name; nothing if they are the same to the byte."""
    found, wanted = contents(root), contents(expected)
    lines = [f"left over: {name}" for name in sorted(found.keys() - wanted.keys())]
    lines += [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    return lines + [
        f"other bytes: {name}" for name in sorted(found.keys() & wanted.keys()) if found[name] != wanted[name]
    ]


def wait_for_shards(root: Path, num_shards: int, process: subprocess.Popen[str]) -> None:
    """Return when the process has published that many shards in all, or has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and len(list(root.glob("shards/*.safetensors"))) < num_shards:
        assert time.monotonic() < deadline, "no shard in two minutes"
        time.sleep(0.001)


def start(arguments: list[str]) -> Started:
    """The command, at work."""
    return Started(arguments, PROJECT)


@dataclass(frozen=True)
class Step:
    """One change of a run, with the name that people know the file by: a temporary file has that of the file to be."""

    number: int
    operation: str
    file: str
    num_bytes: int

    @property
    def title(self) -> str:
        return f"{self.operation} {self.file}"


def steps(changes: Sequence[Change]) -> list[Step]:
    """The changes of an unbroken run, in order."""
    final = {change.path: change.to for change in changes if change.operation == "rename"}

    def name(path: str) -> str:
        if path in final:
            return re.sub(r"[0-9a-f]{16}", "*", f"{final[path]} (temporary)")
        return re.sub(r"[0-9a-f]{16}", "*", path)

    numbered = [change for change in changes if change.number]
    return [Step(change.number, change.operation, name(change.path), len(change.data)) for change in numbered]
