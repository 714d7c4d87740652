"""What `semdis encode` stores beside latents: twins of mirrored pixels, in sets, exports and training."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.parts import LATENTS_FLIP
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import Shard
from tests.cli.conftest import Outcome, Run
from tests.store import lasting
from tests.worlds import save_noise

SIZES = [(32, 48), (32, 48), (20, 41), (48, 32), (20, 41)]  # (height, width); of the third and fifth a part is padding
LONG_AGO_S = time.time() - 3600


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, size in enumerate(SIZES):
        path = save_noise(tmp_path / "photos" / f"{seed}.png", seed, size)
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return tmp_path / "photos"


@pytest.fixture
def encode(photos: Path, tiny: Path, run: Run) -> Run:
    def call(*options: str | Path, output: str = "latents", source: Path = photos) -> Outcome:
        return run("encode", source, "-o", output, "--model", tiny, "--threads", "1", "--shard-images", "1", *options)

    return call


def rows(root: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each image that is served."""
    source = open_latents(root)
    return {key: tensors for stored in source.shards for key, tensors in rows_of(source.read(stored)).items()}


def rows_of(shard: Shard) -> dict[str, dict[str, Tensor]]:
    return {key: {name: all_[row] for name, all_ in shard.tensors.items()} for row, key in enumerate(shard.keys)}


def mirror_files(photos: Path, folder: Path) -> Path:
    """The same pictures, mirrored, under the same names."""
    folder.mkdir()
    for path in photos.iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / path.name)
    return folder


# --- twins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [[], ["--size", "16"]], ids=["own size, padded", "resized and cropped"])
def test_twins_are_the_latents_of_mirrored_pictures(
    encode: Run, photos: Path, tmp_path: Path, geometry: list[str]
) -> None:
    assert encode("--flip", "both", *geometry).code == 0
    assert encode(*geometry, output="plain").code == 0
    mirrored = mirror_files(photos, tmp_path / "mirrored")
    assert encode(*geometry, output="of mirrored", source=mirrored).code == 0
    both, plain, expected = (rows(tmp_path / name) for name in ("latents", "plain", "of mirrored"))
    assert both.keys() == plain.keys() == expected.keys()
    for key, tensors in both.items():
        assert torch.equal(tensors["latents"], plain[key]["latents"])
        assert not torch.equal(tensors[LATENTS_FLIP], plain[key]["latents"])
        if not geometry:  # resizing need not be symmetrical to the last bit
            assert torch.equal(tensors[LATENTS_FLIP], expected[key]["latents"])


def test_a_twin_is_sampled_with_noise_of_its_own(encode: Run, tmp_path: Path) -> None:
    sample = "--posterior", "sample", "--store-dtype", "float32"
    assert encode("--flip", "both", *sample).code == 0
    assert encode("--flip", "both", "--store-dtype", "float32", output="modes").code == 0
    sampled, modes = rows(tmp_path / "latents"), rows(tmp_path / "modes")
    noise = [
        torch.cat([(tensors[name] - modes[key][name]).flatten() for key, tensors in sampled.items()])
        for name in ("latents", LATENTS_FLIP)
    ]
    assert all(bool(one.any()) for one in noise)
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.3


def test_sets_with_and_without_twins_do_not_mix(encode: Run, photos: Path, tmp_path: Path) -> None:
    assert encode("--flip", "both").code == 0
    before = lasting(tmp_path / "latents")
    refused = encode()
    assert (refused.code, "parts" in refused.stderr) == (2, True)
    assert lasting(tmp_path / "latents") == before
    save_noise(photos / "new.png", 9)
    assert encode("--flip", "both").code == 0
    assert len(rows(tmp_path / "latents")) == len(SIZES) + 1


def test_twins_come_through_an_export(encode: Run, run: Run, tmp_path: Path) -> None:
    assert encode("--flip", "both").code == 0
    assert run("export", "latents", "-o", "exported").code == 0
    assert run("import", "exported", "-o", "imported", "--shard-images", "1").code == 0
    before, after = rows(tmp_path / "latents"), rows(tmp_path / "imported")
    assert before.keys() == after.keys()
    for key, tensors in before.items():
        assert all(torch.equal(tensor, after[key][name]) for name, tensor in tensors.items())
    assert run("decode", "imported", "-o", "decoded").code == 0
    assert run("verify", "imported").code == 0


def test_the_settings_on_record_name_the_parts(encode: Run, run: Run) -> None:
    assert encode("--flip", "both").code == 0
    shown = json.loads(run("inspect", "latents", "--json").stdout)
    assert shown["provenance"]["parts"] == [LATENTS_FLIP]
    assert encode(output="plain").code == 0
    assert "parts" not in json.loads(run("inspect", "plain", "--json").stdout)["provenance"]


# --- training -------------------------------------------------------------------------------------------------------


def test_the_dataset_gives_images_or_twins(encode: Run, tmp_path: Path) -> None:
    assert encode("--flip", "both", "--size", "32").code == 0
    stored = rows(tmp_path / "latents")
    source = open_latents(tmp_path / "latents")
    records = {record.key: record for each in source.shards for record in source.read(each).records}
    for path in (tmp_path / "latents", tmp_path / "latents" / "shards" / source.shards[0].path.name):
        for flip, name in ((False, "latents"), (True, LATENTS_FLIP)):
            for item in LatentDataset(path, flip=flip):
                geometry = records[item.key].geometry
                assert torch.equal(item.latents, stored[item.key][name])
                assert bool(item.is_flipped) == flip
                assert tuple(item.crop.tolist()) == (geometry.crop_flip if flip else geometry.crop)


def test_a_set_without_twins_gives_none(encode: Run, tmp_path: Path) -> None:
    assert encode().code == 0
    for flip in (True, "random"):
        with pytest.raises(UsageError, match="latents: holds no latents of mirrored images; encode with --flip both"):
            LatentDataset(tmp_path / "latents", flip=flip)
    with pytest.raises(UsageError, match="flip='both': choose False, True or \"random\""):
        LatentDataset(tmp_path / "latents", flip="both")  # type: ignore[arg-type]
    assert np.array_equal([bool(item.is_flipped) for item in LatentDataset(tmp_path / "latents")], [False] * len(SIZES))
