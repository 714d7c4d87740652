"""Several processes that share a run: the set is the one of a single process, whatever happens to them."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semdis_cli.errors import CheckpointError, KilledProcessError, UsageError
from semdis_cli.events import (
    BatchDone,
    ColumnTrouble,
    Event,
    Failure,
    ProcessDied,
    RunFinished,
    RunStarted,
    ShardFailed,
)
from semdis_cli.images.loader import Loader
from semdis_cli.images.masks import masks_made
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline import engine
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.fleet import fleet, model_copy, roundtrip_job
from semdis_cli.pipeline.fleet.encode_job import EncodeJob
from semdis_cli.pipeline.fleet.fleet import Worker
from semdis_cli.pipeline.fleet.model_copy import ModelCopy
from semdis_cli.pipeline.fleet.sending import ShardSender
from semdis_cli.pipeline.processes import shared
from semdis_cli.pipeline.roundtrip import roundtrip
from semdis_cli.provenance import ModelIdentity
from semdis_cli.records import PlannedImage, SourceImage
from semdis_cli.settings import (
    ColumnSettings,
    DecodeSettings,
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    PartSettings,
    ProcessSettings,
    RoundtripSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.sources.masks import find_masks
from semdis_cli.sources.spool import Spool, peek_stdin
from semdis_cli.store.reader import open_latents
from semdis_cli.store.writing.plan import PlannedShard
from tests.accelerated import Accelerated, children_of, processes_of
from tests.cli.conftest import semdis
from tests.extras import needs
from tests.store import lasting
from tests.torture.harness import PROJECT, encode_arguments, make_images, wait_for_shards, wait_until_settled
from tests.worlds import save_noise

NUM_IMAGES = 22
SETTINGS = EncodeSettings(num_workers=2, shards=ShardSettings(shard_images=3))
TWO = ProcessSettings(num_processes=2)
PLAIN = LoadSettings()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two sizes with captions, of which one is cut short and one is none."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        path = save_noise(folder / f"{number:02d}.png", number, (32, 48) if number % 3 else (20, 16))
        if number != 5:
            path.with_suffix(".txt").write_text(f"number {number}")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:1000])
    (folder / "11.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(str(tiny), TokenizerSettings(device="cpu", dtype="float32", batch_size=2))


def run(
    source: Path,
    tokenizer: Tokenizer,
    output: Path,
    settings: EncodeSettings = SETTINGS,
    load: LoadSettings = PLAIN,
    masks: Path | None = None,
) -> Iterator[Event]:
    found = find_images([source])
    files = None if masks is None else find_masks(masks, found)
    made = masks_made(settings.latents.parts, files)
    with Loader(load, tokenizer.patch_size, settings.num_workers, masks=made) as loader:
        yield from encode(found, loader, tokenizer, settings, output)


def as_tar(photos: Path, folder: Path) -> Path:
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.add(path, path.name)
    return folder / "photos.tar"


def as_parquet(photos: Path, folder: Path) -> Path:
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted(photos.glob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    pq.write_table(pa.table({"image": images, "txt": [path.name for path in paths]}), folder / "photos.parquet")
    return folder / "photos.parquet"


KINDS: dict[str, Callable[[Path, Path], Path]] = {"folder": lambda photos, _: photos, "tar": as_tar}
KINDS["parquet"] = as_parquet


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_set_of_one(photos: Path, tokenizer: Tokenizer, tmp_path: Path, kind: str) -> None:
    source = KINDS[kind](photos, tmp_path)
    settings = replace(
        SETTINGS,
        columns=ColumnSettings(captions="txt"),
        latents=PartSettings(flip="both", store_dtype="int8"),
    )
    load = LoadSettings(GeometrySettings(size=(16, 32)))
    alone = list(run(source, tokenizer, tmp_path / "alone", settings, load))
    both = list(run(source, tokenizer, tmp_path / "both", replace(settings, processes=TWO), load))
    assert lasting(tmp_path / "both") == lasting(tmp_path / "alone")
    assert troubles(both) == troubles(alone)
    assert len(troubles(both)) >= 4
    assert isinstance(both[-1], RunFinished)
    assert both[-1].report["processes"] == 2
    assert both[-1].report["images"] == alone[-1].report["images"]  # type: ignore[union-attr]


def troubles(events: list[Event]) -> list[tuple[str, str]]:
    return sorted((event.key, event.reason) for event in events if isinstance(event, Failure | ColumnTrouble))


def test_masks_and_moments_are_the_same(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for number in range(0, NUM_IMAGES, 2):
        size = (32, 48) if number % 3 else (20, 16)
        pixels = np.random.default_rng(number).integers(0, 2, size, dtype=np.uint8) * 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "masks" / f"{number:02d}.png")
    latents = PartSettings(posterior="moments", masks=tmp_path / "masks")
    settings = replace(SETTINGS, latents=latents)
    for name, who in (("alone", ProcessSettings()), ("both", TWO)):
        how = replace(settings, processes=who)
        list(run(photos, tokenizer, tmp_path / name, how, masks=tmp_path / "masks"))
    assert lasting(tmp_path / "both") == lasting(tmp_path / "alone")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, photos: Path, tokenizer: Tokenizer) -> Path:
    output = tmp_path_factory.mktemp("alone") / "latents"
    list(run(photos, tokenizer, output))
    return output


def killing(monkeypatch: pytest.MonkeyPatch, is_next: Callable[[Any], bool]) -> None:
    """Kill each process that is given such a shard."""
    deal = fleet.Fleet._deal

    def dealing(self: Any, child: Any, remaining: Iterator[PlannedShard]) -> None:
        before = set(child.under_way)
        deal(self, child, remaining)
        if any(is_next(shard) for name, shard in child.under_way.items() if name not in before):
            os.kill(child.process.pid, signal.SIGKILL)

    monkeypatch.setattr(fleet.Fleet, "_deal", dealing)


@pytest.mark.parametrize("numbers", [[2], [0, 1]], ids=["one", "both"])
def test_shards_of_processes_that_are_killed_are_done_once_more(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Path, numbers: list[int]
) -> None:
    seen: set[str] = set()

    def is_first(shard: PlannedShard) -> bool:
        is_new = int(shard.name[:8]) in numbers and shard.name not in seen
        seen.add(shard.name)
        return is_new

    killing(monkeypatch, is_first)
    events = list(run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=TWO)))
    died = [event for event in events if isinstance(event, ProcessDied)]
    assert len(died) == len(numbers)
    assert {event.how for event in died} == {"SIGKILL"}
    assert {event.device for event in died} == {"cpu"}
    assert [any(f"{number:08d}" in shard for event in died for shard in event.shards) for number in numbers]
    assert lasting(tmp_path / "latents") == lasting(alone)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].report["processes_died"] == len(numbers)


def test_a_shard_that_kills_twice_ends_the_run_and_the_rest_is_kept(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Path
) -> None:
    events = run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=TWO))
    with monkeypatch.context() as patch:
        killing(patch, lambda shard: shard.name.startswith("00000005"))
        with pytest.raises(KilledProcessError, match=r"process \d+ on cpu was killed too"):
            list(events)
    assert not multiprocessing.active_children()
    noted = (tmp_path / "latents/journal/0.jsonl").read_bytes().count(b'"shard":')
    assert noted >= 1
    list(run(photos, tokenizer, tmp_path / "latents"))
    assert lasting(tmp_path / "latents") == lasting(alone)


def test_a_run_that_is_left_leaves_no_process_and_goes_on_with_any_number(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, alone: Path
) -> None:
    events = run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=TWO))
    next(event for event in events if not isinstance(event, RunStarted | Failure))
    events.close()  # type: ignore[attr-defined] # it is a generator
    assert not multiprocessing.active_children()
    list(run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=ProcessSettings(num_processes=3))))
    assert lasting(tmp_path / "latents") == lasting(alone)


def test_a_process_that_fails_ends_the_run_with_its_own_line(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Here a shard cannot be written, as a folder lies in the way."""
    events = run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=TWO))
    assert isinstance(next(events), RunStarted)
    (tmp_path / "latents/shards").rmdir()
    (tmp_path / "latents/shards").write_bytes(b"")
    with pytest.raises(UsageError, match=r"shards/.*cannot be written"):
        list(events)
    assert not multiprocessing.active_children()


