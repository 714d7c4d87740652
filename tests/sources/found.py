"""Questions to what is found in sources that tests of several kinds of them ask."""

from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from semdis_cli.errors import UnreadableImageError, UsageError
from semdis_cli.records import ColumnSource, SourceImage
from semdis_cli.sources.files import read_bytes
from semdis_cli.sources.find import FoundImages, find_images


def columns_of(image: SourceImage) -> Mapping[str, object]:
    """All that lies beside an image, each value read."""
    assert isinstance(image.reader, ColumnSource)
    return dict(image.reader.columns(image))


def reasons_of(found: FoundImages) -> dict[str, str]:
    """Why each failure is one."""
    return {failure.key: failure.reason for failure in found.failures}


def damage(path: Path, data: st.DataObject, most_bytes: int, first: int = 0) -> None:
    """Change some bytes of a file, up to so many, from the byte `first` on."""
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, most_bytes))):
        whole[data.draw(st.integers(first, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)


def check_what_is_left(path: Path) -> None:
    """Read all images of a damaged file, and what lies beside them: each is there, or has a reason of one line."""
    try:
        found = find_images([path])
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017 (only some are refused whole)
        return
    for image in found.images:
        try:
            assert len(read_bytes(image)) == image.num_bytes
            columns_of(image)
        except UnreadableImageError as error:
            assert "\n" not in str(error)  # noqa: PT017 (only some are damaged)
