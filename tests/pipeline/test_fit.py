"""Images that memory cannot hold: listed, never tried, and had by a later run that has more of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semdis_cli.events import BatchDone, Event, Failure, RunFinished
from semdis_cli.images.loader import Loader
from semdis_cli.memory import Room
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline import workers
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.roundtrip import roundtrip
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    RoundtripSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.store.reader import open_latents

MIB = 1 << 20
LITTLE, MUCH = Room(40 * MIB), Room(4096 * MIB)
AS_THEY_ARE = GeometrySettings()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, size in {"a.png": (64, 32), "large.png": (2048, 1792), "z.png": (32, 32)}.items():
        Image.fromarray(np.full((*size, 3), 77, np.uint8)).save(folder / name)
    return folder


def tokenizer_of(model: Path, batch_size: int | None = None) -> Tokenizer:
    return Tokenizer.load(str(model), TokenizerSettings(dtype="float32", batch_size=batch_size, num_threads=1))


SETTINGS = RoundtripSettings(decode=DecodeSettings(num_workers=2))


def encoded(
    photos: Path, tokenizer: Tokenizer, output: Path, room: Room, geometry: GeometrySettings = AS_THEY_ARE
) -> list[Event]:
    with Loader(LoadSettings(geometry), 16, 2, room) as loader:
        return list(encode(find_images([photos]), loader, tokenizer, EncodeSettings(num_workers=2), output))


def failures(events: list[Event]) -> list[Failure]:
    return [event for event in events if isinstance(event, Failure)]


def num_done(events: list[Event]) -> int:
    return sum(event.num_images for event in events if isinstance(event, BatchDone))


def test_an_image_that_cannot_fit_is_listed_each_time_and_encoded_once_there_is_memory(
    photos: Path, tiny: Path, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(tiny)
    for new in (2, 0):
        events = encoded(photos, tokenizer, tmp_path / "latents", LITTLE)
        [failure] = failures(events)
        assert (failure.key, failure.num_bytes, num_done(events)) == ("large.png", None, new)
        assert "to encode at 2048x1792 px, and 40.0 MiB are there; --max-pixels " in failure.reason
    events = encoded(photos, tokenizer, tmp_path / "latents", MUCH)
    assert (failures(events), num_done(events)) == ([], 1)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].num_ok == 3


def test_what_only_reading_needs_counts_as_well(photos: Path, tiny: Path, tmp_path: Path) -> None:
    small = GeometrySettings(size=32)
    [failure] = failures(encoded(photos, tokenizer_of(tiny), tmp_path / "latents", LITTLE, small))
    assert (failure.key, failure.num_bytes) == ("large.png", None)
    assert "to read, and" in failure.reason
    assert failures(encoded(photos, tokenizer_of(tiny), tmp_path / "latents", Room(60 * MIB), small)) == []


def test_decoding_and_roundtrips_list_what_they_cannot_hold(
    photos: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(tiny)
    encoded(photos, tokenizer, tmp_path / "latents", MUCH)
    monkeypatch.setattr(workers, "room_for_images", lambda: LITTLE)
    decoded = list(decode(open_latents(tmp_path / "latents"), tokenizer, SETTINGS.decode, tmp_path / "decoded"))
    with Loader(LoadSettings(AS_THEY_ARE), 16, 2, LITTLE) as loader:
        plan = plan_encode(find_images([photos]), loader, tokenizer, EncodeSettings())
        tripped = list(roundtrip(plan, loader, tokenizer, SETTINGS, tmp_path / "tripped"))
    for events in (decoded, tripped):
        assert [(one.key, "to decode at 2048x1792" in one.reason) for one in failures(events)] == [("large.png", True)]
        assert num_done(events) == 2


def test_a_call_of_many_images_that_does_not_fit_is_made_in_parts_with_the_same_bytes(
    tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(8):
        Image.fromarray(np.full((1024, 512, 3), 30 * number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    shards = []
    for room in (LITTLE, MUCH):
        output = tmp_path / f"latents-{room.total_bytes}"
        events = encoded(tmp_path / "photos", tokenizer_of(tiny, 8), output, room)
        num_calls = sum(isinstance(event, BatchDone) for event in events)
        assert (failures(events), num_calls > 1) == ([], room is LITTLE)
        shards.append([path.read_bytes() for path in (output / "shards").iterdir()])
    assert shards[0] == shards[1]


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of version 1 with 450 MiB, within our own."""
    listed = Path("/proc/self/cgroup")
    own = [line.split(":") for line in listed.read_text().splitlines()] if listed.exists() else []
    path = next((name for _, kinds, name in own if "memory" in kinds.split(",")), None)
    folder = Path(f"/sys/fs/cgroup/memory{path}/semdis-test-{os.getpid()}")
    with ExitStack() as at_the_end:
        try:
            assert path is not None
            folder.mkdir()
            at_the_end.callback(folder.rmdir)
            (folder / "memory.limit_in_bytes").write_text(str(450 * MIB))
        except (AssertionError, OSError) as error:
            pytest.skip(f"no memory group can be made here ({error!r})")
        yield folder


@pytest.mark.slow
def test_in_a_real_memory_group_the_set_is_finished_instead_of_killed(group: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((3000, 4000, 3), 99, np.uint8)).save(tmp_path / "photos" / "large.jpg")
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(tmp_path / "photos" / "small.jpg")
    joined = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -m semdis_cli encode photos --dtype bfloat16"
    done = subprocess.run(["sh", "-c", joined], cwd=tmp_path, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in (tmp_path / "latents" / "index.jsonl").read_text().splitlines()]
    assert (done.returncode, [row["status"] for row in rows]) == (3, ["failed", "ok"])
    assert "to encode at 3008x4000 px" in done.stderr
