"""`semdis encode` with filters: what they leave out is counted and listed, and follows the options of each run."""

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semdis_cli.images import loader
from semdis_cli.images.images import read_image_size
from semdis_cli.store.index import read_rows
from tests.cli.conftest import Outcome, Run
from tests.cli.test_grow import stored
from tests.cli.test_what_is_encoded import manifest, write_image
from tests.torture.harness import wait_until_settled

SIZES = {"flat": (40, 90), "small": (20, 30), "square": (64, 64), "tall": (150, 50)}


def write_photos(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """Pictures of (height, width) by their names."""
    for name, size in sizes.items():
        write_image(folder / f"{name}.png", size)
    return folder


def encoder(photos: Path, tiny: Path, run: Run, *common: str) -> Run:
    """`semdis encode` of a folder with the tiny model, its report as JSON."""

    def call(*options: str | Path, output: str = "latents") -> Outcome:
        wait_until_settled(photos)
        return run("encode", photos, "-o", output, "--model", tiny, "--threads", "1", "--json", *common, *options)

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", SIZES)


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    return encoder(photos, tiny, run, "--size", "32")


@pytest.fixture
def headers_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each header that is read for a plan."""
    read: list[int] = []

    def counted(*arguments: Any) -> tuple[int, int]:
        read.append(1)
        return read_image_size(*arguments)

    monkeypatch.setattr(loader, "read_image_size", counted)
    return read


def report(done: Outcome) -> dict[str, Any]:
    assert done.code == 0, done.stderr
    fields = json.loads(done.stdout)
    assert isinstance(fields, dict)
    return fields


def outcomes(root: Path) -> dict[str, str]:
    """Of every row its status, or the filter that left it out."""
    return {row.key: row.left_out_by or row.status for row in read_rows(root / "index.jsonl")}


def test_what_filters_leave_out_is_counted_and_listed_and_no_failure(tmp_path: Path, encode: Run, run: Run) -> None:
    planned = report(encode("--min-size", "32", "--max-aspect", "2.5", "--dry-run"))
    assert planned["left_out"] == {"max_aspect": 1, "min_size": 1}
    done = encode("--min-size", "32", "--max-aspect", "2.5")
    assert report(done)["images"] == {"ok": 2, "failed": 0, "this_run": 2}
    assert report(done)["left_out"] == {"max_aspect": 1, "min_size": 1}
    assert "left out: small.png (--min-size)" in done.stderr
    assert "semdis: left out: 1 by --max-aspect, 1 by --min-size" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "latents" / "index.jsonl").read_bytes().splitlines()]
    assert {"key": "small.png", "status": "left_out", "reason": "min_size", "size": [20, 30]} in rows
    assert manifest(tmp_path / "latents")["totals"] == {
        "ok": 2, "failed": 0, "removed": 0, "superseded": 0, "left_out": 2
    }  # fmt: skip
    verified = run("verify", "latents", "--json")
    assert (verified.code, json.loads(verified.stdout)["images"]["left_out"]) == (0, 2)
    assert json.loads(run("inspect", "latents", "--json").stdout)["left_out"] == {"max_aspect": 1, "min_size": 1}
    assert "1 by --max-aspect, 1 by --min-size" in run("inspect", "latents").stdout


def test_the_same_run_again_reads_no_header_and_writes_nothing(
    tmp_path: Path, photos: Path, encode: Run, headers_read: list[int]
) -> None:
    shutil.copy(photos / "flat.png", photos / "copy.png")
    options = ("--min-size", "32", "--max-aspect", "2.5", "--dedupe")
    first = report(encode(*options))
    assert len(headers_read) == 5
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*") if path.is_file()}
    again = report(encode(*options))
    assert len(headers_read) == 5
    assert (again["images"]["this_run"], again["unchanged"], again["left_out"]) == (0, 2, first["left_out"])
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after[path]} == {"report.json"}


@pytest.mark.slow
def test_what_another_filter_takes_is_encoded_and_what_it_leaves_out_can_come_back(
    tmp_path: Path, encode: Run, headers_read: list[int]
) -> None:
    root = tmp_path / "latents"
    assert report(encode("--min-size", "32"))["images"]["ok"] == 3
    assert report(encode())["images"]["this_run"] == 1
    assert outcomes(root) == dict.fromkeys(["flat.png", "small.png", "square.png", "tall.png"], "ok")
    num_read, everything = len(headers_read), stored(root)
    tightened = report(encode("--max-aspect", "1.2"))
    assert (tightened["images"]["this_run"], tightened["left_out"]) == (0, {"max_aspect": 3})
    assert set(stored(root)) == {"square.png"}
    assert manifest(root)["totals"]["removed"] == 3
    assert outcomes(root)["flat.png"] == "max_aspect"
    assert report(encode("--min-size", "45"))["left_out"] == {"min_size": 2}
    assert outcomes(root) == {"flat.png": "min_size", "small.png": "min_size", "square.png": "ok", "tall.png": "ok"}
    assert report(encode("--max-aspect", "1.2"))["images"]["this_run"] == 0
    assert report(encode("--max-aspect", "1.2"))["left_out"] == {"max_aspect": 3}
    assert report(encode())["images"]["this_run"] == 0
    assert stored(root) == everything
    assert len(headers_read) == num_read


def test_images_that_would_be_enlarged_are_left_out_where_anything_enlarges(tmp_path: Path, encode: Run) -> None:
    assert report(encode("--no-upscale"))["left_out"] == {"no_upscale": 1}
    assert outcomes(tmp_path / "latents")["small.png"] == "no_upscale"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--no-upscale",), "goes with --size, --bucket-size or --bucket"),
        (("--no-upscale", "--max-pixels", "100"), "goes with --size, --bucket-size or --bucket"),
        (("--max-aspect", "0.5"), "greater than or equal to 1"),
    ],
)
def test_a_filter_that_leaves_nothing_out_is_refused(
    photos: Path, tiny: Path, run: Run, options: tuple[str, ...], complaint: str
) -> None:
    done = run("encode", photos, "--model", tiny, *options)
    assert done.code == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.slow
def test_of_files_with_the_same_bytes_the_first_by_key_is_taken(tmp_path: Path, photos: Path, encode: Run) -> None:
    root = tmp_path / "latents"
    for name in ("b.png", "z.png"):
        shutil.copy(photos / "flat.png", photos / name)
    assert report(encode("--dedupe"))["left_out"] == {"dedupe": 2}
    assert {key for key, outcome in outcomes(root).items() if outcome == "dedupe"} == {"flat.png", "z.png"}
    shutil.copy(photos / "flat.png", photos / "a.png")  # is the first now
    grown = report(encode("--dedupe"))
    assert (grown["images"]["this_run"], grown["left_out"]) == (1, {"dedupe": 3})
    assert outcomes(root)["b.png"] == "dedupe"
    assert manifest(root)["totals"]["removed"] == 1
    (photos / "a.png").unlink()  # the latents of b.png are there still
    assert report(encode("--dedupe"))["images"]["this_run"] == 0
    assert outcomes(root)["b.png"] == "ok"
    (photos / "b.png").unlink()
    assert report(encode("--dedupe"))["images"]["this_run"] == 1
    assert outcomes(root)["flat.png"] == "ok"


def test_files_of_one_size_that_hold_other_bytes_are_no_twins(tmp_path: Path, photos: Path, encode: Run) -> None:
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{seed}.bmp")
    assert report(encode("--dedupe"))["left_out"] == {}
    assert set(outcomes(tmp_path / "latents").values()) == {"ok"}


@pytest.mark.slow
def test_a_broken_file_with_a_twin_fails_once_for_all_runs(tmp_path: Path, photos: Path, encode: Run) -> None:
    for name in ("x.png", "y.png"):
        (photos / name).write_bytes((photos / "flat.png").read_bytes()[:100])
    for _ in range(2):
        done = encode("--dedupe")
        assert (done.code, json.loads(done.stdout)["images"]["failed"]) == (3, 1)
        assert outcomes(tmp_path / "latents") == {
            **{f"{name}.png": "ok" for name in SIZES}, "x.png": "failed", "y.png": "dedupe"
        }  # fmt: skip


def test_latents_on_a_pipe_leave_out_the_same(photos: Path, tiny: Path, run_bytes: Run) -> None:
    done = run_bytes("encode", photos, "-o", "-", "--model", tiny, "--size", "32", "--min-size", "32")
    assert done.code == 0
    assert "left out: small.png (--min-size)" in done.stderr
    assert "small.png" not in done.stdout


def _names(path: Path) -> list[str]:
    return sorted(path.name for path in path.iterdir())


def _expected(photos: Path, options: dict[str, float | bool]) -> tuple[set[str], int]:
    """The images that such a run takes, and how many it leaves out, by the definition of each filter."""
    taken: set[str] = set()
    digests: set[str] = set()
    for name in _names(photos):
        with Image.open(photos / name) as image:
            short, long = sorted(image.size)
        if short < options.get("--min-size", 0) or long > options.get("--max-aspect", 1000) * short:
            continue
        if "--no-upscale" in options and short < 32:
            continue
        digest = hashlib.sha256((photos / name).read_bytes()).hexdigest()
        if "--dedupe" in options and digest in digests:
            continue
        digests.add(digest)
        taken.add(name)
    return taken, len(_names(photos)) - len(taken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_after_any_changes_the_set_serves_what_the_filters_of_the_last_run_take(
    tmp_path: Path, photos: Path, encode: Run, run: Run, seed: int
) -> None:
    rng, root = random.Random(seed), tmp_path / "latents"
    long_ago_s = time.time() - 3600

    def add() -> None:
        path = photos / f"{rng.randrange(12):02}.png"
        write_image(path, rng.choice([(20, 30), (33, 33), (64, 40), (32, 100), (90, 90)]))
        os.utime(path, (long_ago_s, long_ago_s + rng.randrange(1000)))

    def copy() -> None:
        data = (photos / rng.choice(_names(photos))).read_bytes()
        (photos / f"{rng.randrange(12):02}-copy.png").write_bytes(data)

    def remove() -> None:
        if len(_names(photos)) > 3:
            (photos / rng.choice(_names(photos))).unlink()

    offers: list[tuple[str, Callable[[], float | bool]]] = [
        ("--min-size", lambda: rng.choice([25, 40])),
        ("--max-aspect", lambda: rng.choice([1.4, 2.0])),
        ("--no-upscale", lambda: True),
        ("--dedupe", lambda: True),
    ]
    for _ in range(6):
        for change in rng.choices([add, copy, remove], k=2):
            change()
        options = {name: value() for name, value in offers if rng.random() < 0.5}
        arguments = [
            text for name, value in options.items() for text in ([name] if value is True else [name, str(value)])
        ]
        taken, num_left_out = _expected(photos, options)
        if not taken or not taken & set(outcomes(root) if root.exists() else taken):
            continue
        done = report(encode(*arguments))
        assert sum(done["left_out"].values()) == num_left_out
        assert set(stored(root)) == taken
        again = report(encode(*arguments))
        assert (again["images"]["this_run"], again["left_out"]) == (0, done["left_out"])
        assert run("verify", "latents", "--data", "--against", photos, "--quiet").code == 0
    assert stored(root).items() <= stored_anew(encode, tmp_path).items()


def stored_anew(encode: Run, tmp_path: Path) -> dict[str, bytes]:
    """What a set of all images, made in one go, serves."""
    report(encode(output="anew"))
    return stored(tmp_path / "anew")
