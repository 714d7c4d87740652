"""Views of each file that a set has the latents of: which they are, the set tells itself."""

import re
from collections.abc import Iterable

from semdis_cli.provenance import Provenance
from semdis_cli.records import View

_CROP = re.compile(r"#[0-9]*crop([0-9]{1,4})(?:\.[^./]*)?$")


def first_view(provenance: Provenance) -> View:
    """Return a view that a set with this record has of every file."""
    return View(next(iter(provenance.sizes), None), 1 if provenance.has_crops else None)


def all_views(provenance: Provenance, keys: Iterable[str]) -> tuple[View, ...]:
    """Return the views that a set with this record and the images `keys` has of every file."""
    sizes = provenance.sizes or (None,)
    if not provenance.has_crops:
        return tuple(View(size) for size in sizes)
    num_crops = max((int(found[1]) for key in keys if (found := _CROP.search(key))), default=1)
    return tuple(View(size, crop) for size in sizes for crop in range(1, num_crops + 1))
