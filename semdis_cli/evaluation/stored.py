"""Latents of a set, or of a shard on its own, read one shard after the other."""

from torch import Tensor

from semdis_cli.evaluation.pca import BasisFit
from semdis_cli.events import Planning, Tell
from semdis_cli.stops import look
from semdis_cli.store.exchange.export import check_finite
from semdis_cli.store.quantised import real_values
from semdis_cli.store.reader import LatentSource, StoredShard, recorded_layout
from semdis_cli.store.shards import Shard


def read_checked(source: LatentSource, stored: StoredShard) -> tuple[Shard, Tensor]:
    """Read the rows of a shard that are to be used, and what they stand for, [N,Z,h,w], float32 or as stored.

    Raises `StoreError` if it is damaged, or its latents are not finite.
    """
    look()
    shard = source.read(stored)
    check_finite(shard, str(stored.path))
    return shard, real_values(shard.tensors)


def fit_basis(source: LatentSource, tell: Tell) -> BasisFit:
    """Fit the basis of all latents of `source`; `tell` hears how far it is. Raises `StoreError` as `read_checked`."""
    fit = BasisFit(recorded_layout(source.provenance, str(source.path)).channels)
    for number, stored in enumerate(source.shards):
        tell(Planning("reading shards", number, len(source.shards)))
        fit.add(read_checked(source, stored)[1])
    return fit
