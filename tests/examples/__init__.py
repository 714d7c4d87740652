"""What the scripts of examples/ work on, and what stands in for the machines that they are for."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests import forks
from tests.store import lasting
from tests.test_readme import PROJECT

EXAMPLES = PROJECT / "examples"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class World:
    """A folder with photographs, one of them broken, and a tiny model; `bin` has a `semdis` that starts at once."""

    folder: Path
    model: Path

    @classmethod
    def make(cls, folder: Path, model: Path) -> "World":
        """Fill a folder, and make the set that the examples are to make, as one process does."""
        shutil.copytree(PROJECT / "tests" / "photos", folder / "photos")
        broken = folder / "photos" / "broken.jpg"
        broken.write_bytes(b"no image")
        os.utime(broken, (0, 0))
        world = cls(folder, model)
        world.add_command("semdis", f'exec {" ".join(forks.semdis())} "$@"')
        done = world.run(["semdis", "encode", world.photos, "-o", "whole", *world.options])
        assert done.returncode == 3, done.stderr
        return world

    @property
    def photos(self) -> str:
        return str(self.folder / "photos")

    @property
    def latents(self) -> Path:
        return self.folder / "latents"

    @property
    def options(self) -> list[str]:
        """Those of all runs: 14 images, each in a shard of its own."""
        return ["--size", "32,48", "--shard-images", "1", "--model", str(self.model), "--threads", "1"]

    def add_command(self, name: str, script: str) -> None:
        """Have a command found before all others of its name."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def edited(self, example: str, changes: dict[str, str]) -> Path:
        """Return a copy of an example with other values of its variables, as its readers are told to edit it.

        A line of GPUs is left out, as it says.
        """
        text = (EXAMPLES / example).read_text(encoding="utf-8")
        mine = {"photos": self.photos, "latents": str(self.latents), "options": f"({' '.join(self.options)})"}
        for name, value in (mine | changes).items():
            text, number = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
            assert number == 1, name
        path = self.folder / Path(example).name
        path.write_text(re.sub(r"^.*# without this line: on CPUs$\n", "", text, flags=re.MULTILINE), encoding="utf-8")
        return path

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a process that finds the commands, and what a launcher sets."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | (more or {})

    def run(self, command: list[str], more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in this folder."""
        environment = self.environment(more)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def stop_at_work(self, command: list[str], part: str, how: signal.Signals, more: dict[str, str]) -> int:
        """Run a command until a part is at work in it, and send that a signal. Return how the command ended."""
        lock = self.latents / "journal" / f".semdis-lock-{part.replace('/', '-of-')}"
        with subprocess.Popen(command, cwd=self.folder, env=self.environment(more)) as started:
            os.kill(holder(lock), how)
        assert started.returncode not in {0, 3}, "it was too late"
        return started.returncode

    def assert_whole(self) -> None:
        """Fail unless the set has the bytes that one process gives it."""
        assert lasting(self.latents) == lasting(self.folder / "whole")


def holder(lock: Path) -> int:
    """Return the number of the process that holds a folder, once one does."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if lock.exists() and (text := lock.read_bytes().strip(b"\0\n ")):
            return int(json.loads(text)["process"].split()[0])
        time.sleep(0.002)
    raise AssertionError(f"{lock}: nobody came")
