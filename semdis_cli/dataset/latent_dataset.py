"""Latents for people who train on them: `dataset[i]`, at random, from memory-mapped shards."""

import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from semdis_cli.dataset.draws import Draws
from semdis_cli.dataset.padding import pad
from semdis_cli.dataset.posterior import PosteriorSampler
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.url import was_url
from semdis_cli.parts import LATENTS, LATENTS_FLIP, LOG_SNR, MASK, QUANTISED, SCALE, TWINS
from semdis_cli.provenance import Provenance, describe_versions
from semdis_cli.store.columns import CAPTION, LABEL
from semdis_cli.store.mapped_shard import MappedShard
from semdis_cli.store.quantised import dequantise
from semdis_cli.store.random_access import Item, Rows, open_latents
from semdis_cli.store.shards import STORE_DTYPES
from semdis_cli.store.tensors.reader import TensorReader
from semdis_cli.store.whitening import Statistics, is_whitened, to_raw, whitening_to_undo

# Each mapped shard is one mapping of the process, of which Linux allows 65,530.
_MAX_MAPPED = 1 << 14
_TWIN = torch.tensor([False, True]).unbind()

Flip = Literal[False, True, "random"]


class LatentItem(NamedTuple):
    """One image's latents, or a batch of them after `torch.utils.data.default_collate`.

    `latents` [Z,h,w]; `source_size`, (H, W) of the upright source image, and `image_size`, (H, W) of what was encoded
    (without padding), both [2] int64, in pixels. `columns`: what came with the image, by name, as the set's index has
    it, and tensors. `resized_size`, (H, W) that the source was resized to, and `crop`, the corner (top, left) of the
    image in that, [2] int64 too; if the latents are those of the mirrored pixels (`is_flipped`, a bool), its corner in
    the mirrored one. `mask` [1,h,w] float32 in [0,1]: how much of each position of these latents counts; [0,h,w] if the
    set has no masks. In a batch, [B,Z,h,w], B keys, [B,2] each, B values a name, which all its images then have, [B],
    and [B,1,h,w].
    """

    latents: Tensor
    key: str
    source_size: Tensor
    image_size: Tensor
    columns: dict[str, Any]
    resized_size: Tensor
    crop: Tensor
    is_flipped: Tensor
    mask: Tensor


class MixedVersionsWarning(UserWarning):
    """A set holds latents that different versions of torch, Pillow, ... have made: last bits may differ."""


