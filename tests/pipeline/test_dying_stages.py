"""A stage that dies ends the run with its own error, soon and without a hang, and what was finished stays."""

import ctypes
import json
import shutil
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.events import BatchDone, Event, Failure, RunFinished, ShardPublished
from semdis_cli.files.atomic import publish
from semdis_cli.images.loader import Loader
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.roundtrip import roundtrip
from semdis_cli.records import FileDigest, LoadedImage, PlannedImage
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    LoadSettings,
    RoundtripSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.store.reader import open_latents
from semdis_cli.threads import WorkerDiedError
from tests.store import lasting
from tests.worlds import save_noise, tiny_model

# A thread that is killed may have opened a file and not closed it.
may_leave_files_open = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NUM_IMAGES = 24
BREAKS_AT = "13.png"  # in the middle of the second shard
SETTINGS = EncodeSettings(num_workers=2, shards=ShardSettings(shard_images=8))
DECODING = DecodeSettings(num_workers=2)
BOTH = RoundtripSettings(decode=DECODING)


class BrokenStageError(RuntimeError):
    """What the stages of these tests die of: nothing that the program knows."""


class BreakingLoader(Loader):
    """Reading breaks at one image."""

    def load_views(
        self, planned: Sequence[PlannedImage], memory: np.ndarray | None = None
    ) -> list[LoadedImage | Failure]:
        if planned[0].source.key == BREAKS_AT:
            raise BrokenStageError("reading broke")
        return super().load_views(planned, memory)


class BreakingTokenizer(Tokenizer):
    """The model breaks at the same image, encoding or decoding it."""

    def encode(self, images: Tensor, keys: Sequence[str], **options: Any) -> Tensor:
        if BREAKS_AT in keys:
            raise BrokenStageError("encoding broke")
        return super().encode(images, keys, **options)

    def decode(self, latents: Tensor, keys: Sequence[str], config: FCDMDiffAEInferenceConfig | None = None) -> Tensor:
        if BREAKS_AT in keys:
            raise BrokenStageError("decoding broke")
        return super().decode(latents, keys, config)


class SlowTokenizer(Tokenizer):
    """The model takes its time."""

    def encode(self, images: Tensor, keys: Sequence[str], **options: Any) -> Tensor:
        time.sleep(0.05)
        return super().encode(images, keys, **options)

    def decode(self, latents: Tensor, keys: Sequence[str], config: FCDMDiffAEInferenceConfig | None = None) -> Tensor:
        time.sleep(0.05)
        return super().decode(latents, keys, config)


