"""The record of the settings that made latents: in every shard, in the manifest of a set, beside exports.

Equal records stand for equal bytes. A field that this version does not know is kept, compared and written as it stands.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any, Literal, Self, get_args

from semdis_cli.parts import BYTES_PER_VALUE, RowTensor, check_parts, row_tensors
from semdis_cli.wording import count

ModelSource = Literal["bundled", "folder", "hub"]

_MAX_TEXT = 1 << 20  # characters; a record takes a few thousand
_MAX_DEPTH = 32
_MAX_SIDE = 2**31
_MAX_FLOAT32 = (2 - 2**-23) * 2.0**127

# What a model is called, and where it lies, is no setting: its weights are known by their sha256.
_CALLED = frozenset({"name", "source", "revision"})
# What computes and reads may change while a set grows: latents differ by roundings or by a few levels of the pixels.
_MAY_DIFFER = ("compute", "preprocessing.reader", "preprocessing.resize")


@dataclass(frozen=True)
class LatentLayout:
    """Sizes of a latent: `patch_size` px per position, `channels` Z, stored `dtype`; `parts`: what lies beside it."""

    patch_size: int
    channels: int
    dtype: str
    parts: tuple[str, ...] = ()

    def grid(self, bucket: tuple[int, int]) -> tuple[int, int]:
        """Latent grid (h, w) of a bucket (H, W) in pixels."""
        return bucket[0] // self.patch_size, bucket[1] // self.patch_size

    def tensors(self, grid: tuple[int, int]) -> tuple[RowTensor, ...]:
        """The tensors of a shard with this latent grid (h, w), in the order of its file."""
        return row_tensors(self.parts, self.dtype, (self.channels, *grid))

    def latent_bytes(self, bucket: tuple[int, int]) -> int:
        """Bytes of one image's latents, parts included."""
        return sum(tensor.num_bytes for tensor in self.tensors(self.grid(bucket)))


@dataclass(frozen=True)
class ModelIdentity:
    """Which model it is: name as asked for, where that leads, hub revision (or None), and the hashes that decide."""

    name: str
    source: ModelSource
    revision: str | None
    weights_sha256: str
    config_sha256: str


