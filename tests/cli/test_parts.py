"""What `semdis encode` stores beside latents: twins of mirrored pixels, posteriors; in sets, exports and training."""

import gc
import json
import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError
from semdis_cli.model.noise import noise_of_images
from semdis_cli.option import OptionError
from semdis_cli.parts import LATENTS, LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP
from semdis_cli.settings import LatentSettings, RoundtripSettings
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import Shard
from tests.cli.conftest import Outcome, Run
from tests.store import lasting
from tests.worlds import save_noise, save_tiny_model

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


# --- posteriors -----------------------------------------------------------------------------------------------------


def test_moments_are_the_mode_and_a_log_snr_that_fits_the_samples(encode: Run, tmp_path: Path) -> None:
    """Samples drawn by the encoder are mode + sigma / std times their noise: so sigma is found again."""
    assert encode("--posterior", "moments", "--flip", "both", "--store-dtype", "float32").code == 0
    assert encode("--flip", "both", "--store-dtype", "float32", output="modes").code == 0
    moments, modes = rows(tmp_path / "latents"), rows(tmp_path / "modes")
    whitening = open_latents(tmp_path / "latents").provenance.whitening
    assert whitening is not None
    sample = "--posterior", "sample", "--seed", "3", "--flip", "both", "--store-dtype", "float32"
    assert encode(*sample, output="samples").code == 0
    for key, drawn in rows(tmp_path / "samples").items():
        for latents, log_snr, stream in (
            (LATENTS, LOG_SNR, "posterior"),
            (LATENTS_FLIP, LOG_SNR_FLIP, "posterior flip"),
        ):
            assert torch.equal(moments[key][latents], modes[key][latents])
            sigma = torch.sigmoid(-moments[key][log_snr]).sqrt() / torch.tensor(whitening.std)[:, None, None]
            [eps] = noise_of_images(stream, 3, [key], tuple(sigma.shape))
            torch.testing.assert_close(drawn[latents], modes[key][latents] + sigma * eps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("whitened", [None, False])
def test_epoch_0_samples_what_encoding_samples(
    encode: Run, tmp_path: Path, dtype: str, flip: Literal[False, True], whitened: bool | None
) -> None:
    options = "--flip", "both", "--seed", "7", "--store-dtype", dtype
    assert encode("--posterior", "moments", *options).code == 0
    assert encode("--posterior", "sample", *options, output="samples").code == 0
    how: dict[str, Any] = {"whitened": whitened, "dtype": torch.float32, "flip": flip}
    drawn = LatentDataset(tmp_path / "latents", sample=True, seed=7, **how)
    for item, expected in zip(drawn, LatentDataset(tmp_path / "samples", **how), strict=True):
        # Half a unit in the last place of bfloat16 for each of the two that are stored in it
        bound = 1e-5 if dtype == "float32" else 2**-7
        torch.testing.assert_close(item.latents, expected.latents, rtol=bound, atol=bound)


def test_each_epoch_has_samples_of_its_own_and_always_the_same(encode: Run, tmp_path: Path) -> None:
    assert encode("--posterior", "moments", "--size", "16", "--store-dtype", "float32").code == 0

    def epoch(number: int, seed: int = 0) -> Tensor:
        dataset = LatentDataset(tmp_path / "latents", sample=True, seed=seed)
        dataset.set_epoch(number)
        return torch.stack([item.latents for item in dataset])

    modes = torch.stack([item.latents for item in LatentDataset(tmp_path / "latents")])
    samples = torch.stack([epoch(number) for number in range(60)])
    assert torch.equal(epoch(5), samples[5])
    assert not torch.equal(epoch(5, seed=1), samples[5])
    sigma = torch.stack([tensors[LOG_SNR] for _, tensors in sorted(rows(tmp_path / "latents").items())])
    whitening = open_latents(tmp_path / "latents").provenance.whitening
    assert whitening is not None
    z = (samples - modes) / (torch.sigmoid(-sigma).sqrt() / torch.tensor(whitening.std)[:, None, None])
    assert float(z.mean().abs()) < 5 / z.numel() ** 0.5
    assert float(z.std()) == pytest.approx(1.0, abs=0.05)


def test_workers_sample_for_the_epoch_that_was_set(encode: Run, tmp_path: Path) -> None:
    assert encode("--posterior", "moments", "--size", "16").code == 0
    dataset = LatentDataset(tmp_path / "latents", sample=True)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True)
    for number in (0, 2):
        dataset.set_epoch(number)
        alone = LatentDataset(tmp_path / "latents", sample=True)
        alone.set_epoch(number)
        given = torch.cat([batch.latents for batch in loader])
        assert torch.equal(given, torch.stack([item.latents for item in alone]))
    del loader  # and with it the worker, which holds open what was open when it began
    gc.collect()


def test_moments_decode_as_their_mode(encode: Run, run: Run, tmp_path: Path) -> None:
    for options, output in ((["--posterior", "moments"], "moments"), ([], "modes")):
        assert encode(*options, output=output).code == 0
        assert run("decode", output, "-o", f"{output}-decoded").code == 0
    for path in (tmp_path / "modes-decoded").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "moments-decoded" / path.name).read_bytes()


def test_what_has_no_posterior_is_refused(encode: Run, run: Run, photos: Path, tmp_path: Path) -> None:
    assert encode().code == 0
    with pytest.raises(UsageError, match="holds no posteriors to sample; encode with --posterior moments"):
        LatentDataset(tmp_path / "latents", sample=True)
    deterministic = save_tiny_model(tmp_path / "model", bottleneck_posterior_kind="deterministic")
    refused = run("encode", photos, "-o", "none", "--model", deterministic, "--posterior", "moments")
    assert (refused.code, "deterministic" in refused.stderr) == (2, True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(OptionError, match="--posterior is mode or sample here"):
        RoundtripSettings(latents=LatentSettings(posterior="moments"))


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
