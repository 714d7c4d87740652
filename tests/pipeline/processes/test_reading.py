"""Images that are read by processes: the same sets as by threads, and nothing lost when one of them is killed."""

import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from semdis_cli.errors import KilledProcessError
from semdis_cli.events import BatchDone, Event, RunFinished, RunStarted
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.processes import shared
from semdis_cli.pipeline.processes.fork_server import start_early
from semdis_cli.pipeline.processes.reading import ProcessReading
from semdis_cli.pipeline.processes.shared import SharedMemory
from semdis_cli.settings import (
    ColumnSettings,
    CropSettings,
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    PartSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from tests.accelerated import Accelerated, killing_at_third, processes_of, refuse, wait_for
from tests.extras import needs
from tests.store import lasting
from tests.worlds import save_noise, save_tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has processes that read")

NUM_IMAGES, CALL_IMAGES = 26, 4
SETTINGS = EncodeSettings(num_workers=2, shards=ShardSettings(shard_images=8))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Accelerated.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=CALL_IMAGES, num_threads=1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two sizes and four kinds, one of them turned, one cut off, one no picture, with captions."""
    folder = tmp_path_factory.mktemp("photos")
    suffixes = ("jpg", "png", "jpg", "webp")
    for number in range(NUM_IMAGES):
        size = (50, 33) if number % 3 == 0 else (32, 48)
        path = save_noise(folder / f"{number:02d}.{suffixes[number % 4]}", number, size)
        path.with_suffix(".txt").write_text(f"number {number}")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / "04.jpg").save(folder / "04.jpg", exif=exif)
    (folder / "08.jpg").write_bytes((folder / "08.jpg").read_bytes()[:700])
    (folder / "10.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)


def run(
    source: Path,
    tokenizer: Tokenizer,
    output: Path,
    settings: EncodeSettings = SETTINGS,
    load: LoadSettings = LoadSettings(),  # noqa: B008 (frozen)
) -> list[Event]:
    with Loader(load, tokenizer.patch_size, settings.num_workers) as loader:
        return list(encode(find_images([source]), loader, tokenizer, settings, output))


def as_tar(photos: Path, folder: Path) -> Path:
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.add(path, path.name)
    return folder / "photos.tar"


def as_zip(photos: Path, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    return folder / "photos.zip"


def as_packed_tar(photos: Path, folder: Path) -> Path:
    with tarfile.open(folder / "photos.tar.gz", "w:gz") as archive:
        for path in sorted(photos.iterdir()):
            archive.add(path, path.name)
    return folder / "photos.tar.gz"


def as_parquet(photos: Path, folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = [path for path in sorted(photos.iterdir()) if path.suffix != ".txt"]
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    pq.write_table(pa.table({"image": images, "text": [path.name for path in paths]}), folder / "photos.parquet")
    return folder / "photos.parquet"


KINDS: dict[str, Callable[[Path, Path], Path]] = {
    "folder": lambda photos, _: photos,
    "tar": as_tar,
    "tar.gz": as_packed_tar,
    "zip": as_zip,
    "parquet": as_parquet,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_is_the_same_whoever_reads_its_images(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "parquet":
        needs("pyarrow")
    source = KINDS[kind](photos, tmp_path)
    run(source, tokenizer, tmp_path / "threads")
    monkeypatch.setattr(shared, "_LEAST_IMAGES", 1)
    calls = counted(monkeypatch)
    finished = run(source, tokenizer, tmp_path / "processes")[-1]
    assert isinstance(finished, RunFinished)
    assert finished.report["images"] == {"ok": NUM_IMAGES - 2, "failed": 2, "this_run": NUM_IMAGES - 2}
    assert calls, "processes read them"
    assert lasting(tmp_path / "processes") == lasting(tmp_path / "threads")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note each call that a process is to read."""
    calls: list[int] = []
    task = ProcessReading._task

    def counting(self: ProcessReading, slot: int, images: Any) -> Any:
        calls.append(len(images))
        return task(self, slot, images)

    monkeypatch.setattr(ProcessReading, "_task", counting)
    return calls


@pytest.mark.usefixtures("by_processes")
def test_views_twins_columns_and_resized_images_are_the_same(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EncodeSettings(
        num_workers=2,
        columns=ColumnSettings(captions="txt"),
        latents=PartSettings(flip="both", store_dtype="int8"),
        shards=ShardSettings(shard_images=8),
    )
    load = LoadSettings(geometry=GeometrySettings(size=(16, 32)), crops=CropSettings(number=2, seed=1))
    run(photos, tokenizer, tmp_path / "processes", settings, load)
    monkeypatch.setattr(shared, "_LEAST_IMAGES", sys.maxsize)
    run(photos, tokenizer, tmp_path / "threads", settings, load)
    assert lasting(tmp_path / "processes") == lasting(tmp_path / "threads")


@pytest.mark.usefixtures("by_processes")
def test_calls_that_no_slot_holds_are_read_by_threads(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_most_bytes", lambda: 6 * CALL_IMAGES * 32 * 48 * 3)  # of six slots
    calls = counted(monkeypatch)
    run(photos, tokenizer, tmp_path / "both")
    planned = NUM_IMAGES
    assert 0 < sum(calls) < planned
    monkeypatch.setattr(shared, "_LEAST_IMAGES", sys.maxsize)
    run(photos, tokenizer, tmp_path / "threads")
    assert lasting(tmp_path / "both") == lasting(tmp_path / "threads")


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("what", ["posix_fallocate", "memfd_create"])
def test_without_memory_threads_read_and_it_is_said(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(os, what, refuse)
    started, *_, finished = run(photos, tokenizer, tmp_path / "latents")
    assert isinstance(started, RunStarted)
    assert "images are read by threads, not by processes (No space left on device)" in started.note
    assert isinstance(finished, RunFinished)


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize(
    "where", [(shared, "ProcessPoolExecutor"), (ProcessPoolExecutor, "submit")], ids=["semaphores", "processes"]
)
def test_without_a_process_to_be_had_the_reading_is_left_to_threads(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    monkeypatch.setattr(*where, refuse)
    start_early()  # which keeps what it opens
    before = len(list(Path("/proc/self/fd").iterdir()))
    started, *_ = run(photos, tokenizer, tmp_path / "latents")
    assert isinstance(started, RunStarted)
    assert "read by threads" in started.note
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1, "the memory was given back"


@pytest.mark.usefixtures("by_processes")
@pytest.mark.parametrize("number", [1, 2])
def test_a_reader_that_is_killed_ends_the_run_in_a_line_and_nothing_is_lost(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    match = r"a process that .* was killed, .* run the same command again"
    with killing_at_third(ProcessReading, number), pytest.raises(KilledProcessError, match=match):
        run(photos, tokenizer, tmp_path / "latents")
    run(photos, tokenizer, tmp_path / "latents")
    monkeypatch.setattr(shared, "_LEAST_IMAGES", sys.maxsize)
    run(photos, tokenizer, tmp_path / "threads")
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "threads")


SCRIPT = """
import sys, time
from pathlib import Path
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.processes import shared
from semdis_cli.pipeline.encode import encode
from semdis_cli.settings import EncodeSettings, LoadSettings, TokenizerSettings
from semdis_cli.sources.find import find_images

class Slow(Tokenizer):
    is_on_cpu = False

    def encode(self, images, keys, **options):
        time.sleep(60)

if __name__ == "__main__":
    shared._LEAST_IMAGES = 1
    source, model, output = map(Path, sys.argv[1:])
    tokenizer = Slow.load(str(model), TokenizerSettings(batch_size=4))
    with Loader(LoadSettings(), tokenizer.patch_size, 2) as loader:
        for event in encode(find_images([source]), loader, tokenizer, EncodeSettings(num_workers=2), output):
            print("begun", flush=True)
"""


@pytest.mark.slow
def test_readers_end_with_a_run_that_is_killed(photos: Path, tmp_path: Path) -> None:
    script, model = tmp_path / "slow.py", save_tiny_model(tmp_path / "model")
    script.write_text(SCRIPT)
    command = [sys.executable, *map(os.fspath, (script, photos, model, tmp_path / "latents"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        readers = wait_for(lambda: processes_of(process.pid))
        process.kill()
    assert readers
    wait_for(lambda: all(not is_alive(pid) for pid in readers))


@pytest.mark.usefixtures("by_processes")
def test_signals_to_all_processes_are_for_the_one_that_knows_what_to_do(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with Loader(LoadSettings(), tokenizer.patch_size, 2) as loader:
        events = encode(find_images([photos]), loader, tokenizer, SETTINGS, tmp_path / "latents")
        before = list(takewhile(lambda event: not isinstance(event, BatchDone), events))
        time.sleep(1)  # until both have begun
        pids = list(map(str, processes_of(os.getpid())))
        for name in ("TERM", "INT", "HUP"):
            subprocess.run(["kill", f"-{name}", *pids], check=True)  # by a process that is not their parent
        after = list(events)
    assert isinstance(before[0], RunStarted)
    assert isinstance(after[-1], RunFinished)


NOTED = """
import sys
from pathlib import Path
from semdis_cli.events import RunStarted
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.processes import shared
from semdis_cli.pipeline.encode import encode
from semdis_cli.settings import EncodeSettings, LoadSettings, TokenizerSettings
from semdis_cli.sources.find import find_images

class Accelerated(Tokenizer):
    is_on_cpu = False

if __name__ == "__main__":
    shared._LEAST_IMAGES = 1
    source, model, output = map(Path, sys.argv[1:])
    tokenizer = Accelerated.load(str(model), TokenizerSettings(batch_size=4))
    with Loader(LoadSettings(), tokenizer.patch_size, 2) as loader:
        for event in encode(find_images([source]), loader, tokenizer, EncodeSettings(num_workers=2), output):
            if isinstance(event, RunStarted):
                print(event.note or "nothing")
    print(event.report["images"]["ok"])
"""
SMALL = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
FILLED = f"{SMALL} && (head -c 65536 /dev/zero > /dev/shm/full; true)"


@pytest.mark.parametrize(("prepare", "are_threads"), [(SMALL, False), (FILLED, True)], ids=["small", "full"])
def test_a_container_with_hardly_any_shared_memory_will_do(
    photos: Path, tmp_path: Path, prepare: str, are_threads: bool
) -> None:
    unshare = ["unshare", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, SMALL], check=False, capture_output=True).returncode
    ):
        pytest.skip("this user may not mount a disk of its own")
    if tmp_path.is_relative_to("/dev/shm"):
        pytest.skip("the files of this test lie where it mounts a disk")
    script, model = tmp_path / "noted.py", save_tiny_model(tmp_path / "model")
    script.write_text(NOTED)
    command = f'{prepare} && exec "$@"'
    run = [*unshare, command, "sh", sys.executable, *map(os.fspath, (script, photos, model, tmp_path / "latents"))]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    note, num_ok = done.stdout.splitlines()
    says = "images are read by threads, not by processes (No space left on device)"
    assert (says in note) is are_threads
    assert num_ok == str(NUM_IMAGES - 2)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_memory_is_shared_by_rows_and_is_no_file() -> None:
    before = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    memory = SharedMemory(2, 3 * 4 * 4 * 3)
    assert memory.rows(1, (4, 4)).shape == (3, 4, 4, 3)
    memory.rows(1, (4, 4))[2] = 7
    assert memory.rows(1, (4, 4))[2].min() == 7
    assert memory.rows(0, (4, 4)).max() == 0
    assert set(Path("/dev/shm").iterdir()) <= before
    memory.close()