@dataclass(frozen=True)
class Whitening:
    """Mean and standard deviation of each channel of the raw latents: raw = whitened * std + mean."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """A setting that differs between two records, by its name with dots, and both values as a person reads them."""

    name: str
    before: str
    now: str

    @property
    def may_stand(self) -> bool:
        """Tell whether latents of both are of one kind, so that a set may hold both."""
        return any(self.name == name or self.name.startswith(f"{name}.") for name in _MAY_DIFFER)

    def __str__(self) -> str:
        if self.name.endswith("_sha256"):  # nobody can read a hash: what matters is that it is another
            return f"{self.name.removesuffix('_sha256')}: another one (sha256 {self.before:.12} -> {self.now:.12})"
        return f"{self.name}: {self.before} -> {self.now}"


@dataclass(frozen=True)
class Provenance:
    """A record of settings, held as its one JSON `text` (sorted, without spaces); `from_json` makes it.

    The properties look the settings up. They raise `ValueError` with the reason where the record does not hold what is
    asked for: a shard or a manifest may be read, compared and listed without that.
    """

    text: str

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Take over a record that is not trusted.

        Raises `ValueError` for anything but an object, of more than 1 MiB, nested more than 32 deep, or with numbers
        that JSON does not have.
        """
        if not isinstance(value, dict):
            raise ValueError(f"settings that are no object but {type(value).__name__}")  # noqa: TRY004
        try:
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except RecursionError:
            raise ValueError("settings that are nested too deeply") from None
        if len(text) > _MAX_TEXT:
            raise ValueError(f"settings of {len(text):,} bytes")
        num_opened = text.count("[") + text.count("{")  # no record of ours has so many: it need not be searched
        if num_opened > _MAX_DEPTH and not is_shallow(value, _MAX_DEPTH):
            raise ValueError("settings that are nested too deeply")
        return cls(text)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON values, which the caller may change."""
        value: dict[str, Any] = json.loads(self.text)
        return value

    @property
    def _fields(self) -> dict[str, Any]:
        return _parse(self.text)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the record as a line of JSON: images with the same one were made with the same settings."""
        return sha256(self.text.encode() + b"\n").hexdigest()

    @property
    def layout(self) -> LatentLayout:
        """The sizes of the latents."""
        patch_size, channels = self._size("patch_size"), self._size("channels")
        dtype = self._fields.get("dtype")
        if not isinstance(dtype, str) or dtype not in BYTES_PER_VALUE:
            raise ValueError(f"dtype {dtype!s:.40}")
        parts = check_parts(self._fields["parts"]) if "parts" in self._fields else ()
        return LatentLayout(patch_size, channels, dtype, parts)

    @property
    def is_whitened(self) -> bool:
        """Tell whether the latents are whitened, or raw."""
        value = self._fields.get("whitened")
        if not isinstance(value, bool):
            raise ValueError(f"whitened {value!s:.40}")  # noqa: TRY004
        return value

    @property
    def whitening(self) -> Whitening | None:
        """The statistics that whitening took out; None where they are not on record."""
        if self._find("whitening") is None:
            return None
        channels = self.layout.channels
        mean, std = (self._find("whitening", name) for name in ("mean", "std"))
        if not (_are_float32(mean, channels) and _are_float32(std, channels)):
            raise ValueError(f"not {channels} finite numbers each")
        return Whitening(tuple(map(float, mean)), tuple(map(float, std)))

    @property
    def model(self) -> ModelIdentity:
        """The model that made the latents; its name is the text that `escape_name` made of it."""
        identity = ModelIdentity(**{field.name: self._find("model", field.name) for field in fields(ModelIdentity)})
        texts = identity.name, identity.revision or "", identity.weights_sha256, identity.config_sha256
        if identity.source not in get_args(ModelSource) or not all(isinstance(text, str) for text in texts):
            raise ValueError("no model")
        return identity

    @property
    def noise(self) -> str | None:
        """Name the generator that drew samples of posteriors: "torch" where none is noted; None without samples."""
        if self._find("posterior", "kind") != "sample":
            return None
        return str(self._find("posterior", "noise") or "torch")

    @property
    def has_few_sizes(self) -> bool:
        """Tell whether the images were brought to one size, or to buckets, as far as is on record."""
        names = ("size", "bucket_size", "buckets")
        return any(self._find("preprocessing", "geometry", name) is not None for name in names)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that each image was brought to; none where they are not several."""
        value = self._find("preprocessing", "geometry", "size")
        return tuple(size for size in value if type(size) is int) if isinstance(value, list) else ()

    @property
    def has_crops(self) -> bool:
        """Tell whether several crops were cut out of each image."""
        return self._find("preprocessing", "geometry", "crop_seed") is not None

    @property
    def is_compiled(self) -> bool | None:
        """Tell whether the model was compiled; None where that is not on record."""
        kernels = self._find("compute", "kernels")
        return None if kernels is None else bool(kernels == "inductor")

    def differences(self, now: "Provenance") -> list[Difference]:
        """List the settings in which the record `now` differs from this one."""
        return [] if self == now else find_differences(self._fields, now._fields)

    def is_same(self, now: "Provenance") -> bool:
        """Tell whether both stand for the same bytes: they may call the model something else."""
        return not self.differences(now)

    def is_of_one_kind(self, now: "Provenance") -> bool:
        """Tell whether both stand for latents that a set may hold side by side."""
        return all(difference.may_stand for difference in self.differences(now))

    def _find(self, *path: str) -> Any:
        """Return the value at `path`, None where there is none."""
        value: Any = self._fields
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _size(self, name: str) -> int:
        value = self._fields.get(name)
        if type(value) is not int or not 0 < value < _MAX_SIDE:
            raise ValueError(f"{name} {value!s:.40}")
        return value


@lru_cache(maxsize=16)
def _parse(text: str) -> dict[str, Any]:
    """Return the fields in `text`, for reading alone: shards by the million may have the same record."""
    fields: dict[str, Any] = json.loads(text)
    return fields


def find_differences(before: Any, now: Any, name: str = "") -> list[Difference]:
    """List all settings that differ between two JSON values. The same weights called otherwise are no difference."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [Difference(name, f"{before!s:.80}", f"{now!s:.80}")]
    if _are_models(before, now):
        return _compare_models(before, now, name)
    return [
        difference
        for inner in sorted({*before, *now})
        for difference in find_differences(before.get(inner), now.get(inner), f"{name}.{inner}" if name else inner)
    ]


def _are_models(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return all(isinstance(model.get("weights_sha256"), str) for model in (before, now))


def _compare_models(before: dict[str, Any], now: dict[str, Any], name: str) -> list[Difference]:
    """One line for two models, which names both; nothing where they are the same but for what they are called."""
    if all(before.get(inner) == now.get(inner) for inner in {*before, *now} - _CALLED):
        return []
    by = "weights" if before["weights_sha256"] != now["weights_sha256"] else "config"
    said = [f"{model.get('name')!s:.80} ({by} {model.get(f'{by}_sha256')!s:.12})" for model in (before, now)]
    return [Difference(name or "model", *said)]


def versions_of(records: Iterable[tuple[Provenance, int, int]]) -> list[dict[str, Any]]:
    """List who made how many latents, as plain values, from (record, shards, latents) of each version, first to last.

    `differs`: from the first, a line a setting.
    """
    found: list[dict[str, Any]] = []
    first: Provenance | None = None
    for record, num_shards, num_latents in records:
        first = first or record
        differs = list(map(str, first.differences(record)))
        found.append({"shards": num_shards, "latents": num_latents, "differs": differs})
    return found


def describe_versions(versions: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each of several versions; none for a single one."""
    for number, version in enumerate(versions if len(versions) > 1 else [], start=1):
        what = "; ".join(version["differs"]) or "the settings of the manifest"
        yield f"version {number}: {version['latents']:,} latents in {count(version['shards'], 'shard')} ({what})"


def is_shallow(value: Any, depth: int) -> bool:
    """Tell whether no more than `depth` objects and lists of JSON lie within one another, `value` (one) counted."""
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(is_shallow(child, depth - 1) for child in inner if isinstance(child, dict | list | tuple))


def _are_float32(values: Any, count: int) -> bool:
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(type(value) in {int, float} and abs(value) <= _MAX_FLOAT32 for value in values)
