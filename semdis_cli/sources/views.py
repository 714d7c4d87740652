"""Several images of each file of a run, each under a key of its own."""

from collections.abc import Sequence
from dataclasses import replace

from semdis_cli.events import Failure
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import Images
from semdis_cli.records import WHOLE, SourceImage, View


def in_views(
    images: Sequence[SourceImage], failures: Sequence[Failure], views: Sequence[View]
) -> tuple[Sequence[SourceImage], Sequence[Failure]]:
    """Return the images and failures of a run once for each of `views`, sorted by the keys of these."""
    if views == (WHOLE,):
        return images, failures
    seen = ImageList(replace(image, key=view.key_of(image.key), view=view) for image in images for view in views)
    failed = [replace(failure, key=view.key_of(failure.key)) for failure in failures for view in views]
    return seen.sorted(), sorted(failed, key=lambda failure: failure.key)


def files_of(images: Sequence[SourceImage]) -> Sequence[SourceImage]:
    """Return what `in_views` made these images of, each file once."""
    if (isinstance(images, Images) and images.are_whole) or all(image.view == WHOLE for image in images):
        return images
    return [*{image.file: image.whole for image in images}.values()]