class DecodingBreaks(BreakingTokenizer):
    """Encoding works."""

    def encode(self, images: Tensor, keys: Sequence[str], **options: Any) -> Tensor:
        return Tokenizer.encode(self, images, keys, **options)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "DecodingBreaks":
        return cls(tiny_model(), tokenizer.identity, TokenizerSettings(dtype="float32", batch_size=2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        save_noise(folder / f"{number:02d}.png", number)
    return folder


def make(kind: type[Tokenizer]) -> Tokenizer:
    """A tokenizer of that kind, with the record of a real one."""
    real = Tokenizer.load("semdis-small", TokenizerSettings(dtype="float32"))
    return kind(tiny_model(), real.identity, TokenizerSettings(dtype="float32", batch_size=2))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make(Tokenizer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path, tokenizer: Tokenizer) -> Path:
    output = tmp_path_factory.mktemp("whole") / "latents"
    with Loader(LoadSettings(), 16, 2) as loader:
        list(encode(find_images([photos]), loader, tokenizer, SETTINGS, output))
    return output


@pytest.fixture(autouse=True)
def no_thread_is_left_over() -> Iterator[None]:
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("semdis")]
    assert not left


def encode_with(photos: Path, output: Path, loader_kind: type[Loader], tokenizer: Tokenizer) -> Iterator[Event]:
    with loader_kind(LoadSettings(), 16, 2) as loader:
        yield from encode(find_images([photos]), loader, tokenizer, SETTINGS, output)


@pytest.mark.parametrize("stage", ["reading", "encoding"])
def test_an_encode_ends_with_the_error_of_the_stage_that_broke_and_can_go_on(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer, whole: Path, stage: str
) -> None:
    loader_kind = BreakingLoader if stage == "reading" else Loader
    breaking = tokenizer if stage == "reading" else make(BreakingTokenizer)
    with pytest.raises(BrokenStageError, match=f"{stage} broke"):
        list(encode_with(photos, tmp_path / "latents", loader_kind, breaking))
    assert len(list((tmp_path / "latents/shards").iterdir())) == 1  # the first one was finished
    list(encode_with(photos, tmp_path / "latents", Loader, tokenizer))
    assert lasting(tmp_path / "latents") == lasting(whole)


@pytest.mark.parametrize(("is_closed", "num_filled"), [(False, 6), (True, 4)])
def test_a_run_that_ends_early_keeps_every_shard_that_was_filled(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    photos: Path,
    tokenizer: Tokenizer,
    is_closed: bool,
    num_filled: int,
) -> None:
    """However slow the disk. Shards of two images; the run breaks in the seventh, or is left after the fourth."""

    def publish_slowly(path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
        time.sleep(0.1)
        return publish(path, chunks)

    monkeypatch.setattr("semdis_cli.store.writing.shard_writer.publish", publish_slowly)
    settings, num_seen = replace(SETTINGS, shards=ShardSettings(shard_images=2)), 0
    with BreakingLoader(LoadSettings(), 16, 2) as loader:
        events = encode(find_images([photos]), loader, tokenizer, settings, tmp_path / "latents")
        assert isinstance(events, Generator)
        if is_closed:
            while num_seen < 8:
                event = next(events)
                num_seen += event.num_images if isinstance(event, BatchDone) else 0
            events.close()
        else:
            with pytest.raises(BrokenStageError):
                list(events)
    names = sorted(path.name[:8] for path in (tmp_path / "latents/shards").iterdir())
    assert names == [f"{number:08d}" for number in range(num_filled)]


def test_an_encode_ends_with_the_error_of_writing_a_shard(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer, whole: Path
) -> None:
    events = encode_with(photos, tmp_path / "latents", Loader, tokenizer)
    for event in events:
        if isinstance(event, BatchDone):
            break
    shutil.rmtree(tmp_path / "latents/shards")
    (tmp_path / "latents/shards").write_text("in the way")
    with pytest.raises(UsageError, match=r"shards/.*cannot be written"):
        list(events)
    (tmp_path / "latents/shards").unlink()
    (tmp_path / "latents/shards").mkdir()
    list(encode_with(photos, tmp_path / "latents", Loader, tokenizer))
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_a_shard_that_cannot_be_written_ends_the_run_with_those_before_it_noted(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer
) -> None:
    """Those after it may be on disk, as several are written at once: the next run writes them anew."""
    settings = replace(SETTINGS, num_workers=4, shards=ShardSettings(shard_images=2))

    def run(output: Path) -> Iterator[Event]:
        with Loader(LoadSettings(), 16, 2) as loader:
            yield from encode(find_images([photos]), loader, tokenizer, settings, output)

    list(run(tmp_path / "whole"))
    names = sorted(path.name for path in (tmp_path / "whole/shards").iterdir())
    events = run(tmp_path / "latents")
    next(events)
    in_the_way = tmp_path / "latents/shards" / names[5]
    in_the_way.mkdir()
    with pytest.raises(UsageError, match=f"{names[5]}: cannot be written"):
        list(events)
    _, *entries = (tmp_path / "latents/journal/0.jsonl").read_bytes().splitlines()
    assert [json.loads(entry)["content"]["shard"] for entry in entries] == names[:5]
    in_the_way.rmdir()
    list(run(tmp_path / "latents"))
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "whole")


@may_leave_files_open
def test_an_encode_whose_worker_is_killed_ends_and_can_go_on(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer, whole: Path
) -> None:
    events = encode_with(photos, tmp_path / "latents", Loader, make(SlowTokenizer))
    next(event for event in events if isinstance(event, BatchDone))
    kill_workers()
    with pytest.raises((SystemExit, WorkerDiedError)):
        list(events)
    list(encode_with(photos, tmp_path / "latents", Loader, tokenizer))
    assert lasting(tmp_path / "latents") == lasting(whole)


@may_leave_files_open
@pytest.mark.parametrize("name", ["semdis-disk", "semdis-publish"])
def test_a_run_whose_disk_threads_are_killed_ends(tmp_path: Path, photos: Path, whole: Path, name: str) -> None:
    """They die where they wait for something to write: each takes a task with it that nobody would ever finish."""
    is_encode = name == "semdis-publish"
    events = (
        encode_with(photos, tmp_path / "out", Loader, make(SlowTokenizer))
        if is_encode
        else decode(open_latents(whole), make(SlowTokenizer), DECODING, tmp_path / "out")
    )
    next(event for event in events if isinstance(event, ShardPublished if is_encode else BatchDone))
    kill_workers(name)
    with pytest.raises((SystemExit, WorkerDiedError)):
        list(events)


def kill_workers(name: str = "semdis-work") -> None:
    """Let the next thing that a thread of that name does be to die."""
    for thread in threading.enumerate():
        if thread.name.startswith(name) and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def test_a_decode_ends_with_the_error_of_the_model_and_can_go_on(
    tmp_path: Path, whole: Path, tokenizer: Tokenizer
) -> None:
    source = open_latents(whole)
    with pytest.raises(BrokenStageError, match="decoding broke"):
        list(decode(source, make(BreakingTokenizer), DECODING, tmp_path / "decoded"))
    assert not (tmp_path / "decoded" / BREAKS_AT).exists()
    assert (tmp_path / "decoded/00.png").exists()
    *_, last = decode(source, tokenizer, DECODING, tmp_path / "decoded")
    assert isinstance(last, RunFinished)
    assert len(list((tmp_path / "decoded").glob("*.png"))) == NUM_IMAGES


def test_a_decode_ends_with_the_error_of_writing_an_image(tmp_path: Path, whole: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "decoded").mkdir()
    events = decode(open_latents(whole), tokenizer, DECODING, tmp_path / "decoded")
    next(events)
    replace_by_file(tmp_path / "decoded")
    with pytest.raises(UsageError, match="cannot be written"):
        list(events)


def replace_by_file(folder: Path) -> None:
    """Take the folder away from a run: no name can be written there any more."""
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@may_leave_files_open
def test_a_decode_whose_worker_is_killed_ends_and_can_go_on(tmp_path: Path, whole: Path, tokenizer: Tokenizer) -> None:
    events = decode(open_latents(whole), make(SlowTokenizer), DECODING, tmp_path / "decoded")
    next(event for event in events if isinstance(event, BatchDone))
    kill_workers()
    with pytest.raises((SystemExit, WorkerDiedError)):
        list(events)
    list(decode(open_latents(whole), tokenizer, DECODING, tmp_path / "decoded"))
    assert len(list((tmp_path / "decoded").glob("*.png"))) == NUM_IMAGES


def test_a_roundtrip_ends_with_the_error_of_decoding_or_of_writing(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer
) -> None:
    with Loader(LoadSettings(), 16, 2) as loader:
        plan = plan_encode(find_images([photos]), loader, tokenizer, SETTINGS)
        with pytest.raises(BrokenStageError, match="decoding broke"):
            list(roundtrip(plan, loader, DecodingBreaks.of(tokenizer), BOTH, tmp_path / "out"))
        events = roundtrip(plan, loader, tokenizer, BOTH, tmp_path / "out")
        next(events)
        replace_by_file(tmp_path / "out")
        with pytest.raises(UsageError, match="cannot be written"):
            list(events)


@pytest.mark.parametrize("stage", ["reading", "encoding"])
def test_a_roundtrip_ends_with_the_error_of_the_stage_that_broke(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer, stage: str
) -> None:
    loader_kind = BreakingLoader if stage == "reading" else Loader
    breaking = tokenizer if stage == "reading" else make(BreakingTokenizer)
    with loader_kind(LoadSettings(), 16, 2) as loader:
        plan = plan_encode(find_images([photos]), loader, tokenizer, SETTINGS)
        with pytest.raises(BrokenStageError, match=f"{stage} broke"):
            list(roundtrip(plan, loader, breaking, BOTH, tmp_path / "out"))


def test_a_run_that_is_left_in_the_middle_leaves_no_thread_behind(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer
) -> None:
    events = encode_with(photos, tmp_path / "latents", Loader, tokenizer)
    for event in events:
        if isinstance(event, BatchDone):
            break
    assert any(thread.name.startswith("semdis-work") for thread in threading.enumerate())
    events.close()  # type: ignore[attr-defined] # it is a generator
