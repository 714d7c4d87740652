"""One image alone and among 63 others: the same bits, in every dtype that the model computes in."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.store.reader import open_latents
from tests.cli.conftest import Run
from tests.worlds import save_noise

NUM_IMAGES, SIDE = 64, 48


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 images of one size, no two alike."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_IMAGES):
        save_noise(folder / f"{number:02d}.png", number, (SIDE, SIDE))
    return folder


def latents_in(root: Path) -> dict[str, Tensor]:
    source = open_latents(root)
    shards = [source.read(stored) for stored in source.shards]
    return {key: row for shard in shards for key, row in zip(shard.keys, shard.latents, strict=True)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("model", ["tiny", pytest.param(BUNDLED_MODEL, marks=pytest.mark.slow)])
def test_an_image_has_the_same_bits_alone_and_among_63_others(
    run: Run, tmp_path: Path, tiny: Path, photos: Path, model: str, dtype: str, batch_size: int | None
) -> None:
    options = [
        "--model",
        str(tiny) if model == "tiny" else model,
        "--dtype",
        dtype,
        "--store-dtype",
        "float32",
        "--quiet",
    ]
    options += [] if batch_size is None else ["--batch-size", str(batch_size)]
    assert run("encode", photos, "-o", "all", *options).code == 0
    among = latents_in(tmp_path / "all")
    assert len(among) == NUM_IMAGES
    for key in ("00.png", "37.png", "63.png"):
        (tmp_path / key).mkdir()
        shutil.copy(photos / key, tmp_path / key)
        assert run("encode", tmp_path / key, "-o", f"alone-{key}", *options, "--workers", "1").code == 0
        alone = latents_in(tmp_path / f"alone-{key}")
        assert torch.equal(alone[key].view(torch.int32), among[key].view(torch.int32)), key
    assert not torch.equal(among["00.png"], among["37.png"])
