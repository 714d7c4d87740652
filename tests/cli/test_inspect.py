"""`semdis inspect`: what latents are, for people and for programs."""

import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.events import Failure
from semdis_cli.files.json_text import to_line
from semdis_cli.provenance import Provenance
from semdis_cli.store.manifest import Manifest
from tests.cli.conftest import Run
from tests.store import KEYS, PROVENANCE, SmallPlan, make_plan, write_next, write_set

Json = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_set(tmp_path / "latents")
    return tmp_path / "latents"


def report(run: Run, path: Path) -> Json:
    outcome = run("inspect", path, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    fields = json.loads(outcome.stdout)
    assert isinstance(fields, dict)
    return fields


def test_json_has_everything(run: Run, root: Path) -> None:
    manifest, found = Manifest.read(root), report(run, root)
    assert set(found) == {
        "command", "latents", "provenance", "images", "shards", "bytes", "sources", "buckets", "failures", "notes",
        "statistics",
    }  # fmt: skip
    assert found["provenance"] == PROVENANCE
    assert found["images"] == {"ok": 8, "failed": 3, "removed": 0, "superseded": 0}
    sizes = [path.stat().st_size for path in sorted((root / "shards").iterdir())]
    assert [(shard["images"], shard["bytes"]) for shard in found["shards"]] == list(
        zip((2, 1, 3, 2), sizes, strict=True)
    )
    assert found["bytes"] == {"shards": sum(sizes), "index": (root / "index.jsonl").stat().st_size, "latents": 156}
    assert found["buckets"] == [
        {"grid": [1, 2], "image_px": [16, 32], "images": 3, "bytes": 36},
        {"grid": [2, 2], "image_px": [32, 32], "images": 5, "bytes": 120},
    ]
    assert found["sources"] == {"bytes": sum(len(key) for key in KEYS if "bad" not in key), "megapixels": 0.072}
    assert found["notes"] == [{"pattern": "made up", "images": 8, "example": {"key": "a.png", "text": "made up"}}]
    mean, std = manifest.sums.mean_std()
    assert found["statistics"] == {"positions": 26, "mean": mean, "std": std}


def test_failures_are_grouped_by_their_reason_without_its_digits(run: Run, tmp_path: Path) -> None:
    reasons = [*(f"{number} pixels are too many" for number in range(1000, 1005)), "is empty"]
    failures = tuple(Failure(f"f{number}.png", reason) for number, reason in enumerate(reasons))
    plan = make_plan(("a.png",))
    write_set(tmp_path / "set", SmallPlan(plan.provenance, plan.keys, plan.shard_images, failures))
    assert report(run, tmp_path / "set")["failures"] == [
        {"pattern": "# pixels are too many", "images": 5, "example": {"key": "f0.png", "text": reasons[0]}},
        {"pattern": "is empty", "images": 1, "example": {"key": "f5.png", "text": "is empty"}},
    ]
    text = run("inspect", tmp_path / "set").stdout
    assert "5  # pixels are too many  f0.png" in text


def test_rows_that_are_not_served_are_counted_apart(run: Run, root: Path) -> None:
    write_set(root, make_plan(KEYS[1:]))
    found = report(run, root)
    assert found["images"] == {"ok": 7, "failed": 3, "removed": 1, "superseded": 0}
    assert sum(bucket["images"] for bucket in found["buckets"]) == 7
    assert "1 removed, 0 superseded" in run("inspect", root).stdout


def test_a_single_shard_tells_the_same_of_itself(run: Run, root: Path) -> None:
    path = root / "shards" / "00000000-1x2.safetensors"
    found = report(run, path)
    assert found["images"] == {"ok": 2, "failed": 0, "removed": 0, "superseded": 0}
    assert (found["provenance"], found["statistics"]["positions"]) == (PROVENANCE, 4)
    assert [shard["name"] for shard in found["shards"]] == [path.name]
    path.write_bytes(path.read_bytes()[:-1] + b"\x99")
    assert run("inspect", path).code == 4


def test_in_a_pipe_it_is_plain_text(run: Run, root: Path) -> None:
    outcome = run("inspect", root)
    assert outcome.code == 0
    assert outcome.stdout.isascii() or "±" in outcome.stdout
    assert "┃" not in outcome.stdout
    for line in ("8 ok, 3 failed", "model.name", "made up", "1x2   16x32", "Failures", "is a folder", "00000003-2x2"):
        assert line in outcome.stdout
    assert "Channels" not in outcome.stdout
    assert "Channels\n  channel" in run("inspect", root, "--channels").stdout


def test_on_a_terminal_it_is_a_table(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    outcome = run("inspect", root)
    assert "┃" in outcome.stdout
    assert "00000003-2x2.safetensors" in outcome.stdout


@pytest.mark.slow
def test_on_a_real_terminal_too(root: Path) -> None:
    shown = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 1 << 16)
        shown.extend(data)
        return data

    status = pty.spawn([sys.executable, "-m", "semdis_cli", "inspect", str(root)], read)
    assert os.waitstatus_to_exitcode(status) == 0
    assert "┃" in shown.decode()


def test_text_from_files_cannot_steer_a_terminal(run: Run, tmp_path: Path) -> None:
    failures = (Failure("f\x1b[2J.png", "is \x1b]0;owned\x07 empty"),)
    provenance = Provenance.from_json({**PROVENANCE, "model": {"name": "[bold]\x1b[31mred"}})
    plan = make_plan(("a.png",))
    write_set(tmp_path / "set", SmallPlan(provenance, plan.keys, plan.shard_images, failures))
    outcome = run("inspect", tmp_path / "set")
    assert "\x1b" not in outcome.stdout
    assert "[bold]\\x1b[31mred" in outcome.stdout


def test_many_kinds_are_cut_short(run: Run, tmp_path: Path) -> None:
    failures = tuple(Failure(f"{number:02d}", f"reason {chr(97 + number) * 3}") for number in range(25))
    plan = make_plan(("a.png",))
    write_set(tmp_path / "set", SmallPlan(plan.provenance, plan.keys, plan.shard_images, failures))
    assert "... and 5 more kinds" in run("inspect", tmp_path / "set").stdout
    assert len(report(run, tmp_path / "set")["failures"]) == 25


def test_unfinished_and_damaged_sets_end_with_4(run: Run, root: Path, tmp_path: Path) -> None:
    with make_plan().open(tmp_path / "begun") as latents:
        write_next(latents)
    outcome = run("inspect", tmp_path / "begun")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "run the same semdis encode again" in outcome.stderr
    path = root / "index.jsonl"
    path.write_bytes(path.read_bytes() + to_line({"key": "zz", "status": "failed", "error": "x"}))
    assert run("inspect", root).code == 4
    assert run("inspect", tmp_path / "none").code == 4
