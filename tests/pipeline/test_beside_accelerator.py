"""Decoding and round trips with threads for the model alone, as beside an accelerator: the files of a CPU run."""

from pathlib import Path

import pytest

from semdis_cli.events import BatchDone, Failure, ImageMeasured
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline import shard_decoder
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.roundtrip import roundtrip
from semdis_cli.settings import (
    DecodeSettings,
    EncodeSettings,
    LoadSettings,
    RoundtripSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.store.reader import LatentSource, open_latents
from tests.accelerated import Accelerated
from tests.store import lasting
from tests.worlds import save_noise

TOKENIZER = TokenizerSettings(dtype="float32", batch_size=3, num_threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(20):
        save_noise(folder / f"{number % 3}" / f"{number:02d}.png", number, [(32, 40), (16, 16)][number % 2])
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny: Path) -> LatentSource:
    output = tmp_path_factory.mktemp("set") / "latents"
    settings = EncodeSettings(num_workers=2, shards=ShardSettings(shard_images=2))
    with Loader(LoadSettings(), 16, 2) as loader:
        list(encode(find_images([photos]), loader, Tokenizer.load(str(tiny), TOKENIZER), settings, output))
    return open_latents(output)


def pictures(folder: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in lasting(folder).items() if name.endswith((".png", ".jsonl"))}


def test_a_decode_beside_an_accelerator_makes_the_same_files(tmp_path: Path, tiny: Path, source: LatentSource) -> None:
    for kind in (Tokenizer, Accelerated):
        events = list(
            decode(source, kind.load(str(tiny), TOKENIZER), DecodeSettings(num_workers=2), tmp_path / str(kind))
        )
        assert sum(event.num_images for event in events if isinstance(event, BatchDone)) == 20
    assert pictures(tmp_path / str(Accelerated)) == pictures(tmp_path / str(Tokenizer))
    assert len(pictures(tmp_path / str(Accelerated))) == 20


def test_a_round_trip_beside_an_accelerator_measures_the_same(tmp_path: Path, tiny: Path, photos: Path) -> None:
    settings = RoundtripSettings(decode=DecodeSettings(num_workers=2))
    scores = []
    for kind in (Tokenizer, Accelerated):
        tokenizer = kind.load(str(tiny), TOKENIZER)
        with Loader(LoadSettings(), 16, 2) as loader:
            plan = plan_encode(find_images([photos]), loader, tokenizer, EncodeSettings())
            events = list(roundtrip(plan, loader, tokenizer, settings, tmp_path / str(kind)))
        assert not any(isinstance(event, Failure) for event in events)
        scores.append([(one.key, one.psnr_db) for one in events if isinstance(one, ImageMeasured)])
    assert scores[0] == scores[1]
    assert len(scores[0]) == 20
    assert pictures(tmp_path / str(Accelerated)) == pictures(tmp_path / str(Tokenizer))


def test_several_shards_are_read_ahead_beside_an_accelerator_as_far_as_memory_goes(
    tiny: Path, source: LatentSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(stored.expected.num_bytes for stored in source.shards)
    cases = ((Tokenizer, 999, 1), (Accelerated, 999, 3), (Accelerated, 17, 2), (Accelerated, 0, 1))
    for kind, num_shards, num_ahead in cases:
        monkeypatch.setattr(shard_decoder, "available_memory", lambda num=num_shards: num * largest)
        assert shard_decoder._num_ahead(source, kind.load(str(tiny), TOKENIZER), 1) == num_ahead
