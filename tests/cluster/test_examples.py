"""The examples for Ray: their commands, run as Ray runs them; and what KubeRay would refuse."""

import os
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.cli.conftest import PHOTOS
from tests.store import lasting
from tests.test_readme import PROJECT

EXAMPLES = PROJECT / "examples" / "ray"
# As `ray job submit` does: the words are joined for a shell, which the head runs.
SUBMIT = """import shlex, subprocess, sys
words = sys.argv[1:]
assert words[:3] == ["job", "submit", "--address"], words
sys.exit(subprocess.run(shlex.join(words[words.index("--") + 1:]), shell=True).returncode)"""


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def world(tmp_path: Path, tiny: Path) -> Path:
    """A folder whose `semdis` notes what it is asked for, and does it here: there is no cluster."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (tmp_path / "photos").mkdir()
    for photo in sorted(PHOTOS.rglob("*.jpg"))[:2]:
        (tmp_path / "photos" / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    command(bin_folder, "ray", f'#!/bin/sh\nexec python3 -c {shlex.quote(SUBMIT)} "$@"\n')
    here = " ".join(map(shlex.quote, forks.semdis()))
    drop = 'echo "$*" > asked; args=$(echo "$*" | sed "s/ --engine ray//; s/ --gpus-per-worker 1//")'
    command(bin_folder, "semdis", f"#!/bin/sh\n{drop}\nexec {here} $args --model {tiny} --device cpu --threads 1\n")
    return tmp_path


def run(world: Path, script: str) -> int:
    environment = os.environ | {"PATH": f"{world / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], cwd=world, env=environment, check=False).returncode


def test_what_is_submitted_is_the_command_and_a_broken_image_is_no_failure(world: Path) -> None:
    text = (EXAMPLES / "submit.sh").read_text(encoding="utf-8")
    for name in ("photos", "latents"):
        text = text.replace(f"{name}=/data/{name}", f"{name}={world / name}")
    assert run(world, text) == 0
    options = "--gpus-per-worker 1 --size 256 --engine ray"
    assert (world / "asked").read_text().split() == f"encode {world}/photos -o {world}/latents {options}".split()
    before = lasting(world / "latents")
    (world / "photos").rename(world / "moved")
    assert run(world, text) == 2, "all else than broken images is one"
    assert lasting(world / "latents") == before


def manifest() -> dict[str, Any]:
    yaml: Any = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text(encoding="utf-8"))
    return found


def test_the_entrypoint_of_the_rayjob_is_the_command(world: Path) -> None:
    text = manifest()["spec"]["entrypoint"].replace("/data/", f"{world}/")
    assert run(world, f"ray job submit --address x -- {text}") == 0
    assert "--engine ray --gpus-per-worker 1" in (world / "asked").read_text()


def test_the_pods_of_the_rayjob_see_one_folder_and_the_head_has_no_actors() -> None:
    cluster = manifest()["spec"]["rayClusterSpec"]
    head, [workers] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["enableInTreeAutoscaling"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    assert pods[0]["volumes"] == pods[1]["volumes"]
    mounts = [pod["containers"][0]["volumeMounts"] for pod in pods]
    assert mounts[0] == mounts[1] == [{"name": "data", "mountPath": "/data"}]
    assert pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
