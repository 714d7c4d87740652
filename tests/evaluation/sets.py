"""Sets of latents whose values a test decides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from semdis_cli.parts import LATENTS
from semdis_cli.provenance import Provenance
from semdis_cli.records import EncodedImage, FileDigest, Geometry, ImageRecord
from semdis_cli.store.quantised import store_as
from semdis_cli.store.shards import STORE_DTYPES
from tests.store import PROVENANCE
from tests.store.labelled import LabelledPlan

SIDE = 32  # px, of every image: a grid of 2x2


def write_latents(
    root: Path,
    latents: Mapping[str, Tensor],
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    classes: tuple[str, ...] = (),
    shard_images: int = 100,
    **settings: Any,
) -> Path:
    """Write a finished set of `latents` [Z,2,2] by key, with the columns of each."""
    channels = next(iter(latents.values())).shape[0]
    record = Provenance.from_json({**PROVENANCE, "dtype": "float32", **settings, "channels": channels})
    plan = LabelledPlan(record, tuple(latents), shard_images, failures=(), classes=classes)
    with plan.open(root) as writer:
        while writer.remaining:
            planned = writer.remaining[0]
            rows = writer.open_shard(planned)
            for image in planned.images:
                key, size = image.source.key, (SIDE, SIDE)
                assert image.bucket == size, f"{key} has another size in the small plan"
                source = FileDigest(image.source.num_bytes, "0" * 64)
                own = dict((columns or {}).get(key, {}))
                stored = ImageRecord(key, Geometry(size, size, (0, 0), size, size), source, (), columns=own)
                tensors = store_as(LATENTS, latents[key], STORE_DTYPES[record.layout.dtype])
                times = image.source.mtime_ns, image.source.ctime_ns
                rows.add(EncodedImage(stored, tensors.pop(LATENTS), *times, tensors))
            writer.publish(rows.finish())
        writer.finish()
    return root
