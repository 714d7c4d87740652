"""JPEGs that a GPU decodes: how close its pixels are to those of a CPU, and that they are the same each time."""

from pathlib import Path

import pytest

from semdis_cli.events import RunFinished
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.encode import encode
from semdis_cli.settings import (
    EncodeSettings,
    GeometrySettings,
    LoadSettings,
    ReadSettings,
    ShardSettings,
    TokenizerSettings,
)
from semdis_cli.sources.find import find_images
from tests.store import lasting

pytestmark = pytest.mark.gpu
PHOTOS = Path(__file__).parents[1] / "photos"


@pytest.mark.parametrize("geometry", [GeometrySettings(size=256), GeometrySettings()], ids=["resized", "native"])
def test_photographs_are_those_of_a_cpu_and_the_same_each_time(
    tiny: Path, tmp_path: Path, geometry: GeometrySettings
) -> None:
    load = LoadSettings(geometry, ReadSettings(decode_on="cuda"))
    tokenizer = Tokenizer.load(str(tiny), TokenizerSettings(device="cuda", batch_size=2))
    settings = EncodeSettings(num_workers=4, shards=ShardSettings(shard_images=3))
    for name in ("once", "again"):
        with Loader(load, tokenizer.patch_size, 4) as loader:
            *_, finished = encode(find_images([PHOTOS]), loader, tokenizer, settings, tmp_path / name)
        assert isinstance(finished, RunFinished)
        assert finished.report["decode_on"]["images_by_device"] > 0
        assert finished.report["decode_on"]["psnr_db_to_cpu"]["min"] > 30
    assert lasting(tmp_path / "once") == lasting(tmp_path / "again")
