"""`semdis eval --generator` as its users have it: a table, a report, pictures, one line for what cannot be done."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run, semdis
from tests.cli.test_json_lines import problems
from tests.evaluation.generator.test_compare import made
from tests.evaluation.generator.worlds import draw, noise_like, save_made, smooth
from tests.extras import needs
from tests.torture.harness import start

OPTIONS = (
    "--generator",
    "--generator-size",
    "tiny",
    "--generator-batch-size",
    "8",
    "--threads",
    "1",
    "--dtype",
    "float32",
)
SHORT = (*OPTIONS, "--generator-steps", "4", "--generator-points", "2")


@pytest.fixture(autouse=True)
def with_matplotlib() -> None:
    needs("matplotlib")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of the same images, in folders that are called a and b."""
    folder = tmp_path_factory.mktemp("sets")
    save_made(folder / "a", 100, noise_like)
    save_made(folder / "b", 100, smooth)
    return folder


def test_a_table_goes_to_stdout_and_all_else_to_stderr(run: Run, sets: Path, tmp_path: Path) -> None:
    done = run("eval", sets / "a", sets / "b", *SHORT, "-o", "curves")
    assert done.code == 0, done.stderr
    title, heading, first, second = done.stdout.splitlines()
    assert title == "Held-out loss, relative, in 4 steps"
    assert heading.split() == ["set", "start", "end", "95", "%", "half", "way", "GFLOPs"]
    assert (first.split()[0], second.split()[0]) == ("a", "b")
    assert max(map(len, done.stdout.splitlines())) <= 80
    report = json.loads((tmp_path / "curves/report.json").read_text())
    assert first.split()[2] == f"{report['sets'][0]['points'][-1]['relative_loss']['mean']:.4f}"
    assert "a CPU's few steps are a rehearsal" in done.stderr
    assert "32 images seen each (0.4 epochs); curves.svg and report.json in curves" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("A loss curve is no FID")
    assert (tmp_path / "curves/curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_report_as_it_is_documented(run: Run, sets: Path, tmp_path: Path) -> None:
    done = run("eval", sets / "a", *SHORT, "--json", "-q")
    assert (done.code, done.stderr) == (0, "")
    assert problems(done.stdout, "eval of a generator") == []
    assert json.loads(done.stdout) == json.loads((tmp_path / "eval-generator/report.json").read_text())


def test_quiet_leaves_the_table_alone(run: Run, sets: Path) -> None:
    done = run("eval", sets / "a", *SHORT, "-q")
    assert (done.code, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


def test_what_cannot_be_compared_is_said_in_a_line(run: Run, sets: Path, tmp_path: Path) -> None:
    few, odd = tmp_path / "few", tmp_path / "odd"
    save_made(few, 30, noise_like)
    save_made(odd, 100, lambda key: draw(key, (4, 5, 4)))
    (tmp_path / "torn").mkdir()
    shard = next((sets / "a/shards").iterdir())
    (tmp_path / "torn" / shard.name).write_bytes(shard.read_bytes()[:-100])
    for arguments, code, line in (
        ([few], 2, "semdis: 30 images in all sets are too few photographs: one in 10 is held out, and that takes 80"),
        (
            [sets / "a", odd],
            2,
            "semdis: grids of 4x4 and 5x4 for one image: they cannot be cut into equally many",
        ),
        ([sets / "a", "--generator-batch-size", "99"], 2, "not enough for a batch of 99; give more, or a smaller"),
        ([tmp_path / "torn" / shard.name], 4, f"semdis: {tmp_path / 'torn' / shard.name}: "),
    ):
        done = run("eval", *SHORT, "-q", *arguments)
        assert done.code == code, done.stderr
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "eval-generator").exists()


def test_an_option_that_has_no_effect_is_refused(run: Run, sets: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for arguments, why in (
        ((sets / "a", "--generator-steps", "4"), "--generator-steps: goes with --generator"),
        ((sets / "a", "--generator", "--neighbours", "4"), "--neighbours: does not go with --generator"),
        ((sets / "a", "--generator", "--steps", "4"), "--steps: does not go with --generator"),
        (("photos", "--generator"), "--generator: is about sets of latents; these are images"),
    ):
        done = run("eval", *arguments)
        assert done.code == 2
        assert why in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_says_so_and_is_finished_by_the_same_command(
    sets: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    several = "--generator-steps", "20", "--generator-points", "5"
    arguments = ["eval", str(sets / "a"), str(sets / "b"), *OPTIONS, *several]
    assert semdis(*arguments, "-o", "whole", cwd=tmp_path).code == 0
    with start([*arguments, "-q", "-o", str(tmp_path / "stopped")]) as process:
        while process.poll() is None and not (tmp_path / "stopped/1-seed0/log.jsonl").exists():
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == code
    assert stderr.startswith(f"semdis: stopped by {number.name}; run the same command again")
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "stopped/report.json").exists()
    assert semdis(*arguments, "-o", "stopped", cwd=tmp_path).code == 0
    assert made(tmp_path / "stopped") == made(tmp_path / "whole")
