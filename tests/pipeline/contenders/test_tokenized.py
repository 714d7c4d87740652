"""Tokenizers as contenders: what comes back is what `encode` and `decode` would make."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semdis_cli.events import Failure
from semdis_cli.images.geometry import undo_padding
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender, keep_latents
from semdis_cli.pipeline.reading import LoadedCall
from semdis_cli.settings import LatentSettings
from tests.pipeline.contenders.worlds import CountingTokenizer, image_of, load, noise, versions
from tests.worlds import save_tiny_model

ONE_STEP, TWO_STEPS = FCDMDiffAEInferenceConfig(seed=0), FCDMDiffAEInferenceConfig(num_steps=2, pdg=True, seed=0)


@pytest.fixture
def tokenizer(tiny: Path) -> CountingTokenizer:
    return load(tiny)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> CountingTokenizer:
    """A model of another patch size."""
    return load(save_tiny_model(tmp_path_factory.mktemp("coarse"), 1, patch_size=32))


def contender(tokenizer: CountingTokenizer, title: str = "first", dtype: str = "bfloat16") -> TokenizedContender:
    return TokenizedContender(title, tokenizer, LatentSettings(store_dtype=dtype), ONE_STEP)  # type: ignore[arg-type]


def five() -> list[np.ndarray]:
    return [noise(seed, (20, 40)) for seed in range(5)]


def test_it_gives_back_what_encode_and_decode_make_of_each_image(tokenizer: CountingTokenizer) -> None:
    images = [image_of(f"{number}.png", one) for number, one in enumerate(five())]
    back = versions(contender(tokenizer), Given(images))
    for image, version in zip(images, back, strict=True):  # five of two a call: none depends on the others
        key = [image.record.key]
        latents = tokenizer.encode(image.pixels[None], key).to(torch.bfloat16)
        [pixels] = tokenizer.decode(latents.float(), key, ONE_STEP)
        np.testing.assert_array_equal(version.pixels, undo_padding(pixels.numpy(), image.record.geometry))
        assert version.num_bytes == latents.nbytes == 2 * 8 * 2 * 3


def test_bytes_are_those_that_are_stored(tokenizer: CountingTokenizer) -> None:
    given = Given([image_of("a", noise(0, (32, 32)))])
    found = {dtype: versions(contender(tokenizer, dtype=dtype), given)[0] for dtype in ("float32", "float16", "int8")}
    assert {dtype: one.num_bytes for dtype, one in found.items()} == {
        "float32": 4 * 8 * 4,
        "float16": 2 * 8 * 4,
        "int8": 8 * 4 + 4 * 8,  # a scale for each channel
    }


def test_another_patch_size_is_padded_inside(coarse: CountingTokenizer) -> None:
    pixels = noise(7, (40, 70))
    [back] = versions(contender(coarse), Given([image_of("a", pixels, 16)]))
    [alone] = versions(contender(coarse), Given([image_of("a", pixels, 32)]))
    assert back.pixels.shape == (3, 40, 70)
    np.testing.assert_array_equal(back.pixels, alone.pixels)
    assert back.num_bytes == 2 * 8 * 2 * 3


def test_latents_are_encoded_once_where_only_decoding_or_storing_differs(
    tokenizer: CountingTokenizer, coarse: CountingTokenizer
) -> None:
    first = contender(tokenizer)
    call = LoadedCall([image_of(f"{number}.png", one) for number, one in enumerate(five()[:2])])
    kept = first.keep(call)
    given = first.hand_on(kept)
    assert tokenizer.num_encoded == 2
    others = [replace(first, sampling=TWO_STEPS), contender(tokenizer, dtype="int8")]
    found = [versions(one, given) for one in others]
    assert tokenizer.num_encoded == 2
    assert list(given.budgets) == [one.num_bytes for one in first.give_back(kept)]
    for one, back in zip(others, found, strict=True):
        anew = versions(one, Given(call.images))
        assert all(np.array_equal(two.pixels, three.pixels) for two, three in zip(back, anew, strict=True))
    before, other = tokenizer.num_encoded, coarse.num_encoded
    for settings in (LatentSettings(posterior="sample"), LatentSettings(posterior="sample", store_dtype="float32")):
        versions(replace(first, latents=settings), given)
        versions(contender(coarse), given)
    assert tokenizer.num_encoded == before + 2, "a sample is not the mode, but one sample is as the other"
    assert coarse.num_encoded == other + 2


def test_latents_that_a_dtype_cannot_hold_cost_that_image_alone() -> None:
    images = [image_of(f"{number}.png", one) for number, one in enumerate(five()[:3])]
    latents = torch.ones(3, 8, 2, 3)
    latents[1] *= 1e6
    kept = keep_latents(images, latents, "float16")
    assert [failure.key for failure in kept.failures] == ["1.png"]
    assert kept.failures[0].reason == "its latents are too large for --store-dtype float16"
    assert [image.record.key for image in kept.images] == ["0.png", "2.png"]
    assert torch.equal(kept.encoded, latents[[0, 2]])
    assert len(kept.latents) == len(kept.num_bytes) == 2


def test_an_image_that_cannot_be_kept_is_a_failure_beside_the_others(tmp_path: Path) -> None:
    tokenizer = load(save_tiny_model(tmp_path / "loud", 2))
    images = [image_of(f"{number}.png", noise(number, (16, 16))) for number in range(3)]
    batch, keys = torch.stack([one.pixels for one in images[:2]]), ["0.png", "1.png"]
    mean, std = tokenizer.model.latent_mean_std()
    largest = (tokenizer.encode(batch, keys)[:, 0] * std.flatten()[0] + mean.flatten()[0]).flatten(1).amax(1)
    # A mean that puts the limit of float16 between two of the images
    tokenizer.model.latent_norm_running_mean[0] = largest.mean() - 65520 * std.flatten()[0]
    tokenizer = CountingTokenizer(tokenizer.model, tokenizer.identity, tokenizer.settings)
    back = contender(tokenizer, dtype="float16").reconstruct(Given(images[:2]))
    lost = int(largest.argmax())
    assert back[lost] == Failure(
        f"{lost}.png", "its latents are too large for --store-dtype float16", images[lost].record.source.num_bytes
    )
    assert isinstance(back[1 - lost], Version)


def test_of_no_images_nothing_comes_back(tokenizer: CountingTokenizer) -> None:
    first = contender(tokenizer)
    assert first.give_back(keep_latents([], torch.empty(0, 8, 2, 2), "bfloat16")) == []


def test_the_record_says_what_decides_the_pixels(tokenizer: CountingTokenizer) -> None:
    first = contender(tokenizer)
    record = first.record()
    assert record["store_dtype"] == "bfloat16"
    assert record["sampling"]["num_steps"] == 1
    for other in (
        replace(first, sampling=TWO_STEPS),
        replace(first, latents=LatentSettings(store_dtype="int8")),
        replace(first, latents=LatentSettings(posterior="sample")),
    ):
        assert other.record() != record
    assert replace(first, title="other").record() == record
