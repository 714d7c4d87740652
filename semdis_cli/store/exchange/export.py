"""Latents as other programs like to read them: one file, or one pair of files in a tar, for each image."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote_to_bytes

import torch
from torch import Tensor

from semdis_cli.errors import StoreError
from semdis_cli.events import Failure
from semdis_cli.files.atomic import is_temporary
from semdis_cli.files.json_text import key_fields, to_line
from semdis_cli.files.lock import LOCK_FILE
from semdis_cli.files.set_names import REPORT_FILE
from semdis_cli.files.spelling import ANY, check_key, clashes, probe_spelling
from semdis_cli.parts import LATENTS, SCALES
from semdis_cli.records import NO_COLUMNS, FileDigest, ImageRecord
from semdis_cli.settings import SampleNames
from semdis_cli.store.quantised import are_sound, real_values
from semdis_cli.store.record import source_fields
from semdis_cli.store.shards import STORE_DTYPES, Shard, shard_bytes
from semdis_cli.tensors import is_finite

EXPORT_MARKER = "export.json"
TABLE_FILE = "latents.jsonl"
STEM_RECORD = "semdis.json"  # beside captions, whose .json is another
_PASSED_OVER = re.compile(r"__[^/]*__(/|\Z)")  # WebDataset's own members
_MAX_NAME_BYTES, _MAX_PATH_BYTES, _MAX_DEPTH = 255, 4000, 200  # Linux ends at 4096, temporary file included


# --- Names ---


def sample_base(key: str) -> str:
    """Return the start of the names of a key's members in a tar: ASCII letters, digits, `-`, `_`, `~`, `/`, `%XX`.

    WebDataset cuts names at the first dot after the last slash, and passes over those that begin like `__this__/`. So
    all else is percent-encoded, a first `_` too. One base for each key, and `sample_key` leads back.
    """
    base = quote(key.encode("utf-8", "surrogatepass"), safe="/").replace(".", "%2E")
    return "%5F" + base[1:] if base.startswith("_") else base


def sample_key(base: str) -> str:
    """Return the key whose `sample_base` is `base`. Raises `ValueError` if there is none."""
    key = unquote_to_bytes(base.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
    if sample_base(key) != base:
        raise ValueError(f"{base!r:.80} is no name that an export gives")
    return key


def sample_name(key: str, names: SampleNames) -> str:
    """Return what the members of a key's sample begin with: `sample_base`, or what WebDataset calls an image's sample.

    That is the path of the image up to the first dot of its name (`names` "stem"), or the same without its folders
    ("basename"). Raises `ValueError` with the reason if it is no sample's name.
    """
    if names == "key":
        return sample_base(key)
    folder, _, name = key.rpartition("/")
    stem = name.partition(".")[0]
    if not stem:
        raise ValueError("nothing stands before the first dot of its name")
    path = f"{folder}/{stem}" if folder and names == "stem" else stem
    if _PASSED_OVER.match(f"{path}.x"):
        raise ValueError("webdataset passes over samples that are called like that")
    return path


def nameless_samples(keys: Iterable[str], names: SampleNames) -> list[Failure]:
    """List the `keys`, which are sorted, whose sample cannot have its name."""
    if names == "key":  # which differ
        return []
    owners: dict[str, str] = {}
    failures = []
    for key in keys:
        try:
            name = sample_name(key, names)
            if (owner := owners.setdefault(name, key)) != key:
                raise ValueError(f"its sample would be called {name!r:.80}, as that of {owner!r:.80}")
        except ValueError as error:
            failures.append(Failure(key, f"{error}; export with --sample-names key"))
    return failures


def file_names(keys: Iterable[str], suffix: str) -> dict[str, PurePosixPath]:
    """Name the file of each key: `a/b.jpg` -> `a/b.jpg.npy`. Raises `StoreError` for a key that is no relative path."""
    return {key: PurePosixPath(f"{check_key(key)}.{suffix}") for key in keys}


def array_suffix(part: str) -> str:
    """Return what the file of an array beside latents ends with, behind a dot: readers take it for one of NumPy."""
    return f"{part}.npy"


def impossible_names(names: Mapping[str, PurePosixPath], folder: Path) -> list[Failure]:
    """List the keys whose file cannot be made in `folder`; each costs its own image only."""
    folders = {parent for name in names.values() for parent in name.parents}
    num_folder_bytes = len(os.fsencode(folder.absolute()))
    taken: set[bytes] = set()
    failures = []
    for key, name in names.items():
        reason = _why_impossible(name, num_folder_bytes, folders)
        if reason is None and os.fsencode(name) in taken:
            reason = "its file would have the name of another image's"
        taken.add(os.fsencode(name))
        if reason is not None:
            failures.append(Failure(key, f"{reason}; export it as webdataset"))
    return failures


def alike_names(names: Mapping[str, PurePosixPath], folder: Path, failures: Collection[Failure]) -> list[Failure]:
    """List the keys, but for `failures`, whose file the disk of `folder` (which exists) takes for another image's."""
    impossible = {failure.key for failure in failures}
    possible = {key: name for key, name in names.items() if key not in impossible}
    if not clashes(possible, ANY):
        return []
    reason = "the disk does not tell its file's name from that of {}; export it as webdataset"
    found = clashes(possible, probe_spelling(folder))
    return [
        Failure(key, reason.format(f"{other!r:.80}" if other != key else "a folder")) for key, other in found.items()
    ]


