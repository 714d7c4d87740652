"""Folders and files in stores, by their URLs: found in one listing, and read one by one where they are.

A name that has the suffix of an image is one; nobody looks into the others, which would take a request for each. The
time of change of an image follows from its ETag, so that another content of the same size is noticed.
"""

import io
from dataclasses import dataclass, field

from semdis_cli.errors import UsageError
from semdis_cli.files.stores import FarFile, without_secrets
from semdis_cli.files.url import Url
from semdis_cli.kinds.formats import has_image_suffix
from semdis_cli.records import SourceImage, Stamp
from semdis_cli.sources.containers import container_at, is_container_name, search_containers
from semdis_cli.sources.folders import TABLES
from semdis_cli.sources.input_rules import PassedOver
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.source import Finds, Search, Source

_FILES_BETWEEN_NEWS = 1000


@dataclass(frozen=True, slots=True)
class FarReader:
    """Reader of images that are files of a store. The place of an image is its path there."""

    url: Url
    has_one_file = False
    is_far = True

    def for_process(self) -> "FarReader":
        """Return what another process reads the images with, by connections of its own."""
        return self

    def open(self, image: SourceImage) -> io.BufferedReader:
        """Open an image. Reading it raises `OSError` if it has not the size of the listing any more."""
        return self.url.open_range(image.place, 0, image.num_bytes, is_all=True)

    def stamp(self, image: SourceImage) -> Stamp:
        """Return the stamp of the listing: a change since then shows the next time."""
        return image.stamp

    def locate(self, image: SourceImage) -> tuple[str, object]:
        """Return the URL of the image, without secrets, and its path in the store."""
        scheme = self.url.text.partition("://")[0]
        url = image.place if "://" in image.place else f"{scheme}://{image.place.lstrip('/')}"
        return without_secrets(url), image.place


@dataclass(frozen=True)
class FarFolder:
    """Source of the images below a URL."""

    url: Url
    naming: NamedPath = field(compare=False)

    def images(self, prefix: str, search: Search) -> Finds:
        """List the images below it; their keys are `prefix` and their paths from there on. Raises `UsageError`."""
        listing, start = _Listing(FarReader(self.url), prefix, search), f"{self.url.path}/"
        try:
            for number, file in enumerate(self.url.files(), start=1):
                if number % _FILES_BETWEEN_NEWS == 0:
                    search.tell(number)
                listing.add(file, file.path.removeprefix(start))
        except OSError as error:
            raise UsageError(f"cannot be listed ({error.strerror})", place=self.url) from error
        return listing.finish()


@dataclass
class _Listing:
    """Files of a folder so far. `containers`: those that hold many images."""

    reader: FarReader
    prefix: str
    search: Search
    finds: Finds = field(default_factory=Finds)
    containers: list[Url] = field(default_factory=list)

    def add(self, file: FarFile, name: str) -> None:
        """Sort one file in."""
        parts = name.split("/")
        kind = self.search.rules.judge(parts).kind
        if kind is None and is_container_name(name) and parts[-1] not in TABLES:
            self.containers.append(self.reader.url / name)
        elif kind is not None or not has_image_suffix(name):
            self.finds.passed_over.add(kind or PassedOver.NO_IMAGE)
        elif {"", ".", ".."} & set(parts):
            reason = "no file here could have its name; copy it to another"
            self.finds.fail(self.prefix + name, f"{self.reader.url}/{name}", reason)
        else:
            self.finds.images.append(_image(self.prefix + name, self.reader, file))

    def finish(self) -> Finds:
        """Return what was found, also in files that hold many images where there are no others."""
        url, finds = self.reader.url, self.finds
        if not (finds.num_seen or self.containers):
            raise UsageError("no such file or folder", place=url)
        if finds.images or not self.search.has_containers:
            finds.passed_over.add(PassedOver.CONTAINER, len(self.containers))
        else:
            search_containers(url, self.containers, finds, self.prefix, self.search)
        finds.images = finds.images.sorted()
        return finds


@dataclass(frozen=True)
class FarImage:
    """Source of one image, named outright by its URL: its key is its name."""

    url: Url
    file: FarFile
    naming = None

    def images(self, prefix: str, search: Search) -> Finds:
        """Return the image."""
        del search  # what was named outright is not passed over
        finds = Finds()
        finds.images.append(_image(f"{prefix}{self.url.name}", FarReader(self.url), self.file))
        return finds


def far_source_at(url: Url) -> Source:
    """Return the source at a URL: a tar by its name, a folder if there is one, else an image. Raises `UsageError`."""
    if (container := container_at(url)) is not None:
        return container
    if url.is_folder_name and url.is_web:
        raise UsageError("a web server lists no files: name the images and tars themselves", place=url)
    if url.is_folder_name or url.is_dir():
        return FarFolder(url, NamedPath.of_url(url))
    try:
        return FarImage(url, url.file())
    except FileNotFoundError as error:
        raise UsageError("no such file or folder", place=url) from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", place=url) from error


def _image(key: str, reader: FarReader, file: FarFile) -> SourceImage:
    return SourceImage(key, reader, file.path, file.num_bytes, file.mtime_ns, file.tag_ns)
