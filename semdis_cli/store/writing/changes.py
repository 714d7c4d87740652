"""Changes that make a finished set hold the inputs of a run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from semdis_cli.events import LeftOut
from semdis_cli.files.image_list import ImageList
from semdis_cli.files.images import Images
from semdis_cli.records import SourceImage
from semdis_cli.store.set_index import SetIndex
from semdis_cli.store.writing.seen import SeenFile

# What each image is made from, as `content_of` gives it, in order; None where that cannot be read.
Hashes = Callable[[Sequence[SourceImage]], Iterable[str | None]]
DEDUPE = "dedupe"  # the filter that looks at all files


@dataclass(frozen=True)
class Choice:
    """Filters of a run, for images that the set has a row of.

    `why_not`: the filter that leaves out an image of a size (H, W) in px; None: it is taken. `drops_twins`: of files
    with the same bytes the first is taken alone.
    """

    why_not: Callable[[SourceImage, tuple[int, int]], str | None] | None = None
    drops_twins: bool = False

    @property
    def is_all(self) -> bool:
        """Tell whether all images are taken."""
        return self.why_not is None and not self.drops_twins


ALL = Choice()


@dataclass
class Contents:
    """Inputs that are kept, in no order, with the status of each one's row and, if known, the sha256 of its file.

    `are_twins`: 1 for those that were left out for a file with the same bytes.
    """

    images: ImageList = field(default_factory=ImageList)
    statuses: list[str] = field(default_factory=list)
    digests: list[str | None] = field(default_factory=list)
    are_twins: bytearray = field(default_factory=bytearray)

    def add(self, image: SourceImage, status: str, sha256: str | None, *, is_twin: bool) -> None:
        """Append one."""
        self.images.append(image)
        self.statuses.append(status)
        self.digests.append(sha256)
        self.are_twins.append(is_twin)


@dataclass(frozen=True)
class Changes:
    """Differences between the inputs of a run and a set; all sorted by key.

    `to_encode`: new inputs, changed ones, and those that failed for a reason that may have passed. `kept`: the others,
    with the times to remember. Of those `returned` were marked as removed. `removed` have latents and are
    no longer among the inputs; `forgotten` failed, and are not either. `num_changed` of `to_encode` had latents.
    `failed_before`: why inputs of this run have no latents so far, for those that are not kept. `left_out`: inputs
    without latents that another filter than in the set leaves out. `num_left_out` of `kept`, by filter, are left out
    too: their rows say so already or, of those with latents that are to be `set_aside`, by which filter. `contents`: of
    `kept`, where twins are dropped, as far as no filter leaves them out by their size.
    """

    to_encode: Images = field(default_factory=ImageList)
    kept: Images = field(default_factory=ImageList)
    returned: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    num_changed: int = 0
    failed_before: Mapping[str, str] = field(default_factory=dict)
    num_failed: int = 0  # of `kept`: their contents are the reason, and have not changed
    left_out: tuple[LeftOut, ...] = ()
    num_left_out: Mapping[str, int] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents)
    is_on_record: bool = False  # the set's own list of times is that of `kept`
    same_pieces: frozenset[int] = frozenset()  # so are those of these pieces of its index, by number
    lacks_times: bool = False  # the set has no such list

    def kept_between(self, first_key: str, end: str | None) -> Images:
        """Return the images that are kept of a range of keys: from the first one on, and below `end`; None: all."""
        return within(self.kept, *stretch(self.kept, first_key, end))

    def kept_in(self, index: SetIndex, number: int) -> Images:
        """Return the images that are kept of a piece of the set's index."""
        return self.kept_between(*index.range_of(number))

    def encodes_in(self, index: SetIndex, number: int) -> bool:
        """Tell whether images are to be encoded whose rows are going to be in a piece of the set's index."""
        first, stop = stretch(self.to_encode, *index.range_of(number))
        return first < stop

    def changed_pieces(self, index: SetIndex) -> set[int]:
        """Return the numbers of the pieces of the set's index in which a row gets another status, or goes."""
        keys = chain(self.removed, self.forgotten, self.returned, self.set_aside)
        return {index.number_of(key) for key in keys}

    @property
    def num_taken(self) -> int:
        """Number of the inputs that are kept, and not left out."""
        return len(self.kept) - sum(self.num_left_out.values())


def seen_of(images: Images) -> Iterator[SeenFile]:
    """Yield what to remember of the files of images."""
    return map(SeenFile._make, images.facts())


def stretch(images: Images, first_key: str, end: str | None) -> tuple[int, int]:
    """Return the places of images of a range of keys: the first, and that after the last."""
    first = images.place_of(first_key) if first_key else 0
    return first, len(images) if end is None else images.place_of(end, first)


def within(images: Images, first: int, stop: int) -> Images:
    """Return the images from one place up to another."""
    return images if stop - first == len(images) else images.pick(range(first, stop))
