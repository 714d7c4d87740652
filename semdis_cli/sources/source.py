"""The protocol of sources: every kind of source lists its images, each under a key, and says what else it found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from semdis_cli.events import Failure
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.url import Location
from semdis_cli.sources.input_rules import DEFAULT_RULES, InputRules, Tally
from semdis_cli.sources.names import NamedPath


@dataclass(slots=True)
class Finds:
    """Images of a source, failures, each with the path of its file, and the numbers of files passed over.

    `damage`: why the source could not be listed, or not to its end; the images are those that are whole before that.
    `tables`: paths in a folder of what is called like a table of its images.
    """

    images: ImageList = field(default_factory=ImageList)
    failures: list[tuple[Failure, Location | str]] = field(default_factory=list)
    passed_over: Tally = field(default_factory=Tally)
    damage: str | None = None
    tables: list[str] = field(default_factory=list)

    @property
    def num_seen(self) -> int:
        """Number of files, those that were passed over included."""
        return len(self.images) + len(self.failures) + sum(self.passed_over.numbers.values())

    def fail(self, key: str, path: Location | str, reason: str) -> None:
        """Add a file that cannot be an image."""
        self.failures.append((Failure(key, reason), path))


@dataclass(frozen=True, slots=True)
class Search:
    """Settings of a listing: `rules` say what is passed over, and `exclude` is a folder not to enter.

    `tell` hears of the number of files so far, now and then. `has_containers`: files with many images are searched that
    lie in folders without other images.
    """

    rules: InputRules = DEFAULT_RULES
    exclude: Path | None = None
    tell: Callable[[int], None] = lambda _: None
    has_containers: bool = True


class Source(Protocol):
    """Source of images, as a user names it: a folder, a tar, files, stdin.

    The images that it lists name the `ImageReader` that opens them, which may be the source itself.
    """

    @property
    def naming(self) -> NamedPath | None:
        """Return the names that its keys may begin with; None if its keys have no such beginning."""

    def images(self, prefix: str, search: Search) -> Finds:
        """List its images without reading them; their keys are `prefix` and their names in the source."""
