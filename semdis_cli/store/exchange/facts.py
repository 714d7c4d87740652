"""Facts of all images that an export needs before it writes the first: labels, sizes."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from semdis_cli.errors import UsageError
from semdis_cli.events import Failure
from semdis_cli.files.url import Location
from semdis_cli.stops import looking
from semdis_cli.store.columns import LABEL, is_label
from semdis_cli.store.reader import LatentSource, recorded_layout
from semdis_cli.wording import count

_MAX_LABEL = 1 << 63

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageFacts:
    """Facts of the images in `path`, by key: `labels` of those that have one, (H, W) of `sources`, (h, w) of `grids`.

    `classes`: names of the labels, where they have any.
    """

    path: Location
    classes: tuple[str, ...]
    labels: Mapping[str, int]
    sources: Mapping[str, Size]
    grids: Mapping[str, Size]

    @classmethod
    def of(cls, source: LatentSource) -> Self:
        """Look them up in the index. Raises `StoreError` for one that is damaged."""
        patch_size = recorded_layout(source.provenance, str(source.path)).patch_size
        labels, sources, grids = {}, {}, {}
        same: dict[Size, Size] = {}  # most have the size of another: one tuple for all of them
        for image in looking(source.images()):
            height, width = image.image
            grid = -(-height // patch_size), -(-width // patch_size)
            sources[image.key] = same.setdefault(image.source, image.source)
            grids[image.key] = same.setdefault(grid, grid)
            label = image.columns.get(LABEL)
            if is_label(label) and label < _MAX_LABEL:
                labels[image.key] = label
        return cls(source.path, source.classes, labels, sources, grids)

    def part(self, keys: Collection[str]) -> "ImageFacts":
        """Return the same of some of the images."""
        return ImageFacts(
            self.path,
            self.classes,
            {key: self.labels[key] for key in keys if key in self.labels},
            {key: self.sources[key] for key in keys},
            {key: self.grids[key] for key in keys},
        )

    def one_grid(self, reader: str) -> Size:
        """Return the one latent grid that all images have, (0, 0) of none. Raises `UsageError` if there are several."""
        grids = Counter(self.grids.values())
        if len(grids) > 1:
            several = ", ".join(f"{height}x{width} ({number:,})" for (height, width), number in grids.most_common(3))
            what = f"holds latents of {len(grids):,} sizes ({several}{', ...' if len(grids) > 3 else ''})"
            raise UsageError(f"{what}, but {reader} reads one; encode with --size", place=self.path)
        return next(iter(grids), (0, 0))

    def check_labels(self, reader: str) -> None:
        """Raise `UsageError` if no image has a label."""
        if self.grids and not self.labels:
            advice = "semdis attach gives it the column label"
            raise UsageError(f"has no labels, which {reader} needs; {advice}", place=self.path)

    def unlabelled(self, reader: str) -> list[Failure]:
        """List the images without a label, which cannot leave if others have one."""
        reason = f"has no label, which {reader} needs of each image"
        return [Failure(key, reason) for key in self.grids if key not in self.labels]

    def describe_gaps(self) -> str:
        """Say which classes have no image, up to the largest label that there is; nothing if there are none."""
        present = set(self.labels.values())
        gaps = max(present, default=-1) + 1 - len(present)
        if not gaps:
            return ""
        first = next(number for number in range(len(present) + 1) if number not in present)
        return f"{count(gaps, 'class', 'classes')} without images, the first is {first}"