class LatentDataset(Dataset[LatentItem]):
    """The latents of a finished set (its folder), or of a single shard file, in the order of their keys.

    `whitened`: True or False for whitened or raw latents, None for what is stored. `dtype`: of the latents that are
    given, None for the stored one, or float32 if that is quantised. Headers and the index are checked on opening; the
    latents only with `verify`, which reads all of them.

    `flip`: True for the twins of a set that was made with `--flip both`, "random" for a coin that is tossed for each
    item and epoch (`set_epoch`), the same for the same `seed`, epoch and key, in whichever worker. `sample`: of a set
    that was made with `--posterior moments` a sample of each posterior instead of its mode, drawn in the same way;
    `noise`: by which generator, None without.

    `versions`: for a set that was made with `--mix-versions`, which version made how many latents, and in what they
    differ, as in the manifest; empty for all others. Such a set gives a `MixedVersionsWarning`.

    `columns`: names of those that are given, in a form that `default_collate` takes; None: whatever the index has of
    each image. `missing`: by name, what an image without a column gets. Of several captions one is drawn as a
    coin is tossed for `flip`. Tensors are given in memory of their own; those of different lengths need `collate`.
    `classes`: names of the labels, where the set has them.

    Raises `StoreError` for a set that is unfinished or damaged, and `UsageError` if the latents or columns cannot be
    given like that.
    """

    def __init__(  # noqa: PLR0913 (keywords, each with a default)
        self,
        path: str | Path,
        *,
        whitened: bool | None = None,
        dtype: torch.dtype | None = None,
        verify: bool = False,
        columns: Sequence[str] | None = None,
        missing: Mapping[str, Any] | None = None,
        flip: Flip = False,
        sample: bool = False,
        seed: int = 0,
    ) -> None:
        self.path = Path(path)
        if was_url(self.path):
            raise UsageError("latents are drawn at random from a disk: copy the set to one first", place=str(path))
        opened = open_latents(self.path, verify=verify)
        self.provenance, self.sha256 = opened.provenance.to_json(), opened.sha256
        self.versions = opened.versions
        if self.versions:
            lines = "; ".join(describe_versions(list(self.versions)))
            warnings.warn(f"{self.path}: latents of several versions: {lines}", MixedVersionsWarning, stacklevel=2)
        self._whitening = _whitening_to_undo(self.path, opened.provenance, whitened=whitened)
        self.is_whitened = opened.provenance.is_whitened and self._whitening is None
        stored_dtype = _stored_dtype(self.path, opened.provenance)
        self._is_quantised = stored_dtype in QUANTISED
        self.dtype = dtype or (torch.float32 if self._is_quantised else STORE_DTYPES[stored_dtype])
        if not self.dtype.is_floating_point:
            raise UsageError(f"latents cannot be given as {self.dtype}; choose a dtype of floating point")
        self._columns = opened.columns
        tensors = opened.tensors
        self._num_images = {**opened.columns.num_images, **{name: tensors[name].num_images for name in tensors}}
        self._served = (
            None if columns is None else self._check_columns(columns, missing or {}, len(opened.items.shard_numbers))
        )
        asked = tensors.keys() & (self._served or ())
        self._tensors = {name: TensorReader(self.path, tensors[name], verify=verify) for name in asked}
        self._flip, self._draws = _check_flip(self.path, opened.provenance, flip), Draws(seed)
        self._sampler = PosteriorSampler.of(self._draws, opened.provenance, self.path) if sample else None
        self.noise = None if self._sampler is None else self._sampler.noise
        self._folder, self._shards, self._items = opened.folder.absolute(), opened.shards, opened.items
        self.grids = tuple(sorted({shard.grid for shard in self._shards}))
        self._mapped: dict[int, Mapping[str, Rows]] = {}  # of this process alone
        self._forms: dict[tuple[str, tuple[int, int]], tuple[torch.dtype, tuple[int, ...]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets: no mappings."""
        return {**self.__dict__, "_mapped": {}}

    def __len__(self) -> int:
        return len(self._items.shard_numbers)

    @property
    def bucket_numbers(self) -> NDArray[np.int32]:
        """For each item the number of its latent grid in `grids`, [N]: items of one number can share a batch."""
        numbers = {grid: number for number, grid in enumerate(self.grids)}
        by_shard = np.array([numbers[shard.grid] for shard in self._shards], dtype=np.int32)
        return by_shard.take(self._items.shard_numbers)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of labels 0, 1, ...; empty where they are numbers without names."""
        return self._columns.classes

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The label of each item, -1 for one without, [N], to balance classes by; all of the index is read for it.

        Raises `UsageError` if the set has no labels.
        """
        self._check_column(LABEL)
        return self._items.labels()

    def key(self, index: SupportsIndex) -> str:
        """The key of an item, without reading its latents."""
        return self._items.find(self._check_index(index)).key

    def __iter__(self) -> Iterator[LatentItem]:
        return (self[item] for item in range(len(self)))

    def __getitem__(self, index: SupportsIndex) -> LatentItem:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[LatentItem]:
        """The items of a batch, which `DataLoader` asks for at once. In memory of their own, of no shard."""
        items = [self._items.find(self._check_index(index)) for index in indices]
        shapes = {self._shards[item.shard].shape[1:] for item in items}
        if len(shapes) > 1:
            return [self[index] for index in indices]
        keys, columns = [item.key for item in items], [self._given(item) for item in items]
        flips = list(map(self._is_flipped, keys))
        latents = self._read(LATENTS, items, flips)
        if self._is_quantised:
            latents = dequantise(latents, self._read(SCALE, items, flips))
        if self._sampler is not None:
            latents = self._sampler.sample(latents, self._read(LOG_SNR, items, flips), keys, flips)
        sizes = _sizes(items, flips)
        source, resized, crop, image = (sizes[first::4] for first in range(4))
        is_flipped = [_TWIN[flip] for flip in flips]
        others = keys, source, image, columns, resized, crop, is_flipped, self._masks(items, flips)
        return list(map(LatentItem, self._convert(latents), *others))

    def _masks(self, items: Sequence[Item], flips: Sequence[bool]) -> Sequence[Tensor]:
        """Return the masks of items of one size, each [1,h,w] float32; all the same [0,h,w] where there are none."""
        shard = self._shards[items[0].shard]
        if MASK in shard.layout.parts:
            return self._read(MASK, items, flips).float().unbind()
        return [torch.zeros(0, *shard.grid)] * len(items)

    def collate(self, items: Sequence[LatentItem]) -> LatentItem:
        """Make a batch as `default_collate` does, but of tensors of different lengths `PaddedTensors`.

        A `collate_fn` for `DataLoader`. A column is padded in all batches or in none. Raises `UsageError` where what
        `missing` gives cannot be in a batch with the others.
        """
        ragged = [name for name in self._tensors if self._is_ragged(name)]
        padded = {name: pad([item.columns[name] for item in items], name) for name in ragged}
        even = [{name: item.columns[name] for name in item.columns if name not in padded} for item in items]
        batch: LatentItem = default_collate(
            [item._replace(columns=rest) for item, rest in zip(items, even, strict=True)]
        )
        return batch._replace(columns={**batch.columns, **padded})

    def _is_ragged(self, name: str) -> bool:
        """Tell whether a column has tensors of different shapes, or `missing` gives one of another."""
        column, nothing = self._tensors[name].column, (self._served or {})[name]
        is_another = isinstance(nothing, Tensor) and nothing.shape != column.kind.shape(column.lengths[0])
        return column.is_ragged or is_another

    def set_epoch(self, epoch: int) -> None:
        """Draw for another epoch from the next iteration of a loader on, in its workers too. Raises `UsageError`."""
        self._draws.set_epoch(epoch)

    def _read(self, name: str, items: Sequence[Item], flips: Sequence[bool]) -> Tensor:
        """Return a tensor of items of one size, as stored, [B,...]; `flips`: of which items that of their twin."""
        names = [TWINS[name] if flip else name for flip in flips]
        rows = torch.stack([self._rows(item.shard)[name][item.row] for item, name in zip(items, names, strict=True)])
        dtype, shape = self._form(name, self._shards[items[0].shard])
        return rows.view(dtype).view(-1, *shape)

    def _form(self, name: str, shard: MappedShard) -> tuple[torch.dtype, tuple[int, ...]]:
        """Return dtype and shape of an item in a tensor of a shard."""
        grid = shard.grid
        if (name, grid) not in self._forms:
            tensors = shard.layout.tensors(grid)
            self._forms |= {(each.name, grid): (STORE_DTYPES[each.dtype], each.shape) for each in tensors}
        return self._forms[name, grid]

    def _is_flipped(self, key: str) -> Literal[False, True]:
        """Tell whether the twin of an item is given."""
        return self._draws.coin("flip", key) if self._flip == "random" else self._flip

    def _check_column(self, name: str) -> None:
        """Raise `UsageError` if no item has a column."""
        if name not in self._num_images:
            known = ", ".join(sorted(self._num_images)) or "none"
            raise UsageError(f"has no column {name!r:.60}; its columns: {known:.200}", place=self.path)

    def _check_columns(self, names: Sequence[str], missing: Mapping[str, Any], num_items: int) -> dict[str, Any]:
        """Return what is given for each name where an item has nothing. Raises `UsageError` if that is not said."""
        if others := set(missing) - set(names):
            raise UsageError(f"missing={{{min(others)!r}: ...}} is of no use without that name in columns")
        for name in names:
            self._check_column(name)
            without = num_items - self._num_images[name]
            if without and name not in missing:
                what = f"{without:,} of {num_items:,} items have no {name!r:.60}; say what they get"
                raise UsageError(f"{what}: missing={{{name!r:.60}: ...}}", place=self.path)
        return {name: missing.get(name) for name in names}

    def _given(self, item: Item) -> dict[str, Any]:
        """Return those of an item's columns that are to be given."""
        if self._served is None:
            return item.columns
        given = {name: item.columns.get(name, nothing) for name, nothing in self._served.items()}
        for name, reader in self._tensors.items():
            if (tensor := reader.find(self._shards[item.shard].name, item.row)) is not None:
                given[name] = tensor
        captions = given.get(CAPTION)
        if isinstance(captions, list) and captions:
            given[CAPTION] = captions[self._draws.choice("caption", item.key, len(captions))]
        return given

    def _check_index(self, index: SupportsIndex) -> int:
        """`index` counted from 0 on; negative ones count from the end. Raises `IndexError`."""
        item, length = operator.index(index), len(self)
        if not -length <= item < length:
            raise IndexError(f"item {item} of {length}")
        return item % length

    def _rows(self, number: int) -> Mapping[str, Rows]:
        """The rows of each tensor of a shard, mapped on first use in this process."""
        if number not in self._mapped:
            if len(self._mapped) >= _MAX_MAPPED:
                del self._mapped[next(iter(self._mapped))]
            self._mapped[number] = self._shards[number].map(self._folder)
        return self._mapped[number]

    def _convert(self, latents: Tensor) -> Tensor:
        """Latents [B,Z,h,w] -> as asked for; raw = whitened * std + mean, in float32."""
        if self._whitening is not None:
            latents = to_raw(latents, self._whitening)
        return latents.to(self.dtype)


def _sizes(items: Sequence[Item], flips: Sequence[bool]) -> Sequence[Tensor]:
    """Return source, resized, crop (of twins in the mirrored image) and image of each item, one after the other."""
    sizes: list[int] = []  # in one tensor: to make many small ones takes as long as to read the latents
    for item, flip in zip(items, flips, strict=True):
        source, resized, (top, left), image = item.geometry
        sizes += (*source, *resized, top, resized[1] - left - image[1] if flip else left, *image)
    return torch.from_numpy(np.array(sizes, np.int64).reshape(-1, 2)).unbind()


def _check_flip(path: Path, provenance: Provenance, flip: Flip) -> Flip:
    """Return `flip`. Raises `UsageError` where it is none, and for twins that there are not."""
    if flip not in {False, True, "random"}:
        raise UsageError(f'flip={flip!r:.40}: choose False, True or "random"')
    if flip and LATENTS_FLIP not in provenance.layout.parts:
        raise UsageError("holds no latents of mirrored images; encode with --flip both", place=path)
    return flip


def _stored_dtype(path: Path, provenance: Provenance) -> str:
    try:
        return provenance.layout.dtype
    except ValueError as error:
        raise StoreError("does not say of which dtype its latents are", place=path) from error


def _whitening_to_undo(path: Path, provenance: Provenance, *, whitened: bool | None) -> Statistics | None:
    """Return what turns stored latents into those asked for; None if they are."""
    is_stored_whitened = is_whitened(provenance, path)
    if whitened is None or whitened is is_stored_whitened:
        return None
    if whitened:
        raise UsageError("holds raw latents, of a model without statistics; they cannot be given whitened", place=path)
    return whitening_to_undo(provenance, path)
