"""Weights in and out: where a model name leads, and a strict reader that says everything that is wrong at once.

A checkpoint is a folder with `config.json` and `model.safetensors`. Files are untrusted: no pickle, sizes checked by
safetensors before anything is allocated, and no tensor is accepted that the architecture does not ask for.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save as serialize
from torch import Tensor

from semdis_cli.defaults import BUNDLED_MODEL
from semdis_cli.errors import CheckpointError, UsageError
from semdis_cli.files.atomic import make_folder, publish
from semdis_cli.files.links import or_pointer
from semdis_cli.model.config import CONFIG_FILE, FCDMDiffAEConfig
from semdis_cli.model.hub import Published, fetch, is_repository_id, local_folder
from semdis_cli.model.layers import time_frequencies
from semdis_cli.model.tensor_file import open_tensors
from semdis_cli.provenance import ModelSource
from semdis_cli.tensors import is_finite

WEIGHTS_FILE = "model.safetensors"
LATENT_STATS = ("latent_norm_running_mean", "latent_norm_running_var")
TIME_FREQUENCIES = "decoder.time_embed.freqs"
# Kept in float32 whatever the weights' dtype: whitening and the time embedding need the digits.
FLOAT32_BUFFERS = (*LATENT_STATS, TIME_FREQUENCIES)

_PATCHIFY_WEIGHTS = ("encoder.patchify.proj.weight", "decoder.patchify.proj.weight")
_WEIGHT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_LISTED = 6
_METADATA_KEY = "semdis"
_PUBLISHED = Published(
    (CONFIG_FILE, WEIGHTS_FILE), "hub", f"give --model a local folder with config.json and {WEIGHTS_FILE}"
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelLocation:
    """The place of a model: `source` "bundled", "folder" or "hub".

    `name` is what the user asked for, a folder's path in its shortest spelling; `revision` a hub commit (or None).
    """

    name: str
    source: ModelSource
    folder: Path
    revision: str | None


@dataclass(frozen=True)
class WeightsFile:
    """Facts of a weights file.

    `has_latent_stats`: False for a first export without whitening statistics; its latents stay raw.
    `patchify_form`: "1x1" or "patch", how the patchify weights were stored. `dtypes`: of the tensors, sorted.
    `has_own_frequencies`: the time frequencies are not those of the formula, and are used as they are.
    `has_rounded_frequencies`: they are the formula's, in fewer digits than float32.
    """

    sha256: str
    has_latent_stats: bool
    patchify_form: str
    dtypes: tuple[str, ...]
    has_own_frequencies: bool = False
    has_rounded_frequencies: bool = False

    def describe(self) -> str:
        """One phrase for a person: `float32, patchify as 1x1, with latent statistics`."""
        stats = "with" if self.has_latent_stats else "without"
        own = ", with time frequencies of its own (used as stored)" if self.has_own_frequencies else ""
        return f"{' and '.join(self.dtypes)}, patchify as {self.patchify_form}, {stats} latent statistics{own}"


def resolve_model(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    source: ModelSource | None = None,
) -> ModelLocation:
    """Find the folder of a model: the bundled one by name, a local folder, or a repository id through the hub.

    `source`: what it is known to be; a folder that is gone is not looked for in the hub.
    Raises `CheckpointError` if there is no such folder, `MissingExtraError` if the hub client is needed but missing.
    """
    if revision is not None and (name == BUNDLED_MODEL or Path(name).is_dir()):
        raise UsageError(f"--revision {revision}: {name} is no repository, and has no revisions")
    if name == BUNDLED_MODEL:
        return ModelLocation(name, "bundled", Path(__file__).parents[1] / "weights" / BUNDLED_MODEL, None)
    folder = local_folder(name)
    if folder is not None:
        return ModelLocation(os.path.normpath(name), "folder", folder, None)
    if source == "folder" or not is_repository_id(name):
        raise CheckpointError(
            f"no such model; give a folder with config.json and {WEIGHTS_FILE}, a repository id like "
            f"data-archetype/semdisdiffae, or {BUNDLED_MODEL}",
            place=name,
        )
    folder = fetch(name, _PUBLISHED, revision=revision, cache_dir=cache_dir)
    return ModelLocation(name, "hub", folder, folder.name)


def load_config(path: Path | None, name: str = BUNDLED_MODEL) -> FCDMDiffAEConfig:
    """Read the architecture in `path` or, if that is None, of the model `name`. Raises `CheckpointError`."""
    return FCDMDiffAEConfig.load(path or resolve_model(name).folder / CONFIG_FILE)


def read_weights(
    path: Path, expected: Mapping[str, Shape], patch_shape: Shape
) -> tuple[dict[str, Tensor], WeightsFile]:
    """Read `model.safetensors`: the tensors under the architecture's `expected` names and shapes, and what was found.

    Accepts patchify weights as [C,c*P*P,1,1] or as [C,c,P,P] with `patch_shape` = (c, P, P), and a first export without
    latent statistics. Raises `CheckpointError` with every difference: missing and surplus tensors, wrong shapes or
    dtypes, NaN or infinity.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise CheckpointError("cannot be read (not a regular file)", place=path)
    try:
        with open_tensors(path) as file:
            found: dict[str, Shape] = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_names_once(path)
            problems = _wrong_names(found, expected) + _wrong_shapes(found, expected, patch_shape)
            if problems:
                raise _bad(path, problems)
            tensors = {name: file.get_tensor(name) for name in found}
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", place=path) from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(or_pointer(path, f"not a whole safetensors file ({error})"), place=path) from error
    problems = _wrong_values(tensors)
    if problems:
        raise _bad(path, problems)
    is_patch_form = any(found[name][-1] != 1 for name in _PATCHIFY_WEIGHTS)
    for name in _PATCHIFY_WEIGHTS:  # W1x1[o, c*P*P + y*P + x] = Wpatch[o, c, y, x]
        tensors[name] = tensors[name].reshape(expected[name])
    frequencies = tensors[TIME_FREQUENCIES]
    is_formula = _are_of_formula(frequencies)
    return tensors, WeightsFile(
        sha256=digest,
        has_latent_stats=set(LATENT_STATS) <= set(found),
        patchify_form="patch" if is_patch_form else "1x1",
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})),
        has_own_frequencies=not is_formula,
        has_rounded_frequencies=is_formula and frequencies.dtype != torch.float32,
    )


