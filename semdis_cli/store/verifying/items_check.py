"""`items.table`, held against the index and the shards from which it follows."""

from collections.abc import Generator

import numpy as np

from semdis_cli.events import Problem
from semdis_cli.files.set_names import ITEMS_FILE
from semdis_cli.files.url import Url
from semdis_cli.store.item_table import ItemTable, has_items, read_items
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.verifying.index_table import IndexTable

REMEDY = "delete it: sets open without it, but slowly, and the same semdis encode again writes it anew"

_ITEMS_AT_ONCE = 1 << 20


def check_items(latents: LatentSet, index: IndexTable) -> Generator[Problem, None, ItemTable | None]:
    """Hold the table of a set against its index; returns it if nothing is wrong with it.

    One that is missing, or of another manifest, counts for nothing, and is no problem.
    """
    root, manifest = latents.root, latents.manifest
    if isinstance(root, Url):  # it is for those who map it into memory
        return None
    if not has_items(root, latents.sha256):
        return None
    table = read_items(root, manifest, latents.sha256)
    if table is None:
        yield Problem(ITEMS_FILE, "table", f"damaged; {REMEDY}")
    elif not _agree(table, manifest, index):
        yield Problem(ITEMS_FILE, "table", f"says something else than the index; {REMEDY}")
    else:
        return table
    return None


def _agree(table: ItemTable, manifest: Manifest, index: IndexTable) -> bool:
    """Tell whether table and index put the same lines into the same shards."""
    said = [index.rows_of(shard.name).served_offsets() for shard in manifest.shards]
    num_compared = [0] * len(said)
    for start in range(0, len(table), _ITEMS_AT_ONCE):
        shards = table.shards[start : start + _ITEMS_AT_ONCE]
        order = np.argsort(shards, kind="stable")
        numbers, firsts = np.unique(shards[order], return_index=True)
        by_shard = np.split(table.offsets[start : start + _ITEMS_AT_ONCE][order], firsts[1:])
        for number, offsets in zip(numbers.tolist(), by_shard, strict=True):
            first = num_compared[number]
            num_compared[number] += len(offsets)
            if not np.array_equal(offsets, said[number][first : num_compared[number]]):
                return False
    return num_compared == list(map(len, said))
