"""Texts of `--compare` -> contenders: each model once, and what does not go together refused."""

import json
import sys
from pathlib import Path

import pytest

from semdis_cli.errors import CheckpointError, MissingExtraError, SemdisError, UsageError
from semdis_cli.memory import room_for_images
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.contender import Contender
from semdis_cli.pipeline.contenders.crops import CroppedContender
from semdis_cli.pipeline.contenders.given import Given
from semdis_cli.pipeline.contenders.make import make_contenders
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender
from semdis_cli.pipeline.fit import CallMemory
from semdis_cli.settings import DecodeSettings, LatentSettings, RoundtripSettings, SamplingSettings
from semdis_cli.settings.contenders import parse_specs
from tests.pipeline.contenders.worlds import image_of, load, noise, versions
from tests.worlds import save_tiny_model

RUN = RoundtripSettings(latents=LatentSettings(store_dtype="float16", seed=5), decode=DecodeSettings(seed=5))


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load(tiny)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another model, of another patch size."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "other", 1, patch_size=32)


def make(tokenizer: Tokenizer, *texts: str, settings: RoundtripSettings = RUN) -> list[Contender]:
    """Return all contenders but the first."""
    first, *others = make_contenders(parse_specs(texts), tokenizer, settings)
    assert (first.tokenizer, first.latents) == (tokenizer, settings.latents)
    return others


def tokenized(contender: Contender) -> TokenizedContender:
    """Check that it is one."""
    assert isinstance(contender, TokenizedContender)
    return contender


def test_what_is_not_said_is_as_in_the_run(tokenizer: Tokenizer) -> None:
    steps, dtype, sample = map(tokenized, make(tokenizer, "steps=3,pdg", "store-dtype=int8", "posterior=sample"))
    assert (steps.sampling.num_steps, steps.sampling.pdg, steps.sampling.seed) == (3, True, 5)
    assert (steps.latents, steps.tokenizer) == (RUN.latents, tokenizer)
    assert (dtype.latents.store_dtype, dtype.latents.posterior, dtype.sampling.num_steps) == ("int8", "mode", 1)
    assert (sample.latents.posterior, sample.latents.sample_seed) == ("sample", 5)
    guided = RoundtripSettings(decode=DecodeSettings(SamplingSettings(num_steps=4, pdg=True)))
    strong, plain = map(tokenized, make(tokenizer, "pdg-strength=3", "pdg=off,schedule=cosine", settings=guided))
    assert (strong.sampling.num_steps, strong.sampling.pdg, strong.sampling.pdg_strength) == (4, True, 3.0)
    assert (plain.sampling.pdg, plain.sampling.schedule) == (False, "cosine")


def test_titles_are_those_of_the_texts(tokenizer: Tokenizer, other: Path) -> None:
    texts = "steps=2", "jpeg", "webp=80", f"model={other}", "crops=32,name=Tiles"
    assert [one.title for one in make(tokenizer, *texts)] == ["2 steps", "JPEG", "WebP q80", "other", "Tiles"]


def test_a_model_is_loaded_once_for_all_that_name_it(tokenizer: Tokenizer, tiny: Path, other: Path) -> None:
    texts = f"model={other}", f"model={other},steps=2", f"model={tiny},steps=3", f"model={other},crops=32"
    first, second, own, cropped = make(tokenizer, *texts)
    assert tokenized(first).tokenizer is tokenized(second).tokenizer is not tokenizer
    assert tokenized(own).tokenizer is tokenizer, "the run's own by its folder"
    assert isinstance(cropped, CroppedContender)
    assert tokenized(cropped.inner).tokenizer is tokenized(first).tokenizer
    assert cropped.side_px == 32
    assert tokenized(first).tokenizer.settings == tokenizer.settings


def test_all_give_back_the_size_of_the_image(tokenizer: Tokenizer, other: Path) -> None:
    texts = "steps=2", f"model={other}", "crops=16", f"model={other},crops=64", "jpeg", "webp", "store-dtype=int8"
    given = Given([image_of("a", noise(0, (35, 70))), image_of("b", noise(1, (48, 65)))], [5000, 5000])
    for one in make(tokenizer, *texts):
        assert [back.pixels.shape for back in versions(one, given)] == [(3, 35, 70), (3, 48, 65)], one.title
        assert all(back.num_bytes > 0 and back.pixels.dtype == "uint8" for back in versions(one, given))
        json.dumps(one.record(), allow_nan=False)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["steps=1"], "is the same as '"),
        (["store-dtype=float16,posterior=mode"], "is the same as '"),
        (["steps=2", "steps=2,sampler=ddim"], "is the same as '2 steps': nothing differs"),
        (["pdg-strength=3"], "pdg-strength counts for pdg alone; give pdg too"),
        (["crops=24"], "crops must be a multiple of 16 px"),
    ],
)
def test_what_says_nothing_is_refused(texts: list[str], reason: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError) as caught:
        make(tokenizer, *texts)
    assert str(caught.value).startswith(f"--compare {texts[-1]!r}: {reason}")


def test_the_run_s_own_model_by_another_name_is_refused(tokenizer: Tokenizer, tiny: Path) -> None:
    with pytest.raises(UsageError, match="is the same as"):
        make(tokenizer, f"model={tiny}")


def test_what_cannot_be_loaded_is_told_in_one_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for text in (f"model={missing}", f"sd={missing}", f"model={tmp_path}"):
        with pytest.raises(CheckpointError) as caught:
            make(tokenizer, text)
        assert str(tmp_path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(SemdisError, match="--revision main"):
        make(tokenizer, f"model={tmp_path},revision=main")


def test_a_peer_without_its_package_says_what_to_install(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as if it were not installed
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(MissingExtraError, match=r"--compare 'dcae=.* needs diffusers: pip install 'semdis\[peers\]'"):
        make(tokenizer, f"dcae={tmp_path}")


def test_a_call_is_held_to_the_memory_of_the_contender_that_needs_most(tokenizer: Tokenizer, other: Path) -> None:
    texts = "steps=2", "pdg", f"model={other}", "crops=64", "jpeg"
    others = make(tokenizer, *texts)
    size, pixel_bytes = (1024, 1024), 3 * 1024 * 1024
    room = room_for_images()
    alone = CallMemory(tokenizer, room, "decode").needed_bytes(size, 1)
    needs = {
        text: CallMemory(tokenizer, room, "decode", others=[one]).needed_bytes(size, 1)
        for text, one in zip(texts, others, strict=True)
    }
    guided = CallMemory(tokenizer, room, "decode", is_guided=True).needed_bytes(size, 1)
    assert guided > alone
    assert needs["pdg"] == guided + pixel_bytes
    assert needs["steps=2"] == needs["crops=64"] == needs["jpeg"] == alone + pixel_bytes, "what comes back is held"
    all_of_them = CallMemory(tokenizer, room, "decode", others=others).needed_bytes(size, 1)
    assert all_of_them == max(needs.values()) + (len(texts) - 1) * pixel_bytes
    cropped = make(tokenizer, "crops=64")[0]
    assert cropped.least_bytes(size, 1) < tokenized(others[0]).least_bytes(size, 1)
