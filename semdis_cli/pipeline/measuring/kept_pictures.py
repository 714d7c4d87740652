"""Pictures of some images, kept for the page that shows them: an even sample, and those that came back worst.

Each process decides for itself which of its images are among the worst so far, so that no pixels travel; of several
processes the worst of all are among those of each. While a run lasts they are not packed: most of those that are among
the worst for a while are not in the end.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappush, heapreplace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semdis_cli.errors import StoreError, UnreadableImageError
from semdis_cli.files.atomic import make_folder
from semdis_cli.files.disk import list_names
from semdis_cli.files.json_text import key_fields, parse_json, to_line
from semdis_cli.files.late import LateFiles
from semdis_cli.images.images import pack_png, write_unpacked
from semdis_cli.pipeline.contenders.contender import Version
from semdis_cli.store.checks import check_record_key

PICTURES_FOLDER = ".semdis-pictures"
_WORST_PART = 4  # of the pictures, one in so many is kept for being among the worst
_FACTS, _LATENTS = ".json", ".f2"


@dataclass(frozen=True)
class PictureChoice:
    """Which images' pictures are kept: a `share` of all (0..1), by a hash of the key, and the `num_worst` by PSNR."""

    share: float
    num_worst: int

    @classmethod
    def of(cls, num_pictures: int, num_images: int) -> "PictureChoice":
        """Choose about `num_pictures` of `num_images`: all, or a quarter of them for being the worst."""
        if num_images <= num_pictures:
            return cls(1.0, 0)
        num_worst = num_pictures // _WORST_PART
        return cls((num_pictures - num_worst) / num_images, num_worst)

    def is_sampled(self, key: str) -> bool:
        """Tell whether an image is one of the sample."""
        return int(_hash_of(key)[:16], 16) < self.share * 2**64


def _hash_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Trial(NamedTuple):
    """An image as it was `given` to the contenders, uint8 [3,H,W] without padding, and as it came back from each.

    `latents` [Z,h,w] float32: of the first contender, of the padded image.
    """

    key: str
    given: NDArray[np.uint8]
    versions: tuple[Version, ...]
    latents: NDArray[np.float32]


@dataclass(frozen=True)
class KeptPicture:
    """Pictures of one image: `size` (H, W) in px; PNG files of the original and of what came back from each contender.

    `latents` [Z,h,w] float16 of the first.
    """

    key: str
    size: tuple[int, int]
    original: Path
    versions: tuple[Path, ...]
    _latents: Path
    _grid: tuple[int, int, int]

    @property
    def latents(self) -> NDArray[np.float16]:
        """Read the latents. Raises `StoreError`."""
        try:
            return np.frombuffer(self._latents.read_bytes(), "<f2").reshape(self._grid)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot be read ({error})", place=self._latents) from error

    def packed(self, files: LateFiles) -> "KeptPicture":
        """Pack the PNG files, for somebody will look at them: beside these, which are safe already, by `files`.

        Raises `StoreError` for what cannot be read, and as `LateFiles.write`.
        """
        original, *versions = (_packed(path, files) for path in (self.original, *self.versions))
        return replace(self, original=original, versions=tuple(versions))


def _packed(path: Path, files: LateFiles) -> Path:
    try:
        data = pack_png(path.read_bytes())
    except (OSError, UnreadableImageError) as error:
        raise StoreError(f"cannot be read ({error})", place=path) from error
    target = path.with_suffix(".packed.png")
    files.write(target, data)
    return target


class PictureKeeper:
    """Keeps pictures in `folder`, by `choice`. Safe to use in several threads."""

    def __init__(self, folder: Path, choice: PictureChoice) -> None:
        make_folder(folder)
        self.folder, self.choice = folder, choice
        self._files = LateFiles(folder)
        self._worst: list[tuple[float, str]] = []  # a heap of (-PSNR, key), the best of them first
        self._lock = Lock()

    def take(self, trials: Sequence[Trial], psnr_db: Sequence[float]) -> None:
        """Keep what is worth it of images with these PSNRs. Raises as `LateFiles.write`."""
        kept, given_up = [], []
        for trial, score in zip(trials, psnr_db, strict=True):
            if self.choice.is_sampled(trial.key):
                kept.append(trial)
            elif (other := self._rank(trial.key, score)) != trial.key:
                kept.append(trial)
                given_up += [other] if other is not None else []
        for trial in kept:
            self._write(trial)
        for key in given_up:
            self._remove(key, len(trials[0].versions))

    def settle(self) -> None:
        """Wait until no power cut can take what was kept so far. Raises as `LateFiles.settle`."""
        self._files.settle()

    def know(self, key: str, psnr_db: float) -> None:
        """Take note of an image that an earlier run has measured."""
        if not self.choice.is_sampled(key):
            self._rank(key, psnr_db)

    def _rank(self, key: str, score: float) -> str | None:
        """Take an image among the worst; return which one is no longer: itself, another, or None."""
        with self._lock:
            if len(self._worst) < self.choice.num_worst:
                heappush(self._worst, (-score, key))
                return None
            if not self._worst or -score <= self._worst[0][0]:
                return key
            return heapreplace(self._worst, (-score, key))[1]

    def _write(self, trial: Trial) -> None:
        name = self.folder / _hash_of(trial.key)
        pixels = (trial.given, *(version.pixels for version in trial.versions))
        for path, one in zip(_pictures(name, len(trial.versions)), pixels, strict=True):
            self._files.write(path, write_unpacked(one.transpose(1, 2, 0)))
        self._files.write(name.with_suffix(_LATENTS), trial.latents.astype("<f2").tobytes())
        facts = {**key_fields(trial.key), "size": trial.given.shape[1:], "grid": trial.latents.shape}
        self._files.write(name.with_suffix(_FACTS), to_line(facts))

    def _remove(self, key: str, num_contenders: int) -> None:
        name = self.folder / _hash_of(key)
        for path in (name.with_suffix(_FACTS), name.with_suffix(_LATENTS), *_pictures(name, num_contenders)):
            self._files.remove(path)


def kept_pictures(folder: Path, num_contenders: int) -> Iterator[KeptPicture]:
    """Yield the pictures in `folder`, in any order; what a power cut has left of some is passed over."""
    for path in list_names(folder):
        if path.suffix == _FACTS and (facts := _read_facts(path)) is not None:
            pictures, latents = _pictures(path, num_contenders), path.with_suffix(_LATENTS)
            if all(one.is_file() and one.stat().st_size for one in (*pictures, latents)):
                yield KeptPicture(*facts[:2], pictures[0], tuple(pictures[1:]), latents, facts[2])


def _pictures(name: Path, num_contenders: int) -> list[Path]:
    """Return the files of the original and of what came back from each contender."""
    return [name.with_suffix(f".{number}.png") for number in range(1 + num_contenders)]


def _read_facts(path: Path) -> tuple[str, tuple[int, int], tuple[int, int, int]] | None:
    try:
        facts: dict[str, Any] = parse_json(path.read_bytes())
        return check_record_key(facts), tuple(facts["size"]), tuple(facts["grid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
