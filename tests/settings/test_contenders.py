"""The texts of `--compare`: what they mean, what is wrong with others, and that they can be written again."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.option import offered
from semdis_cli.settings import LatentSettings, ModelSettings, SamplingSettings
from semdis_cli.settings.contenders import (
    _WORDS,
    FIRST_TITLE,
    MAX_TITLE,
    ContenderKind,
    ContenderSpec,
    parse_specs,
)

EXAMPLES = {
    "steps=10,pdg": ContenderSpec(title="10 steps + PDG", num_steps=10, pdg=True),
    "steps=1": ContenderSpec(title="1 step", num_steps=1),
    " steps = 10 , pdg=on ": ContenderSpec(title="10 steps + PDG", num_steps=10, pdg=True),
    "pdg=off": ContenderSpec(title="no PDG", pdg=False),
    "pdg-strength=3": ContenderSpec(title="PDG 3", pdg_strength=3.0),
    "sampler=dpmpp_2m,schedule=cosine": ContenderSpec(title="dpmpp_2m, cosine", sampler="dpmpp_2m", schedule="cosine"),
    "store-dtype=int8": ContenderSpec(title="int8", store_dtype="int8"),
    "posterior=sample": ContenderSpec(title="sample", posterior="sample"),
    "model=runs/my model/": ContenderSpec(title="my model", model="runs/my model/"),
    "model=us/it,revision=0123456789": ContenderSpec(title="it@0123456", model="us/it", revision="0123456789"),
    "crops=256": ContenderSpec(title="crops 256", crops_px=256),
    "crops=256,steps=10,pdg": ContenderSpec(title="crops 256, 10 steps + PDG", crops_px=256, num_steps=10, pdg=True),
    "jpeg": ContenderSpec("jpeg", "JPEG"),
    "webp=90": ContenderSpec("webp", "WebP q90", quality=90),
    "jpeg,name=Photos,, of us": ContenderSpec("jpeg", "Photos, of us"),
    "flux2=vae": ContenderSpec("flux2", "FLUX.2", folder="vae"),
    "sd=a,,b=c,crops=512": ContenderSpec("sd", "SD, crops 512", folder="a,b=c", crops_px=512),
    "dcae=.,store-dtype=float32": ContenderSpec("dcae", "DC-AE, float32", folder=".", store_dtype="float32"),
}

MISTAKES = {
    "": "a word is missing; write it like steps=10,pdg",
    "steps=10,": "a word is missing; write it like steps=10,pdg",
    "jpeg,name=Photos, of us": "'of us' is none of jpeg, ",
    "=3": "a word is missing; write it like steps=10,pdg",
    "steps=1,steps=1": "'steps' is in it twice",
    "a\nb,a\nb": r"'a\nb' is in it twice",
    "stops=1": "'stops' is none of jpeg, webp, flux2, sd, dcae, model, ",
    "steps=0": "steps is a whole number in 1..1000, not '0'",
    "steps=1001": "steps is a whole number in 1..1000, not '1001'",
    "steps=1.5": "steps is a whole number in 1..1000, not '1.5'",
    "steps": "steps is a whole number in 1..1000",
    "pdg=yes": "pdg is on or off, not 'yes'",
    "pdg,pdg-strength=inf": "pdg-strength is a number like 1.5, not 'inf'",
    "pdg=off,pdg-strength=3": "pdg-strength does not go with pdg=off",
    "store-dtype=int4": "store-dtype is one of bfloat16, float16, float32, float8_e4m3, int8, not 'int4'",
    "posterior=moments": "posterior is one of mode, sample, not 'moments'",
    "crops=8": "crops is a whole number in 16..16384, not '8'",
    "jpeg=101": "jpeg is a whole number in 1..100, not '101'",
    "jpeg=": "jpeg is a whole number in 1..100, not ''",
    "jpeg,webp": "jpeg and webp are several; give --compare once for each",
    "jpeg,steps=3": "steps does not go with jpeg; jpeg, name do",
    "sd": "sd lacks its value",
    "sd=x,pdg": "pdg does not go with sd; sd, crops, store-dtype, name do",
    "model=": "model lacks its value",
    "revision=main": "revision is of a model; give model too",
    "name=Us": "nothing in it differs from the run's own settings",
    "jpeg,name=\n": f"name has up to {MAX_TITLE} characters, which can be shown",
    "jpeg,name=a\x1bb": f"name has up to {MAX_TITLE} characters, which can be shown",
    f"jpeg,name={'x' * (MAX_TITLE + 1)}": f"name has up to {MAX_TITLE} characters, which can be shown",
    "model=a\0b": "a NUL byte is in it",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_text_says_what_differs(text: str) -> None:
    assert parse_specs([text]) == (EXAMPLES[text],)


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_in_one_line_that_names_the_text(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(MISTAKES[text])) as caught:
        parse_specs([text])
    assert str(caught.value).startswith(f"--compare {text!r:.80}: ")
    assert str(caught.value).isprintable()


def test_words_are_called_as_the_options_are_and_have_their_limits() -> None:
    groups = offered(SamplingSettings) | offered(LatentSettings) | offered(ModelSettings)
    options = {option.spellings(name)[0].removeprefix("--"): option for name, (_, option) in groups.items()}
    assert set(_WORDS["tokenizer"]) - set(options) == {"crops", "name"}
    assert set(options) - set(_WORDS["tokenizer"]) == {"seed"}  # all contenders draw from the run's
    steps = options["steps"]
    for number in (steps.min, steps.max):
        assert number is not None
        assert parse_specs([f"steps={number}"])[0].num_steps == number


def test_the_same_twice_is_refused_whatever_it_is_called() -> None:
    with pytest.raises(UsageError, match=r"--compare 'jpeg,name=b': is there twice"):
        parse_specs(["jpeg,name=a", "jpeg,name=b"])
    with pytest.raises(UsageError, match="is there twice"):
        parse_specs(["pdg,steps=10", "steps=10,pdg=on"])


def test_titles_are_unique_and_those_that_were_given_stay() -> None:
    specs = parse_specs(["model=a/x", "model=b/x", "jpeg", "webp,name=JPEG", "model=c/x"])
    assert [spec.title for spec in specs] == ["x", "x (2)", "JPEG (2)", "JPEG", "x (3)"]
    with pytest.raises(UsageError, match="another one is called 'a'"):
        parse_specs(["jpeg,name=a", "webp,name=a"])
    with pytest.raises(UsageError, match=f"another one is called '{FIRST_TITLE}'"):
        parse_specs([f"jpeg,name={FIRST_TITLE}"])


def test_long_titles_are_cut_and_still_unique() -> None:
    long = "m" * 60
    titles = [spec.title for spec in parse_specs([f"model={long}", f"model=other/{long}"])]
    assert titles == ["m" * (MAX_TITLE - 1) + "…", "m" * (MAX_TITLE - 5) + "… (2)"]


@given(st.lists(st.text() | st.text(alphabet="pdg=,stepscrop1 jwb26-nam\0é\udc80"), max_size=4))
def test_any_text_is_read_or_refused(texts: list[str]) -> None:
    specs = _outcome(texts)
    if isinstance(specs, str):
        assert len(specs.splitlines()) == 1
    else:
        assert len(specs) == len(texts)
        assert parse_specs(map(str, specs)) == specs


def _outcome(texts: Iterable[str]) -> tuple[ContenderSpec, ...] | str:
    try:
        return parse_specs(texts)
    except UsageError as error:
        return str(error)


def _values(text: st.SearchStrategy[str]) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "num_steps": st.integers(1, 1000),
        "pdg": st.booleans(),
        "pdg_strength": st.floats(allow_nan=False, allow_infinity=False),
        "sampler": st.sampled_from(["ddim", "dpmpp_2m"]),
        "schedule": st.sampled_from(["linear", "cosine"]),
        "posterior": st.sampled_from(["mode", "sample"]),
        "store_dtype": st.sampled_from(["bfloat16", "int8"]),
        "crops_px": st.integers(16, 16384),
        "model": text,
        "revision": text,
        "quality": st.integers(1, 100),
    }


@st.composite
def _specs(draw: st.DrawFn) -> ContenderSpec:
    text = st.text(min_size=1).map(str.strip).filter(lambda one: one and "\0" not in one)
    title = text.filter(lambda one: one.isprintable() and len(one) <= MAX_TITLE and one != FIRST_TITLE) | st.just("")
    kind: ContenderKind = draw(st.sampled_from(get_args(ContenderKind)))
    values = _values(text)
    fields = {field for field, _ in _WORDS[kind].values()} - {"title", "folder"}
    chosen: dict[str, Any] = {field: draw(st.none() | values[field]) for field in sorted(fields)}
    if chosen.get("model") is None:
        chosen["revision"] = None
    if chosen.get("pdg") is False:
        chosen["pdg_strength"] = None
    folder = draw(text) if kind in {"flux2", "sd", "dcae"} else None
    return replace(ContenderSpec(kind, draw(title), folder=folder), **chosen)


@given(st.lists(_specs(), min_size=1, max_size=4))
def test_what_is_written_is_read_again(specs: list[ContenderSpec]) -> None:
    titled = _outcome(map(str, specs))
    if isinstance(titled, str):
        assert re.search("a word is missing|nothing in it differs|is there twice|another one is called", titled)
        return
    assert [replace(one, title="") for one in titled] == [replace(one, title="") for one in specs]
    assert [one.title for one, spec in zip(titled, specs, strict=True) if spec.title] == [
        s.title for s in specs if s.title
    ]
    assert len({FIRST_TITLE, *(one.title for one in titled)}) == len(titled) + 1
    assert all(len(one.title) <= MAX_TITLE and one.title.isprintable() for one in titled)
    assert parse_specs(map(str, titled)) == titled