def _are_of_formula(frequencies: Tensor) -> bool:
    """Return True if time frequencies are those of `layers.time_frequencies`, up to rounding and their dtype."""
    formula = time_frequencies(len(frequencies))
    tolerance = max(16 * torch.finfo(torch.float32).eps, torch.finfo(frequencies.dtype).eps)
    return bool(((frequencies.float() - formula).abs() <= tolerance * formula).all())


def weights_sha256(folder: Path) -> str:
    """Return what the weights in `folder` are known by, without loading them. Raises `CheckpointError`."""
    path = folder / WEIGHTS_FILE
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", place=path) from error


def serialize_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of `model.safetensors`: contiguous CPU copies under the same names."""
    return serialize({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})


def write_checkpoint(folder: Path, config_json: str, tensors: Mapping[str, Tensor]) -> None:
    """Write `config.json` and `model.safetensors` into `folder` (made if missing), each whole or not at all.

    Raises `UsageError` if the folder cannot be written, `NoSpaceError` if the disk is full.
    """
    make_folder(folder)
    publish(folder / WEIGHTS_FILE, [serialize_weights(tensors)])
    publish(folder / CONFIG_FILE, [config_json.encode()])


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Publish any tensors as one safetensors file, with `note` as JSON and a sha256 of it all in its header."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key: safetensors writes several in an order of its own, each time another.
    header = json.dumps({"note": note, "sha256": _digest(on_cpu, note)}, sort_keys=True)
    publish(path, [serialize(on_cpu, {_METADATA_KEY: header})])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the note of `write_tensors`. Raises `CheckpointError` for any other file."""
    try:
        with open_tensors(path) as file:
            header = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        note, written = header["note"], header["sha256"]
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", place=path) from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"not a whole file of training ({error})", place=path) from error
    if not isinstance(note, dict):
        raise CheckpointError("not a file of training (its note is no object)", place=path)
    if _digest(tensors, note) != written:
        raise CheckpointError("damaged: its bytes are not those that were written", place=path)
    return tensors, note


def _digest(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> str:
    """sha256 (hex) of the note and of every tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(json.dumps(note, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _wrong_names(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """Missing and surplus tensors. The two latent statistics may be absent, but only both together."""
    required = set(expected)
    if not set(LATENT_STATS) & set(found):
        required -= set(LATENT_STATS)
    missing, surplus = sorted(required - set(found)), sorted(set(found) - set(expected))
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {_listed(missing)}")
    if surplus:
        problems.append(f"{len(surplus)} surplus: {_listed(surplus)}")
    return problems


def _wrong_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], patch_shape: Shape) -> list[str]:
    def accepted(name: str) -> tuple[Shape, ...]:
        as_patches = (expected[name][0], *patch_shape)
        return (expected[name], as_patches) if name in _PATCHIFY_WEIGHTS else (expected[name],)

    wrong = [
        f"{name} is {list(shape)}, not {list(expected[name])}"
        for name, shape in sorted(found.items())
        if name in expected and shape not in accepted(name)
    ]
    return [f"{len(wrong)} of another shape: {_listed(wrong)}"] if wrong else []


def _wrong_values(tensors: Mapping[str, Tensor]) -> list[str]:
    of_dtype = [
        f"{name} is {tensor.dtype}" for name, tensor in sorted(tensors.items()) if tensor.dtype not in _WEIGHT_DTYPES
    ]
    if of_dtype:
        return [f"{len(of_dtype)} neither float32, bfloat16 nor float16: {_listed(of_dtype)}"]
    problems = []
    not_finite = [name for name, tensor in sorted(tensors.items()) if not is_finite(tensor)]
    if not_finite:
        problems.append(f"{len(not_finite)} with NaN or infinity: {_listed(not_finite)}")
    variance = tensors.get(LATENT_STATS[1])
    if variance is not None and (variance < 0).any():
        problems.append(f"{LATENT_STATS[1]} has negative entries")
    return problems


def _listed(items: list[str]) -> str:
    """The first few, each short and printable: names come from the file."""
    more = len(items) - _MAX_LISTED
    shown = (ascii(item)[1:-1][:120] for item in items[:_MAX_LISTED])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _check_names_once(path: Path) -> None:
    """Raise `ValueError` if the header, which safetensors has accepted, names a tensor twice."""

    def unique(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a tensor is named twice")

    with path.open("rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")), object_pairs_hook=unique)


def _bad(path: Path, problems: list[str]) -> CheckpointError:
    return CheckpointError(f"not a checkpoint of this architecture; tensors {'; '.join(problems)}", place=path)
