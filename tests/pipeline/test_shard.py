"""A shard as a function: whoever maps it over a plan gets the bytes of a run."""

import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from semdis_cli.events import ColumnTrouble, Failure, ShardFailed
from semdis_cli.images.loader import Loader
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import encode_provenance, plan_encode
from semdis_cli.pipeline.images_out import ImageWriter, output_names
from semdis_cli.pipeline.shard import decode_shard, encode_shard
from semdis_cli.settings import (
    ColumnSettings,
    DecodeSettings,
    EncodeSettings,
    LoadSettings,
    ShardSettings,
    TokenizerSettings,
    WriteSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.store.index import read_rows
from semdis_cli.store.reader import open_latents
from semdis_cli.store.writing.latent_set import LatentSetWriter
from semdis_cli.store.writing.shard_writer import publish_shard
from tests.store import lasting
from tests.worlds import save_noise

LOAD = LoadSettings()
SETTINGS = EncodeSettings(num_workers=2, shards=ShardSettings(shard_images=5))
SAMPLING = FCDMDiffAEInferenceConfig()
SIZES = [(32, 48), (16, 16)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(14):
        save_noise(folder / f"{number:02d}.png", number, SIZES[number % 2])
    whole = (folder / "02.png").read_bytes()
    (folder / "02.png").write_bytes(whole[: len(whole) // 2])  # its header is good
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=2, num_threads=1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path, tokenizer: Tokenizer) -> Path:
    output = tmp_path_factory.mktemp("whole") / "latents"
    with Loader(LOAD, 16, 2) as loader:
        list(encode(find_images([photos]), loader, tokenizer, SETTINGS, output))
    return output


def test_shards_that_another_engine_encodes_and_publishes_make_the_set_of_a_run(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer, whole: Path
) -> None:
    provenance = encode_provenance(tokenizer, LOAD, SETTINGS.latents)
    with (
        LatentSetWriter(tmp_path / "latents", provenance) as latents,
        Loader(LOAD, 16, 1) as loader,
    ):
        plan = plan_encode(find_images([photos]), loader, tokenizer, SETTINGS, latents.base, latents.provenance)
        assert latents.begin(plan.contents, loader.hashes)
        planned = deepcopy(latents.remaining)
        shards = [encode_shard(one, loader, tokenizer, SETTINGS.latents) for one in reversed(planned)]
        assert sorted(len(shard.failures) for shard in shards) == [0, 0, 0, 1]
        for shard in deepcopy(shards):
            latents.record(publish_shard(shard, tmp_path / "latents/shards", provenance))
        latents.finish()
    assert lasting(tmp_path / "latents") == lasting(whole)


def test_another_engine_makes_the_same_columns_and_is_told_of_the_same_troubles(
    tmp_path: Path, photos: Path, tokenizer: Tokenizer
) -> None:
    copied = tmp_path / "photos"
    shutil.copytree(photos, copied)
    images = find_images([copied]).images
    for image in images[::2]:
        Path(image.place).with_suffix(".txt").write_text(f"a picture, {image.key}", encoding="utf-8")
    (copied / "t.jsonl").write_text("".join(f'{{"key": "{image.key}", "score": 1.5}}\n' for image in images[1:]))
    settings = replace(SETTINGS, columns=ColumnSettings(captions="txt", table=copied / "t.jsonl"))
    found = find_images([copied])
    with Loader(LOAD, 16, 1) as loader:
        plan = plan_encode(found, loader, tokenizer, settings)
        engine = loader.with_columns(ForkingPickler.loads(ForkingPickler.dumps(plan.columns)))
        shards = [encode_shard(one, engine, tokenizer, SETTINGS.latents) for one in deepcopy(plan.shards)]
    with Loader(LOAD, 16, 2) as loader:
        events = list(encode(found, loader, tokenizer, settings, tmp_path / "latents"))
    told = [event for event in events if isinstance(event, ColumnTrouble)]
    assert sorted(map(str, told)) == sorted(str(trouble) for shard in shards for trouble in shard.troubles)
    assert {trouble.reason for trouble in told} >= {
        "has no row in t.jsonl",
        "has no caption: there is no txt beside it",
    }
    made = {record.key: record.columns for shard in shards for record in shard.records}
    assert made == {row.key: row.record.columns for row in read_rows(tmp_path / "latents/index.jsonl") if row.record}
    assert {"caption", "score"} <= {name for columns in made.values() for name in columns}


def test_shards_that_another_engine_decodes_make_the_images_of_a_run(
    tmp_path: Path, tokenizer: Tokenizer, whole: Path
) -> None:
    source = open_latents(whole)
    list(decode(source, tokenizer, DecodeSettings(num_workers=2), tmp_path / "run"))
    writer = ImageWriter(tmp_path / "mapped", output_names(source.keys, "png"), WriteSettings())
    (tmp_path / "mapped").mkdir()
    map_shard = partial(decode_shard, source, tokenizer=tokenizer, sampling=SAMPLING, writer=writer)
    assert [failure for stored in reversed(source.shards) for failure in map_shard(stored)] == []
    images = {name: data for name, data in lasting(tmp_path / "run").items() if name.endswith(".png")}
    assert lasting(tmp_path / "mapped") == images
    assert len(images) == 13


def test_a_damaged_shard_and_what_the_disk_does_not_take_are_said(
    tmp_path: Path, tokenizer: Tokenizer, whole: Path
) -> None:
    source = open_latents(whole)
    names = output_names(source.keys, "png")
    stored = source.shards[0]
    first, *others = stored.rows
    names |= {first: names[first].with_name("x" * 300)}
    writer = ImageWriter(tmp_path, names, WriteSettings())
    [failure] = decode_shard(source, stored, tokenizer, SAMPLING, writer, done=others[1:])
    assert isinstance(failure, Failure)
    assert [path.name for path in tmp_path.iterdir()] == [str(names[others[0]])]
    assert isinstance(stored.path, Path)
    data = bytearray(stored.path.read_bytes())
    data[-1] ^= 1
    stored.path.write_bytes(data)
    [damaged] = decode_shard(source, stored, tokenizer, SAMPLING, writer, done=[first])
    assert isinstance(damaged, ShardFailed)
    assert damaged.num_images == len(others)
