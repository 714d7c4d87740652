"""Commands that are stopped while their threads plan or measure: at a named step of their own, and soon after it."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import forks

NUM_IMAGES = 400
NUM_THREADS = 4
MOST_STEPS = 2 * NUM_THREADS  # that begin once the signal is known: each thread ends what it has begun
HANGS_S = 120.0

# Runs the real command, which signals itself at its `at`-th step and at those that follow, `times` in all. A step is a
# file of the folder that is opened, or a Python of ours that is started. A step that begins when the signal is known
# leaves a byte.
COMMAND = """
import os, sys
from semdis_cli.stops import StoppedError, look
folder, at, times, number, log, *sys.argv[1:] = sys.argv[1:]
descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
seen = 0

def is_step(event, arguments):
    if folder == "processes":
        return event == "subprocess.Popen" and "semdis_cli" in str(arguments[1])
    return event == "open" and str(arguments[0]).startswith(folder)

def watch(event, arguments):
    global seen
    if not is_step(event, arguments):
        return
    seen += 1
    try:
        look()
    except StoppedError:
        os.write(descriptor, b".")
    if int(at) <= seen < int(at) + int(times):
        os.kill(os.getpid(), int(number))

from semdis_cli.cli import main
sys.addaudithook(watch)
main()
"""

COLUMNS = 12  # of a few images, columns are looked for in files beside them, first of all
PLANNING = NUM_IMAGES // 4
TRYING = NUM_IMAGES + 30  # the headers of all have been read
READING = NUM_IMAGES + 20
INT, TERM = signal.SIGINT, signal.SIGTERM
MOMENTS = [
    pytest.param("encode --dry-run -o latents", PLANNING, INT, id="a dry run reads headers"),
    pytest.param("encode --dry-run -o latents", TRYING, TERM, id="a dry run tries calls"),
    pytest.param("encode -o latents", PLANNING, INT, id="an encode reads headers"),
    pytest.param("encode -o latents", COLUMNS, TERM, id="an encode looks for columns"),
    pytest.param("roundtrip -o out", PLANNING, TERM, id="a roundtrip reads headers"),
    pytest.param("init -o model --config tiny.json", PLANNING, INT, id="an init reads headers"),
    pytest.param("init -o model --config tiny.json", READING, TERM, id="an init reads images"),
    pytest.param("bench --quick --max-pixels 999 --num-images 200 --data", 20, INT, id="a bench reads headers"),
    pytest.param("bench --quick --max-pixels 999 --num-images 200 --data", 230, TERM, id="a bench reads images"),
    pytest.param("bench --quick --num-images 8 --data", 45, INT, id="a bench runs a stage", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    folder = tmp_path_factory.mktemp("world") / "photos"
    folder.mkdir()
    (folder.parent / "tiny.json").write_bytes((tiny / "config.json").read_bytes())
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for number in range(NUM_IMAGES):
        Image.fromarray(pixels + np.uint8(number % 256)).save(folder / f"{number:03d}.png")
    return folder


def stopped(
    command: str, photos: Path, model: Path, where: tuple[Path | str, int, int], number: int, log: Path
) -> "subprocess.CompletedProcess[str]":
    """Run `command` over `photos`; it signals itself at `where`: the folder of its steps, which one, how often."""
    verb, *options = command.split()
    options += [str(photos)] if verb == "bench" else []
    arguments = [verb, *([] if verb == "bench" else [str(photos)]), *options]
    arguments += ["--workers", str(NUM_THREADS), *([] if verb == "init" else ["--model", str(model)])]
    return subprocess.run(
        [*forks.python(), "-c", COMMAND, *map(str, where), str(int(number)), str(log), *arguments, "--quiet"],
        cwd=photos.parent,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )


@pytest.mark.parametrize(("command", "at", "number"), MOMENTS)
def test_a_signal_while_threads_plan_or_measure_ends_the_command_within_few_of_its_steps(
    command: str, at: int, number: signal.Signals, photos: Path, tiny: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    ended = stopped(command, photos, tiny, (photos, at, 1), number, log)
    assert (ended.returncode, ended.stdout) == (128 + number, ""), ended.stderr
    assert ended.stderr.startswith(f"semdis: stopped by {number.name}; run the same command again")
    assert ended.stderr.count("\n") == 1
    assert log.stat().st_size <= MOST_STEPS


@pytest.mark.parametrize(("command", "at", "number"), MOMENTS[:1] + MOMENTS[4::3])
def test_several_signals_in_a_row_end_it_too(
    command: str, at: int, number: signal.Signals, photos: Path, tiny: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    ended = stopped(command, photos, tiny, (photos, at, 5), number, log)
    assert ended.returncode in {-number, 128 + number}  # the second one is the system's, if it is still there for it
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert log.stat().st_size <= MOST_STEPS


@pytest.mark.slow
def test_a_bench_that_waits_for_a_process_ends_it(photos: Path, tiny: Path, tmp_path: Path) -> None:
    ended = stopped("bench --quick --data", photos, tiny, ("processes", 1, 1), TERM, tmp_path / "log")
    assert (ended.returncode, ended.stdout) == (143, ""), ended.stderr
    assert (tmp_path / "log").read_bytes() == b""


# What Python does at its very end: its own handlers are no more, and the last objects go.
LAST = """
import atexit, os, sys
number, *sys.argv[1:] = sys.argv[1:]

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=int(number)):
        kill(me, number)

last = Last()
atexit.register(os.kill, os.getpid(), int(number))
from semdis_cli.cli import main
main()
"""


@pytest.mark.parametrize("number", [INT, TERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("--no-such-option", 2)])
def test_signals_after_the_last_line_leave_the_exit_code_as_it_is(
    argument: str, code: int, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", LAST, str(int(number)), argument]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
