"""Contenders to compare with, as texts of the command line: `steps=10,pdg`, `crops=256`, `jpeg`, `sd=FOLDER`."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args

from semdis_cli.errors import UsageError
from semdis_cli.settings.latents import StoreDtype
from semdis_cli.settings.model import Sampler, Schedule
from semdis_cli.wording import count

CodecName = Literal["jpeg", "webp"]
PeerName = Literal["flux2", "sd", "dcae"]
ContenderKind = Literal["tokenizer", "jpeg", "webp", "flux2", "sd", "dcae"]

FIRST_TITLE = "semdis"  # of the run's own settings, beside which all others stand
MAX_TITLE = 28  # characters: beside the figures it fits into a table of 80 columns
_KIND_TITLES: dict[str, str] = {"jpeg": "JPEG", "webp": "WebP", "flux2": "FLUX.2", "sd": "SD", "dcae": "DC-AE"}


@dataclass(frozen=True)
class ContenderSpec:
    """A contender: what differs from the run's own settings; None: as the run has it.

    `kind`: a tokenizer of ours, a codec with its `quality` (None: as many bytes as the run's own latents), or a peer
    with the `folder` of its weights. `crops_px`: side of the tiles that are coded alone. `title`: empty where it was
    not given one yet. Its text is the one that it was read from, or as good.
    """

    kind: ContenderKind = "tokenizer"
    title: str = ""
    quality: int | None = None
    folder: str | None = None
    model: str | None = None
    revision: str | None = None
    crops_px: int | None = None
    num_steps: int | None = None
    pdg: bool | None = None
    pdg_strength: float | None = None
    sampler: Sampler | None = None
    schedule: Schedule | None = None
    store_dtype: StoreDtype | None = None
    posterior: Literal["mode", "sample"] | None = None

    def __str__(self) -> str:
        parts = []
        for word, (field, _) in _WORDS[self.kind].items():
            value = getattr(self, field)
            if word == "name":
                value = value if value not in {"", _derived_title(self)} else None
            if value is True or (value is None and word == self.kind):
                parts.append(word)
            elif value is not None:
                parts.append(f"{word}={_spelled(value)}")
        return ",".join(parts)

    @property
    def option(self) -> str:
        """The option that asks for it, for errors."""
        return _option(str(self))


def parse_specs(texts: Iterable[str]) -> tuple[ContenderSpec, ...]:
    """Read the texts of `--compare`; each contender gets a title of its own. Raises `UsageError`."""
    specs: list[ContenderSpec] = []
    taken = {FIRST_TITLE}
    for text in texts:
        spec = _parse(text)
        if any(replace(spec, title="") == replace(other, title="") for other in specs):
            raise UsageError("is there twice", place=_option(text))
        if spec.title in taken:
            raise UsageError(f"another one is called {spec.title!r}", place=_option(text))
        taken |= {spec.title} if spec.title else set()
        specs.append(spec)
    titled = []
    for spec in specs:
        title = spec.title or _unique(_derived_title(spec), taken)
        taken.add(title)
        titled.append(replace(spec, title=title))
    return tuple(titled)


def _parse(text: str) -> ContenderSpec:
    try:
        values = _split(text)
        kind = _kind_of(values)
        spec = ContenderSpec(kind, **dict(_read(kind, word, value) for word, value in values.items()))
        _check(spec)
    except ValueError as error:
        raise UsageError(str(error), place=_option(text)) from error
    return spec


def _split(text: str) -> dict[str, str | None]:
    """Cut a text into words with their values, if any. Two commas are one that belongs to a value."""
    if "\0" in text:
        raise ValueError("a NUL byte is in it")
    values: dict[str, str | None] = {}
    for part in text.replace(",,", "\0").split(","):
        word, sign, value = (one.strip() for one in part.replace("\0", ",").partition("="))
        if not word:
            raise ValueError("a word is missing; write it like steps=10,pdg")
        if word in values:
            raise ValueError(f"{word!r:.40} is in it twice")
        values[word] = value if sign else None
    return values


def _kind_of(values: Iterable[str]) -> ContenderKind:
    kinds: list[ContenderKind] = [kind for kind in get_args(ContenderKind)[1:] if kind in values]
    if len(kinds) > 1:
        raise ValueError(f"{' and '.join(kinds)} are several; give --compare once for each")
    return kinds[0] if kinds else "tokenizer"


def _read(kind: ContenderKind, word: str, value: str | None) -> tuple[str, Any]:
    """Return the field that a word sets, and its value."""
    known = _WORDS[kind]
    if word in known:
        try:
            return known[word].field, known[word].read(value)
        except ValueError as error:
            given = "" if value is None else f", not {value!r:.40}"
            raise ValueError(f"{word} {error}{given}") from error
    if any(word in words for words in _WORDS.values()):
        raise ValueError(f"{word} does not go with {kind}; {', '.join(known)} do")
    raise ValueError(f"{word!r:.40} is none of {', '.join((*_KIND_TITLES, *_WORDS['tokenizer']))}")


def _check(spec: ContenderSpec) -> None:
    """Raise `ValueError` for words that do not go together."""
    if replace(spec, title="") == ContenderSpec():
        raise ValueError("nothing in it differs from the run's own settings")
    if spec.revision is not None and spec.model is None:
        raise ValueError("revision is of a model; give model too")
    if spec.pdg is False and spec.pdg_strength is not None:
        raise ValueError("pdg-strength does not go with pdg=off")


def _derived_title(spec: ContenderSpec) -> str:
    """Make a title of what differs."""
    parts = []
    if spec.kind != "tokenizer":
        parts.append(_KIND_TITLES[spec.kind] + (f" q{spec.quality}" if spec.quality is not None else ""))
    if spec.model is not None:
        name = PurePath(spec.model).name or spec.model
        parts.append(name if spec.revision is None else f"{name}@{spec.revision:.7}")
    if spec.crops_px is not None:
        parts.append(f"crops {spec.crops_px}")
    parts += [" + ".join(one)] if (one := [*_decoding(spec)]) else []
    parts += [one for one in (spec.sampler, spec.schedule, spec.store_dtype, spec.posterior) if one is not None]
    return _cut("".join(letter if letter.isprintable() else "?" for letter in ", ".join(parts)), MAX_TITLE)


def _decoding(spec: ContenderSpec) -> Iterator[str]:
    """Yield the words for steps and guidance, as far as they differ."""
    if spec.num_steps is not None:
        yield count(spec.num_steps, "step")
    if spec.pdg is False:
        yield "no PDG"
    elif spec.pdg or spec.pdg_strength is not None:
        yield "PDG" if spec.pdg_strength is None else f"PDG {spec.pdg_strength:g}"


def _unique(title: str, taken: set[str]) -> str:
    """Number a title that others have."""
    found, number = title, 1
    while found in taken:
        number += 1
        mark = f" ({number})"
        found = _cut(title, MAX_TITLE - len(mark)) + mark
    return found


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _option(text: str) -> str:
    return f"--compare {text!r:.80}"


def _spelled(value: Any) -> str:
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return "off" if value is False else str(value).replace(",", ",,")


def _text(value: str | None) -> str:
    if not value:
        raise ValueError("lacks its value")
    return value


def _title(value: str | None) -> str:
    if not value or len(value) > MAX_TITLE or not value.isprintable():
        raise ValueError(f"has up to {MAX_TITLE} characters, which can be shown")
    return value


def _whole(least: int, most: int) -> Callable[[str | None], int]:
    def read(value: str | None) -> int:
        if value is None or not re.fullmatch("[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise ValueError(f"is a whole number in {least}..{most}")
        return int(value)

    return read


def _quality(value: str | None) -> int | None:
    return None if value is None else _whole(1, 100)(value)


def _number(value: str | None) -> float:
    try:
        number = float(value or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("is a number like 1.5")
    return number


def _flag(value: str | None) -> bool:
    if value not in {None, "on", "off"}:
        raise ValueError("is on or off")
    return value != "off"


def _one_of(*choices: str) -> Callable[[str | None], str]:
    def read(value: str | None) -> str:
        if value not in choices:
            raise ValueError(f"is one of {', '.join(choices)}")
        return value

    return read


class _Word(NamedTuple):
    """A word: the field of the spec that it sets, and what reads its value (None: it has none)."""

    field: str
    read: Callable[[str | None], Any]


_CROPS, _NAME = _Word("crops_px", _whole(16, 16384)), _Word("title", _title)
_STORE_DTYPE = _Word("store_dtype", _one_of(*get_args(StoreDtype)))
_WORDS: dict[str, dict[str, _Word]] = {  # by kind; those of our own tokenizers are called as the options are
    "tokenizer": {
        "model": _Word("model", _text),
        "revision": _Word("revision", _text),
        "crops": _CROPS,
        "steps": _Word("num_steps", _whole(1, 1000)),
        "pdg": _Word("pdg", _flag),
        "pdg-strength": _Word("pdg_strength", _number),
        "sampler": _Word("sampler", _one_of(*get_args(Sampler))),
        "schedule": _Word("schedule", _one_of(*get_args(Schedule))),
        "store-dtype": _STORE_DTYPE,
        "posterior": _Word("posterior", _one_of("mode", "sample")),
        "name": _NAME,
    },
    **{codec: {codec: _Word("quality", _quality), "name": _NAME} for codec in get_args(CodecName)},
    **{
        peer: {peer: _Word("folder", _text), "crops": _CROPS, "store-dtype": _STORE_DTYPE, "name": _NAME}
        for peer in get_args(PeerName)
    },
}