def test_a_process_with_another_model_is_refused(tokenizer: Tokenizer) -> None:
    copy = ModelCopy.of(tokenizer, "cpu")
    assert copy.load().identity == tokenizer.identity
    identity: ModelIdentity = replace(copy.identity, weights_sha256="0" * 64)
    with pytest.raises(UsageError, match=r"cpu: would make other latents .*weights_sha256"):
        replace(copy, identity=identity).load()
    with pytest.raises(UsageError, match=r"dtype float32, not bfloat16"):
        replace(copy, compute={**copy.compute, "dtype": "bfloat16"}).load()


def test_a_process_that_cannot_load_the_model_ends_the_run_before_work(
    photos: Path, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    tokenizer = Tokenizer.load(str(tmp_path / "model"), TokenizerSettings(device="cpu"))
    (tmp_path / "model/model.safetensors").unlink()  # this process has it mapped
    (tmp_path / "model/model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
        next(run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=TWO)))
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_before_it_has_begun_ends_the_run(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = fleet._Child.start

    def starting(job: EncodeJob) -> Any:
        child: Any = start(job)
        child.process.kill()
        return child

    monkeypatch.setattr(fleet._Child, "start", starting)
    with pytest.raises(KilledProcessError, match=r"process \d+ on cpu was killed \(SIGKILL\) before it had begun"):
        next(run(photos, tokenizer, tmp_path / "latents", replace(SETTINGS, processes=TWO)))
    assert not multiprocessing.active_children()


def test_what_came_on_stdin_is_refused(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with (photos / "00.png").open("rb") as stream:
        spool = Spool(peek_stdin(stream, is_only=True), tmp_path)
    shard = PlannedShard("a", (PlannedImage(SourceImage("stdin.png", spool, 0, 10), (32, 48)),))
    with Loader(PLAIN, tokenizer.patch_size, 1) as loader:
        pack = partial(ShardSender(loader).pack, shard)
        with pytest.raises(UsageError, match=r"stdin.png: cannot be read by other processes"):
            pack(set())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--processes", "2", "--devices", "0,1"], "does not go with"),
        (["--devices", "0"], "does not go with --device cpu"),
        (["--devices", "0,0"], "names no devices"),
        (["--processes", "2", "-o", "-"], "does not go with -"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_work(
    photos: Path, tmp_path: Path, options: list[str], why: str
) -> None:
    done = semdis("encode", photos, *options, "--device", "cpu", cwd=tmp_path)
    assert done.code == 2
    assert why in " ".join(done.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


# --- beside an accelerator ---


class AcceleratedJob(EncodeJob):
    """Encoding by a process that has others read for it, as beside a GPU."""

    @contextmanager
    def begin(self) -> Iterator[Worker[Any, Any]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared, "_LEAST_IMAGES", 1)
            patch.setattr(model_copy, "Tokenizer", Accelerated)
            with super().begin() as worker:
                yield worker


@pytest.mark.slow
def test_processes_beside_accelerators_have_processes_of_their_own_that_read(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerated = Accelerated.load(str(tiny), TokenizerSettings(device="cpu", dtype="float32", batch_size=2))
    list(run(photos, accelerated, tmp_path / "alone"))
    monkeypatch.setattr(engine, "EncodeJob", AcceleratedJob)
    readers: set[int] = set()
    for event in run(photos, accelerated, tmp_path / "both", replace(SETTINGS, processes=TWO)):
        if isinstance(event, BatchDone):
            readers.update(processes_of(os.getpid()), *map(processes_of, processes_of(os.getpid())))
    assert len(readers) >= 4  # two, and at least one for each
    assert lasting(tmp_path / "both") == lasting(tmp_path / "alone")
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in readers))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- decoding ---

DECODING = DecodeSettings(num_workers=2)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory, alone: Path, tokenizer: Tokenizer) -> Path:
    output = tmp_path_factory.mktemp("decoded") / "images"
    list(decode(open_latents(alone), tokenizer, DECODING, output))
    return output


def test_two_processes_decode_to_the_same_files_and_keep_those_that_are_there(
    alone: Path, decoded: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source, settings = open_latents(alone), replace(DECODING, processes=TWO)
    events = list(decode(source, tokenizer, settings, tmp_path / "both"))
    assert lasting(tmp_path / "both") == lasting(decoded)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].report["processes"] == 2
    kept = tmp_path / "both/00.png"
    kept.write_bytes(b"kept")
    (tmp_path / "both/01.png").unlink()
    list(decode(source, tokenizer, settings, tmp_path / "both"))
    assert kept.read_bytes() == b"kept"
    assert (tmp_path / "both/01.png").read_bytes() == (decoded / "01.png").read_bytes()


def test_a_process_that_is_killed_over_a_damaged_shard_costs_nothing_but_that(
    alone: Path, decoded: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(alone, tmp_path / "latents")
    damaged = sorted((tmp_path / "latents/shards").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    first = [damaged.name]
    killing(monkeypatch, lambda shard: first == [shard.name] and bool(first.pop()))
    settings = replace(DECODING, processes=TWO)
    events = list(decode(open_latents(tmp_path / "latents"), tokenizer, settings, tmp_path / "images"))
    assert [damaged.name in event.shards for event in events if isinstance(event, ProcessDied)] == [True]
    assert [event.name for event in events if isinstance(event, ShardFailed)] == [damaged.name]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].report["images"]["failed"] == 3
    files = lasting(tmp_path / "images")
    missing = lasting(decoded).keys() - files.keys()
    assert len(missing) == 3
    assert files == {name: data for name, data in lasting(decoded).items() if name not in missing}


def test_two_processes_measure_the_same(photos: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings = RoundtripSettings(decode=DECODING)
    for name, who in (("alone", ProcessSettings()), ("both", TWO)):
        how = replace(settings, decode=replace(DECODING, processes=who))
        with Loader(PLAIN, tokenizer.patch_size, 2) as loader:
            plan = plan_encode(find_images([photos]), loader, tokenizer, SETTINGS)
            list(roundtrip(plan, loader, tokenizer, how, tmp_path / name))
    assert lasting(tmp_path / "both") == lasting(tmp_path / "alone")
    assert (tmp_path / "both/figures.jsonl").read_bytes().count(b"psnr_db") == NUM_IMAGES - 2
    assert json.loads((tmp_path / "both/report.json").read_bytes())["processes"] == 2


def test_a_process_that_reads_in_another_way_measures_nothing(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"reader": "pillow 0", "resize": "by hand"}
    monkeypatch.setattr(roundtrip_job, "reading_record", lambda *_: record)  # in this process
    how = RoundtripSettings(decode=replace(DECODING, processes=TWO))
    with Loader(PLAIN, tokenizer.patch_size, 2) as loader:
        plan = plan_encode(find_images([photos]), loader, tokenizer, SETTINGS)
        with pytest.raises(UsageError, match=r"reads images in another way .*\(pillow 0, by hand -> pillow \d"):
            list(roundtrip(plan, loader, tokenizer, how, tmp_path / "trip"))


# --- real commands ---


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wait_until_settled(make_images(tmp_path_factory.mktemp("images") / "many", 400))


def begin(images: Path, output: Path, tiny: Path) -> "subprocess.Popen[str]":
    """Begin a run by two processes, in a group of its own; two shards are done when this returns."""
    arguments = encode_arguments(images, output, tiny, "--processes", "2", "--device", "cpu", shard_images=4)
    command = [str(Path(sys.executable).with_name("semdis")), *arguments]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_shards(output, 2, process)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "interrupt", "terminate"])
def test_a_command_that_ends_in_the_middle_ends_its_processes_and_goes_on(
    many: Path, tiny: Path, tmp_path: Path, end: str
) -> None:
    arguments = partial(encode_arguments, many, model=tiny, shard_images=4)
    process = begin(many, tmp_path / "latents", tiny)
    children = processes_of(process.pid)
    assert len(children) >= 2
    if end == "kill":
        process.kill()
    else:  # as batch systems and terminals do
        os.killpg(process.pid, signal.SIGINT if end == "interrupt" else signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {"kill": -signal.SIGKILL, "interrupt": 130, "terminate": 143}[end], stderr
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert not children_of(process.pid)
    noted = (tmp_path / "latents/journal/0.jsonl").read_bytes().count(b'"sums"')
    again = semdis(*arguments(output=tmp_path / "latents"), "--processes", "2", "--device", "cpu", cwd=PROJECT)
    assert again.code == 0, again.stderr
    is_told = f"{noted * 4} of 400 images done before" in again.stderr
    assert is_told or end == "kill" or not noted, f"{noted} shards noted: {again.stderr}"  # nothing is said of nothing
    whole = semdis(*arguments(output=tmp_path / "whole"), "--device", "cpu", cwd=PROJECT)
    assert whole.code == 0, whole.stderr
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "whole")


@pytest.mark.slow
def test_a_command_says_which_process_was_killed(many: Path, tiny: Path, tmp_path: Path) -> None:
    process = begin(many, tmp_path / "latents", tiny)
    victim = processes_of(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert f"semdis: process {victim} on cpu died (SIGKILL)" in stderr
