"""Which noise was drawn is on record, and what was begun with the noise of before goes on with it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.defaults import DECODE_MARKER, ROUNDTRIP_MARKER
from semdis_cli.errors import UsageError
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.encode_plan import plan_encode
from semdis_cli.pipeline.roundtrip import roundtrip
from semdis_cli.pipeline.stream import LatentStream, decode_stream, encode_stream
from semdis_cli.settings import (
    WITHOUT_COLUMNS,
    DecodeSettings,
    EncodeSettings,
    LatentSettings,
    LoadSettings,
    NoiseKind,
    PartSettings,
    RoundtripSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import Run
from tests.worlds import save_noise

SAMPLES = ("--posterior", "sample", "--seed", "3", "--store-dtype", "float32", "--shard-images", "2")
SEED = 5


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(3):
        save_noise(tmp_path / "photos" / f"{seed}.png", seed)
    return tmp_path / "photos"


@pytest.fixture
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(str(tiny), TokenizerSettings("cpu", num_threads=1))


def encode_samples(photos: Path, tokenizer: Tokenizer, output: Path, noise: NoiseKind) -> None:
    """Encode as the command does with `SAMPLES`, where the noise can be chosen."""
    latents = PartSettings("float32", "sample", 3, noise)
    settings = EncodeSettings(latents=latents, shards=ShardSettings(shard_images=2))
    with Loader(LoadSettings(), tokenizer.patch_size, 1) as loader:
        for _ in encode(find_images([photos]), loader, tokenizer, settings, output):
            pass


def posterior(root: Path) -> dict[str, Any]:
    found = json.loads((root / "manifest.json").read_bytes())["provenance"]["posterior"]
    assert isinstance(found, dict)
    return found


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "shards").iterdir()}


def latents(root: Path) -> dict[str, torch.Tensor]:
    source = open_latents(root)
    read = [source.read(stored) for stored in source.shards]
    return {key: row for shard in read for key, row in zip(shard.keys, shard.latents, strict=True)}


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.png")}


# --- samples of posteriors ------------------------------------------------------------------------------------------


def test_a_set_of_samples_names_its_noise_and_no_other_does(run: Run, photos: Path, tiny: Path, tmp_path: Path) -> None:
    for kind, noted in (("sample", {"kind": "sample", "seed": 0, "noise": "philox"}), ("mode", {"kind": "mode"})):
        assert run("encode", photos, "-o", kind, "--model", tiny, "--posterior", kind).code == 0
        assert posterior(tmp_path / kind) == noted


def test_a_set_of_before_grows_with_the_noise_of_before(
    run: Run, photos: Path, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    grow = "encode", photos, "-o", "before", "--model", tiny, "--threads", "1", *SAMPLES
    encode_samples(photos, tokenizer, tmp_path / "before", "torch")
    before = shards(tmp_path / "before")
    assert posterior(tmp_path / "before") == {"kind": "sample", "seed": 3}
    save_noise(photos / "new.png", 9)
    planned = run(*grow, "--dry-run", "--json")
    assert (planned.code, json.loads(planned.stdout)["images"]["unchanged"]) == (0, 3)
    assert run(*grow).code == 0
    grown = shards(tmp_path / "before")
    assert len(grown) == len(before) + 1
    assert {name: grown[name] for name in before} == before
    assert posterior(tmp_path / "before") == {"kind": "sample", "seed": 3}
    encode_samples(photos, tokenizer, tmp_path / "at once", "torch")
    assert run("encode", photos, "-o", "now", "--model", tiny, "--threads", "1", *SAMPLES).code == 0
    at_once, now = latents(tmp_path / "at once"), latents(tmp_path / "now")
    for key, drawn in latents(tmp_path / "before").items():
        assert torch.equal(drawn, at_once[key])
        assert not torch.equal(drawn, now[key])


def test_a_run_that_an_older_version_was_stopped_in_is_completed_as_it_would_have_been(
    run: Run, photos: Path, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    encode_samples(photos, tokenizer, tmp_path / "whole", "torch")
    settings = EncodeSettings(
        latents=PartSettings("float32", "sample", 3, "torch"), shards=ShardSettings(shard_images=2)
    )
    with Loader(LoadSettings(), tokenizer.patch_size, 1) as loader:
        events = encode(find_images([photos]), loader, tokenizer, settings, tmp_path / "stopped")
        for _ in events:
            if any((tmp_path / "stopped" / "shards").glob("*.safetensors")):
                break
        events.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    assert run("encode", photos, "-o", "stopped", "--model", tiny, "--threads", "1", *SAMPLES).code == 0
    assert shards(tmp_path / "stopped") == shards(tmp_path / "whole")


def test_epoch_0_of_a_dataset_is_drawn_as_a_set_is_encoded(run: Run, photos: Path, tiny: Path, tmp_path: Path) -> None:
    options = "--model", tiny, "--store-dtype", "float32", "--seed", "3"
    assert run("encode", photos, "-o", "moments", "--posterior", "moments", *options).code == 0
    assert run("encode", photos, "-o", "samples", "--posterior", "sample", *options).code == 0
    drawn = LatentDataset(tmp_path / "moments", sample=True, seed=3)
    assert (drawn.noise, LatentDataset(tmp_path / "moments").noise) == ("philox", None)
    samples = latents(tmp_path / "samples")
    for item in drawn:
        torch.testing.assert_close(item.latents, samples[item.key], rtol=0, atol=1e-5)


# --- pixels ---------------------------------------------------------------------------------------------------------


def decode_before(source: Path, tokenizer: Tokenizer, output: Path) -> None:
    """Decode as earlier versions did."""
    for _ in decode(open_latents(source), tokenizer, DecodeSettings(seed=SEED, num_workers=1, noise="torch"), output):
        pass


def test_decoded_pictures_name_their_noise(run: Run, photos: Path, tiny: Path, tmp_path: Path) -> None:
    assert run("encode", photos, "--model", tiny).code == 0
    assert run("decode", "latents", "--seed", SEED).code == 0
    for file in (DECODE_MARKER, "report.json"):
        sampling = json.loads((tmp_path / "decoded" / file).read_bytes())["sampling"]
        assert (sampling["seed"], sampling["noise"]) == (SEED, "philox")


def test_a_folder_of_before_gets_the_pictures_of_before(
    run: Run, photos: Path, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert run("encode", photos, "--model", tiny, "--threads", "1").code == 0
    decode_before(tmp_path / "latents", tokenizer, tmp_path / "decoded")
    assert "noise" not in json.loads((tmp_path / "decoded" / DECODE_MARKER).read_bytes())["sampling"]
    before = images(tmp_path / "decoded")
    (tmp_path / "decoded" / "1.png").unlink()
    options = "--seed", SEED, "--threads", "1"
    assert run("decode", "latents", "-o", "decoded", *options).code == 0
    assert images(tmp_path / "decoded") == before
    assert run("decode", "latents", "-o", "new", *options).code == 0
    new = images(tmp_path / "new")
    assert new.keys() == before.keys()
    assert all(new[name] != before[name] for name in new)


def test_a_folder_of_before_gets_the_pictures_of_before_from_a_pipe_too(
    photos: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    with Loader(LoadSettings(), tokenizer.patch_size, 1) as loader:
        for _ in encode_stream(find_images([photos]), loader, tokenizer, EncodeSettings(), stream.write):
            pass

    def decoded(output: str, noise: NoiseKind) -> dict[str, bytes]:
        settings = DecodeSettings(seed=SEED, num_workers=1, noise=noise)
        for _ in decode_stream(LatentStream(io.BytesIO(stream.getvalue())), tokenizer, settings, tmp_path / output):
            pass
        return images(tmp_path / output)

    before = decoded("decoded", "torch")
    assert decoded("decoded", "philox") == before
    assert decoded("new", "philox") != before


def test_a_folder_of_now_is_not_mixed_with_pictures_of_before(
    run: Run, photos: Path, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert run("encode", photos, "--model", tiny, "--threads", "1").code == 0
    assert run("decode", "latents", "--seed", SEED, "--threads", "1").code == 0
    with pytest.raises(UsageError, match=r"sampling\.noise: philox -> None"):
        decode_before(tmp_path / "latents", tokenizer, tmp_path / "decoded")


def test_a_roundtrip_of_before_goes_on(
    run: Run, photos: Path, tiny: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings = RoundtripSettings(
        latents=LatentSettings("float32", "sample", SEED, "torch"),
        decode=DecodeSettings(seed=SEED, num_workers=1, noise="torch"),
    )
    how = EncodeSettings(columns=WITHOUT_COLUMNS, latents=PartSettings("float32", "sample", SEED, "torch"))
    with Loader(LoadSettings(), tokenizer.patch_size, 1) as loader:
        plan = plan_encode(find_images([photos]), loader, tokenizer, how)
        for _ in roundtrip(plan, loader, tokenizer, settings, tmp_path / "roundtrip"):
            pass
    record, before = (tmp_path / "roundtrip" / ROUNDTRIP_MARKER).read_bytes(), images(tmp_path / "roundtrip")
    assert b"philox" not in record
    (tmp_path / "roundtrip" / "1.png").unlink()
    options = "--model", tiny, "--seed", SEED, "--posterior", "sample", "--store-dtype", "float32", "--threads", "1"
    assert run("roundtrip", photos, *options).code == 0
    assert (tmp_path / "roundtrip" / ROUNDTRIP_MARKER).read_bytes() == record
    assert images(tmp_path / "roundtrip") == before
    assert run("roundtrip", photos, "-o", "new", *options).code == 0
    assert (tmp_path / "new" / ROUNDTRIP_MARKER).read_bytes().count(b'"noise": "philox"') == 2
    assert all(new != before[name] for name, new in images(tmp_path / "new").items())
