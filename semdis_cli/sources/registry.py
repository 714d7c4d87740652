"""All kinds of sources that a path may lead to. A new kind is a module of its own, and a name here.

One that is a file with many images has its name in `containers`, so that it is found in folders too.
"""

from collections.abc import Callable
from pathlib import Path

from semdis_cli.files.url import Location, Url
from semdis_cli.sources.containers import container_at
from semdis_cli.sources.file_list import FileList
from semdis_cli.sources.folders import Folder
from semdis_cli.sources.remote import far_source_at
from semdis_cli.sources.source import Source

# Each returns the source at a path, None if that is of another kind. The first one that does not decides.
_KINDS: tuple[Callable[[Path], Source | None], ...] = (Folder.at, container_at)


def source_at(path: Location) -> Source:
    """Return the source at a path: of the first kind that takes it, else a single file.

    Raises `UsageError` where a URL leads nowhere, or its store cannot be asked.
    """
    if isinstance(path, Url):
        return far_source_at(path)
    return next((source for kind in _KINDS if (source := kind(path)) is not None), FileList.at(path))