def _why_impossible(name: PurePosixPath, num_folder_bytes: int, folders: set[PurePosixPath]) -> str | None:
    if len(os.fsencode(name.name)) > _MAX_NAME_BYTES:
        return f"its file's name would be longer than {_MAX_NAME_BYTES} bytes"
    if num_folder_bytes + len(os.fsencode(name)) > _MAX_PATH_BYTES or len(name.parts) > _MAX_DEPTH:
        return "its file's path would be too long"
    if name.parts[0] in {EXPORT_MARKER, TABLE_FILE, REPORT_FILE, LOCK_FILE} or any(map(is_temporary, name.parts)):
        return "its file would have a name that the export itself needs"
    return "its file would have the name of another image's folder" if name in folders else None


# --- Contents ---


class UnfitError(ValueError):
    """Latents of one image that a format does not hold; the message is the reason."""


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """The record beside the latents of one exported image.

    `file`: size and sha256 of the file with the latents. `parts`: the same of each array beside them, with its dtype
    and shape. `is_exact`: all are there to the last bit.
    """

    image: ImageRecord
    is_whitened: bool
    provenance_sha256: str
    file: FileDigest
    is_exact: bool
    parts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def to_bytes(self, columns: Mapping[str, object] = NO_COLUMNS) -> bytes:
        """Return one line of JSON, with the `columns` of the image if there are any."""
        fields = {
            **key_fields(self.image.key),
            "geometry": self.image.geometry.to_json(),
            "source": source_fields(self.image),
            "whitened": self.is_whitened,
            "provenance_sha256": self.provenance_sha256,
            "file": self.file.to_json(),
            "exact": self.is_exact,
            **({"parts": self.parts} if self.parts else {}),
        }
        return to_line(fields | {"columns": columns} if columns else fields)


@dataclass(frozen=True, slots=True)
class Sample:
    """The file or bytes of one image's latents, of each array beside them by name, and their record."""

    data: bytes
    record: SampleRecord
    parts: Mapping[str, bytes] = field(default_factory=dict)


def make_shard_file(shard: Shard, row: int) -> Sample:
    """Turn row `row` of a shard into a file: a shard of this row alone, with all that lies beside it."""
    data = shard_bytes(shard.select([row]))
    facts = shard.provenance.is_whitened, shard.provenance.sha256
    return Sample(data, SampleRecord(shard.records[row], *facts, FileDigest.of(data), is_exact=True))


def memory_of(tensor: Tensor) -> bytes:
    """Return the values of a tensor as they lie in memory: little-endian, in C order."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def make_arrays(
    shard: Shard, row: int, dtypes: Mapping[str, str], to_bytes: Callable[[Tensor], bytes] = memory_of
) -> Sample:
    """Turn the latents of row `row` of a shard, and what lies beside them, into bytes, each by itself.

    `dtypes`: names of `STORE_DTYPES`, by tensor; others are left out. Raises `UnfitError` for too large values.
    """
    arrays = {name: _convert(name, _values(shard, name, row), dtype) for name, dtype in dtypes.items()}
    parts = {name: to_bytes(array) for name, (array, _) in arrays.items()}
    facts = {
        name: {"dtype": dtypes[name], "shape": list(arrays[name][0].shape), **FileDigest.of(data).to_json()}
        for name, data in parts.items()
        if name != LATENTS
    }
    latents, is_exact = parts.pop(LATENTS), all(is_same for _, is_same in arrays.values())
    settings = shard.provenance.is_whitened, shard.provenance.sha256
    record = SampleRecord(shard.records[row], *settings, FileDigest.of(latents), is_exact, facts)
    return Sample(latents, record, parts)


def _values(shard: Shard, name: str, row: int) -> Tensor:
    """Return a row of a tensor, that of quantised latents times its scale."""
    return real_values(shard.tensors, name, row) if name in SCALES else shard.tensors[name][row]


def _convert(name: str, tensor: Tensor, dtype: str) -> tuple[Tensor, bool]:
    """Return a tensor in another dtype, and whether it is the same. Raises `UnfitError` for what it cannot hold."""
    converted = tensor.to(STORE_DTYPES[dtype])
    if not is_finite(converted):
        raise UnfitError(f"its {name} are too large for {dtype}")
    return converted, torch.equal(converted.to(torch.float32), tensor.to(torch.float32))


def check_finite(shard: Shard, place: str) -> None:
    """Raise `StoreError` beginning with `place` if latents are not finite: others cannot be exported or imported."""
    if not are_sound(shard.tensors):
        raise StoreError("latents that are not finite; not made by semdis encode", place=place)
