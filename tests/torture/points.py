"""The named points in the life of an encode at which it is killed, and the situations that they arise in.

A point is data: which change of which file, the how manieth, and before, halfway through or after it. Where that is in
a run is looked up in the log of an unbroken one, so that points stay where they are when the code around them changes.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cli.conftest import Outcome
from tests.torture.harness import (
    Runner,
    Step,
    contents,
    differences,
    encode_arguments,
    make_few_images,
    save_image,
    steps,
    temporaries,
    wait_until_settled,
)
from tests.torture.watch import Change, Stop
from tests.worlds import save_tiny_model

TEMPORARY = " (temporary)"
LOCK = "latents/.semdis-lock"
JOURNAL = "latents/journal/[0-9]*.jsonl"
BASE = "latents/journal/base-[*]"  # the number in its name, which is drawn by chance, is a star in the log
SHARD = "latents/shards/*.safetensors"
TENSORS, NEW_TENSORS = "latents/columns/*.safetensors", f"{BASE}/columns/*.safetensors"
# Written in a folder of the journal, and from there moved to their places.
INDEX, SUMS, SEEN = f"{BASE}/index.jsonl", f"{BASE}/SHA256SUMS", f"{BASE}/seen.jsonl"
ITEMS = f"{BASE}/items.table"
MANIFEST, REPORT = f"{BASE}/manifest.json", "latents/report.json"


# Two parts write a set, and this is the last one.
PARTS = ("the last of two parts", "the last of two parts of a set that grows")
LAST_PART = "1/2"
PART_JOURNAL, PART_DONE, PART_REPORT, PART_LOCK = (
    f"latents/journal/{name}" for name in ("1-of-2.jsonl", "1-of-2.done", "1-of-2.report.json", ".semdis-lock-1-of-2")
)
WHOLE = "latents/journal/0.jsonl"
# An index has pieces of so few rows that these sets have several.
IN_PIECES = ("a set in pieces that grows", "columns for a set in pieces")
PIECE_ROWS = "PIECE_ROWS=2"
PIECE, TIMES = "latents/index/*.jsonl", "latents/seen/*.jsonl"
NEW_PIECE, NEW_TIMES, KEPT_PIECE = f"{BASE}/index/*.jsonl", f"{BASE}/seen/*.jsonl", f"{BASE}/index/*.jsonl"


@dataclass(frozen=True)
class Point:
    """A moment of the run in a `situation`: `when` the `nth` (negative: from the end) `operation` on `file` is made.

    `file` is a pattern; a temporary file goes by the name of the file to be, and `(temporary)`. `when` is "before",
    "half" or "after".
    """

    name: str
    situation: str
    when: str
    operation: str
    file: str
    nth: int = 1

    def find(self, run: Sequence[Step]) -> Stop:
        """Where in an unbroken run this is. Raises `LookupError` if there is no such change in it."""
        found = [s.number for s in run if s.operation == self.operation and fnmatchcase(s.file, self.file)]
        try:
            number = found[self.nth - 1 if self.nth > 0 else self.nth]
        except IndexError:
            raise LookupError(f"{self.name}: only {len(found)} times {self.operation} {self.file}") from None
        return Stop(number, self.when)


def _points(situation: str, *rows: tuple[str, str, str, str, int] | tuple[str, str, str, str]) -> tuple[Point, ...]:
    return tuple(Point(name, situation, when, operation, file, *nth) for name, when, operation, file, *nth in rows)


POINTS = (
    *_points(
        "a new set",
        ("before there is an output folder", "before", "mkdir", "latents"),
        ("output folder made, nothing in it", "after", "mkdir", "latents"),
        ("lock file made, not locked", "after", "create", LOCK),
        ("lock taken, its holder not named", "after", "lock", LOCK),
        ("holder of the lock half named", "half", "write", LOCK),
        ("folder of shards made", "after", "mkdir", "latents/shards"),
        ("folder of the journal made", "after", "mkdir", "latents/journal"),
        ("plan half written", "half", "write", JOURNAL + TEMPORARY),
        ("plan written, not synced", "after", "write", JOURNAL + TEMPORARY),
        ("plan synced, not renamed", "before", "rename", JOURNAL + TEMPORARY),
        ("plan renamed, its folder not synced", "after", "rename", JOURNAL + TEMPORARY),
        ("plan safe, no shard begun", "before", "create", SHARD + TEMPORARY),
        ("first shard opened under its temporary name", "after", "create", SHARD + TEMPORARY),
        ("first shard half written", "half", "write", SHARD + TEMPORARY),
        ("first shard written, not synced", "before", "sync", SHARD + TEMPORARY),
        ("first shard synced, not renamed", "after", "sync", SHARD + TEMPORARY),
        ("first shard renamed, its folder not synced", "after", "rename", SHARD + TEMPORARY),
        ("first shard safe, not in the journal", "before", "write", JOURNAL),
        ("first shard's journal line half written", "half", "write", JOURNAL),
        ("first shard's journal line written, not synced", "after", "write", JOURNAL),
        ("between the first shard and the second", "after", "sync", JOURNAL),
        ("second shard half written", "half", "write", SHARD + TEMPORARY, 2),
        ("second shard renamed, not in the journal", "after", "rename", SHARD + TEMPORARY, 2),
        ("journal line of a shard whose images all failed half written", "half", "write", JOURNAL, 4),
        ("last shard renamed, not in the journal", "after", "rename", SHARD + TEMPORARY, -1),
        ("last journal line half written", "half", "write", JOURNAL, -1),
        ("every shard in the journal, no index", "before", "create", INDEX + TEMPORARY),
        ("index half written", "half", "write", INDEX + TEMPORARY),
        ("index synced, not renamed", "before", "rename", INDEX + TEMPORARY),
        ("index renamed, its folder not synced", "after", "rename", INDEX + TEMPORARY),
        ("modification times half written", "half", "write", SEEN + TEMPORARY),
        ("table of items half written", "half", "write", ITEMS + TEMPORARY),
        ("table of items renamed, its folder not synced", "after", "rename", ITEMS + TEMPORARY),
        ("index there, checksums not begun", "before", "create", SUMS + TEMPORARY),
        ("checksums half written", "half", "write", SUMS + TEMPORARY),
        ("checksums renamed, no manifest", "after", "rename", SUMS + TEMPORARY),
        ("manifest half written", "half", "write", MANIFEST + TEMPORARY),
        ("manifest written, not synced", "before", "sync", MANIFEST + TEMPORARY),
        ("manifest synced, not renamed", "before", "rename", MANIFEST + TEMPORARY),
        ("manifest renamed, its folder not synced", "after", "rename", MANIFEST + TEMPORARY),
        ("all lists written, none in its place", "before", "rename", f"latents/index.jsonl{TEMPORARY}"),
        ("index in its place, its folder not synced", "after", "rename", f"latents/index.jsonl{TEMPORARY}"),
        ("table of items in its place, no manifest", "after", "rename", f"latents/items.table{TEMPORARY}"),
        ("modification times in their place, no checksums", "after", "rename", f"latents/seen.jsonl{TEMPORARY}"),
        ("checksums in their place, no manifest", "after", "rename", f"latents/SHA256SUMS{TEMPORARY}"),
        ("manifest in its place, its folder not synced", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("manifest safe, journal still there", "before", "unlink", JOURNAL),
        ("journal gone, its folder still there", "after", "unlink", JOURNAL),
        ("journal's folder gone, not synced", "after", "rmdir", "latents/journal"),
        ("set finished, still locked", "before", "unlink", LOCK),
        ("lock let go, no report", "after", "unlink", LOCK),
        ("report half written", "half", "write", REPORT + TEMPORARY),
        ("report renamed, its folder not synced", "after", "rename", REPORT + TEMPORARY),
    ),
    *_points(
        "a set that a killed run left",
        ("lock file of the killed run opened", "after", "open", LOCK),
        ("holder of the lock half overwritten", "half", "write", LOCK),
        ("before what the killed run left is swept", "before", "unlink", "latents/*.semdis-tmp"),
        ("one temporary file swept, another not", "after", "unlink", "latents/*.semdis-tmp"),
        ("all temporary files swept", "after", "unlink", "latents/*.semdis-tmp", -1),
        ("before the torn line of the journal is cut off", "before", "truncate", JOURNAL),
        ("torn line cut off", "after", "truncate", JOURNAL),
        ("first line after the torn one half written", "half", "write", JOURNAL),
        ("first shard of the second run renamed, not in the journal", "after", "rename", SHARD + TEMPORARY),
    ),
    *_points(
        "a plan that was given up",
        ("before the shard of the plan given up is removed", "before", "unlink", SHARD),
        ("shard of the plan given up removed, the plan still there", "after", "unlink", SHARD),
        ("new plan half written beside the one given up", "half", "write", JOURNAL + TEMPORARY),
        ("new plan renamed over the one given up", "after", "rename", JOURNAL + TEMPORARY),
    ),
    *_points(
        "a finished set not yet tidied",
        ("before the journal of a finished set is removed", "before", "unlink", JOURNAL),
        ("journal of a finished set removed, its folder not", "after", "unlink", JOURNAL),
        ("finished set tidied, report half written", "half", "write", REPORT + TEMPORARY),
    ),
    *_points(
        "a set that grows",
        ("before the set as it was is noted", "before", "mkdir", BASE),
        ("folder made for the set as it was", "after", "mkdir", BASE),
        ("index as it was noted, its manifest not", "after", "link", "latents/index.jsonl"),
        ("manifest as it was noted, its folder not synced", "after", "link", "latents/manifest.json"),
        ("set as it was noted, no plan", "before", "create", JOURNAL + TEMPORARY),
        ("plan of the growth half written", "half", "write", JOURNAL + TEMPORARY),
        ("plan of the growth renamed, its folder not synced", "after", "rename", JOURNAL + TEMPORARY),
        ("first new shard half written", "half", "write", SHARD + TEMPORARY),
        ("first new shard renamed, not in the journal", "after", "rename", SHARD + TEMPORARY),
        ("first new journal line half written", "half", "write", JOURNAL),
        ("between the first new shard and the second", "after", "sync", JOURNAL),
        ("last new journal line written, not synced", "after", "write", JOURNAL, -1),
        ("every new shard in the journal, old index", "before", "create", INDEX + TEMPORARY),
        ("new index half written", "half", "write", INDEX + TEMPORARY),
        ("new table of items half written", "half", "write", ITEMS + TEMPORARY),
        ("new checksums half written", "half", "write", SUMS + TEMPORARY),
        ("new manifest half written", "half", "write", MANIFEST + TEMPORARY),
        ("new lists written, old ones in their place", "before", "rename", f"latents/index.jsonl{TEMPORARY}"),
        ("new index in the place of the old one, old manifest", "after", "rename", f"latents/index.jsonl{TEMPORARY}"),
        (
            "new table of items in the place of the old one, old manifest",
            "after",
            "rename",
            f"latents/items.table{TEMPORARY}",
        ),
        ("new modification times in their place, old manifest", "after", "rename", f"latents/seen.jsonl{TEMPORARY}"),
        (
            "new checksums in the place of the old ones, old manifest",
            "after",
            "rename",
            f"latents/SHA256SUMS{TEMPORARY}",
        ),
        ("new manifest in the place of the old one", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("growth finished, journal still there", "before", "unlink", JOURNAL),
        ("growth finished, the set as it was still noted", "after", "unlink", JOURNAL),
        ("set as it was half removed", "after", "unlink", f"{BASE}/*"),
        ("set as it was removed, folder of the journal still there", "after", "rmdir", BASE),
    ),
    *_points(
        "a stopped set whose inputs changed",
        ("before what was published is taken up", "before", "mkdir", BASE),
        ("what was published half listed", "half", "write", INDEX + TEMPORARY),
        ("what was published listed, the old plan still there", "after", "rename", MANIFEST + TEMPORARY),
        ("shard that was never noted removed", "after", "unlink", SHARD),
        ("plan of the changed inputs half written", "half", "write", JOURNAL + TEMPORARY),
        ("plan of the changed inputs renamed over the old one", "after", "rename", JOURNAL + TEMPORARY),
        ("first shard of the changed inputs renamed, not in the journal", "after", "rename", SHARD + TEMPORARY),
        ("manifest of the changed inputs half written", "half", "write", MANIFEST + TEMPORARY, -1),
    ),
    *_points(
        "a growing set whose inputs changed again",
        ("set as it is by now half listed", "half", "write", INDEX + TEMPORARY),
        ("set as it is by now listed, the old plan still there", "after", "rename", MANIFEST + TEMPORARY),
        ("third plan renamed over the second, two sets as they were", "after", "rename", JOURNAL + TEMPORARY),
        ("earlier one of the sets as they were half removed", "after", "unlink", f"{BASE}/*"),
        ("earlier one of the sets as they were removed", "after", "rmdir", BASE),
        ("first shard of the third plan renamed, not in the journal", "after", "rename", SHARD + TEMPORARY),
        ("manifest of the third plan half written", "half", "write", MANIFEST + TEMPORARY, -1),
        ("third plan finished, the set as it was half removed", "after", "unlink", f"{BASE}/*", -1),
    ),
    *_points(
        IN_PIECES[0],
        ("pieces as they were half noted", "after", "link", PIECE),
        ("pieces as they were noted, their times half", "after", "link", TIMES),
        ("first new piece half written", "half", "write", NEW_PIECE + TEMPORARY),
        ("first new piece renamed, without its times", "after", "rename", NEW_PIECE + TEMPORARY),
        ("times of the first new piece half written", "half", "write", NEW_TIMES + TEMPORARY),
        ("first piece kept beside new ones", "after", "link", KEPT_PIECE),
        ("manifest with new pieces half written", "half", "write", MANIFEST + TEMPORARY),
        ("lists with new pieces written, none in its place", "before", "rename", PIECE + TEMPORARY),
        ("first new piece in its place, not synced", "after", "rename", PIECE + TEMPORARY),
        ("all new pieces in their places", "after", "rename", PIECE + TEMPORARY, -1),
        ("table of items of new pieces in its place", "after", "rename", f"latents/items.table{TEMPORARY}"),
        ("times of new pieces in their places", "after", "rename", TIMES + TEMPORARY, -1),
        ("checksums of new pieces in their place", "after", "rename", f"latents/SHA256SUMS{TEMPORARY}"),
        ("manifest with new pieces in its place", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("old pieces still beside new ones", "before", "unlink", PIECE),
        ("one old piece removed, its times not", "after", "unlink", PIECE),
        ("old pieces and their times removed, plan still there", "after", "unlink", TIMES, -1),
    ),
    *_points(
        IN_PIECES[1],
        ("first piece with columns half written", "half", "write", NEW_PIECE + TEMPORARY),
        ("pieces with columns written, the set as it was half held", "after", "link", PIECE),
        ("first piece with columns in its place", "after", "rename", PIECE + TEMPORARY),
        ("manifest of pieces with columns in its place", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("one piece without columns removed", "after", "unlink", PIECE),
    ),
    *_points(
        "columns for a finished set",
        ("before there is a folder for lists with columns", "before", "mkdir", "latents/journal"),
        ("folder made for lists with columns", "after", "mkdir", BASE),
        ("index with columns half written", "half", "write", INDEX + TEMPORARY),
        ("index with columns renamed, its folder not synced", "after", "rename", INDEX + TEMPORARY),
        ("modification times beside an index with columns half written", "half", "write", SEEN + TEMPORARY),
        ("table of items with columns half written", "half", "write", ITEMS + TEMPORARY),
        ("checksums of lists with columns half written", "half", "write", SUMS + TEMPORARY),
        ("manifest with columns half written", "half", "write", MANIFEST + TEMPORARY),
        ("lists with columns written, the set as it was not held", "after", "rename", MANIFEST + TEMPORARY),
        ("index as it was held, its manifest not", "after", "link", "latents/index.jsonl"),
        ("set as it was held, no plan for columns", "before", "create", JOURNAL + TEMPORARY),
        ("plan for columns half written", "half", "write", JOURNAL + TEMPORARY),
        ("plan for columns renamed, its folder not synced", "after", "rename", JOURNAL + TEMPORARY),
        (
            "lists with columns and their plan written, old ones in place",
            "before",
            "rename",
            f"latents/index.jsonl{TEMPORARY}",
        ),
        ("index with columns in its place, old manifest", "after", "rename", f"latents/index.jsonl{TEMPORARY}"),
        ("table of items with columns in its place", "after", "rename", f"latents/items.table{TEMPORARY}"),
        ("modification times for columns in their place", "after", "rename", f"latents/seen.jsonl{TEMPORARY}"),
        ("checksums with columns in their place", "after", "rename", f"latents/SHA256SUMS{TEMPORARY}"),
        ("manifest with columns in its place, not synced", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("columns attached, plan still there", "before", "unlink", JOURNAL),
        ("columns attached, the set as it was still held", "after", "unlink", JOURNAL),
        ("columns attached, folder of the journal still there", "before", "rmdir", "latents/journal"),
    ),
    *_points(
        "tensors for a finished set",
        ("before there is a folder for new tensors", "before", "mkdir", f"{BASE}/columns"),
        ("first file of tensors half written", "half", "write", NEW_TENSORS + TEMPORARY),
        ("first file of tensors renamed, its folder not synced", "after", "rename", NEW_TENSORS + TEMPORARY),
        ("last file of tensors half written", "half", "write", NEW_TENSORS + TEMPORARY, -1),
        ("manifest with tensors half written", "half", "write", MANIFEST + TEMPORARY),
        ("tensors and lists written, no plan for them", "before", "create", JOURNAL + TEMPORARY),
        ("plan for tensors renamed, its folder not synced", "after", "rename", JOURNAL + TEMPORARY),
        ("first file of tensors in its place, not synced", "after", "rename", TENSORS + TEMPORARY),
        ("all files of tensors in their places, old lists", "after", "rename", TENSORS + TEMPORARY, -1),
        ("checksums with tensors in their place, old manifest", "after", "rename", f"latents/SHA256SUMS{TEMPORARY}"),
        ("manifest with tensors in its place, not synced", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("before tensors that were replaced are removed", "before", "unlink", TENSORS),
        ("one file of replaced tensors removed, another not", "after", "unlink", TENSORS),
        ("tensors attached, plan still there", "before", "unlink", JOURNAL),
        ("tensors attached, folder of the journal still there", "before", "rmdir", "latents/journal"),
    ),
    *_points(
        PARTS[0],
        ("lock file of the part made, not locked", "after", "create", PART_LOCK),
        ("holder of the part's lock half named", "half", "write", PART_LOCK),
        ("plan of the part half written", "half", "write", PART_JOURNAL + TEMPORARY),
        ("plan of the part renamed, its folder not synced", "after", "rename", PART_JOURNAL + TEMPORARY),
        ("first shard of the part half written", "half", "write", SHARD + TEMPORARY),
        ("first shard of the part renamed, not in its journal", "after", "rename", SHARD + TEMPORARY),
        ("first line of the part's journal half written", "half", "write", PART_JOURNAL),
        ("last line of the part's journal written, not synced", "after", "write", PART_JOURNAL, -1),
        ("report of the part half written", "half", "write", PART_REPORT + TEMPORARY),
        ("report of the part renamed, the part not marked as done", "after", "rename", PART_REPORT + TEMPORARY),
        ("mark of the part half written", "half", "write", PART_DONE + TEMPORARY),
        ("part marked as done, its folder not synced", "after", "rename", PART_DONE + TEMPORARY),
        ("all parts done, the set's lock not taken", "before", "create", LOCK),
        ("the set's lock taken, its holder half named", "half", "write", LOCK),
        ("plan of the whole half written beside those of parts", "half", "write", WHOLE + TEMPORARY),
        ("plan of the whole renamed, its folder not synced", "after", "rename", WHOLE + TEMPORARY),
        ("index of all parts half written", "half", "write", INDEX + TEMPORARY),
        ("manifest of all parts half written", "half", "write", MANIFEST + TEMPORARY),
        ("lists of all parts written, none in its place", "before", "rename", f"latents/index.jsonl{TEMPORARY}"),
        (
            "index of all parts in its place, not synced",
            "after",
            "rename",
            f"latents/index.jsonl{TEMPORARY}",
        ),
        ("checksums of all parts in their place, no manifest", "after", "rename", f"latents/SHA256SUMS{TEMPORARY}"),
        ("manifest of all parts in its place, not synced", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("manifest safe, all journals still there", "before", "unlink", "latents/journal/*"),
        ("one file of the journals removed, another not", "after", "unlink", "latents/journal/*"),
        ("outline removed, its folder not synced", "after", "unlink", "latents/journal/outline"),
        ("journals gone, the set still locked", "before", "unlink", LOCK),
        ("the set's lock let go, not the part's", "before", "unlink", PART_LOCK),
        ("folder of the journals gone, no report of the set", "after", "rmdir", "latents/journal"),
        ("report of the set half written by the last part", "half", "write", REPORT + TEMPORARY),
    ),
    *_points(
        PARTS[1],
        ("first new shard of the part renamed, not in its journal", "after", "rename", SHARD + TEMPORARY),
        ("part that adds marked as done, its folder not synced", "after", "rename", PART_DONE + TEMPORARY),
        ("set as it was before the parts half noted", "after", "link", "latents/index.jsonl"),
        ("set as it was before the parts noted, no plan of the whole", "before", "create", WHOLE + TEMPORARY),
        ("plan of the whole half written, with the set as it was", "half", "write", WHOLE + TEMPORARY),
        ("plan of the whole renamed, with the set as it was", "after", "rename", WHOLE + TEMPORARY),
        ("manifest with what the parts add half written", "half", "write", MANIFEST + TEMPORARY),
        (
            "new lists of parts written, old ones in their place",
            "before",
            "rename",
            f"latents/index.jsonl{TEMPORARY}",
        ),
        ("new index of all parts in its place, old manifest", "after", "rename", f"latents/index.jsonl{TEMPORARY}"),
        (
            "new checksums of parts in their place, old manifest",
            "after",
            "rename",
            f"latents/SHA256SUMS{TEMPORARY}",
        ),
        ("new manifest of all parts in its place", "after", "rename", f"latents/manifest.json{TEMPORARY}"),
        ("parts added, all journals still there", "before", "unlink", "latents/journal/*"),
        ("parts added, plan of the whole removed", "after", "unlink", WHOLE),
        ("parts added, the set as it was half removed", "after", "unlink", f"{BASE}/*"),
        ("parts added, the set still locked", "before", "unlink", LOCK),
    ),
)


@dataclass
class World:
    """A tiny model, a few images and, below `base`, all that is made with them."""

    base: Path

    def __post_init__(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        self.model = save_tiny_model(self.base / "model")
        images = make_few_images(self.base / "images")
        self._situations = {
            name: Situation(self, name, self.base / name.replace(" ", "-"), make) for name, make in SITUATIONS.items()
        }
        for situation in self._situations.values():
            shutil.copytree(images, situation.images)
        self.runner = Runner(self.base / "runner", self.model)
        wait_until_settled(max(self.base.glob("*/images"), key=lambda path: path.stat().st_ctime_ns))

    def situation(self, name: str) -> "Situation":
        """One of `SITUATIONS`, made when first asked for."""
        situation = self._situations[name]
        situation.prepare()
        return situation

    def close(self) -> None:
        self.runner.close()


@dataclass
class Situation:
    """What a run of the command starts from, and what it ends with if nothing breaks it.

    `start` is a folder that holds `latents` or nothing at all; `images` are the inputs.
    """

    world: World
    name: str
    folder: Path
    make: Callable[["Situation"], None] = field(repr=False)

    def prepare(self) -> None:
        if not self.start.exists():
            self.start.mkdir()
            self.make(self)
            wait_until_settled(self.images)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def start(self) -> Path:
        return self.folder / "start"

    @property
    def tensors(self) -> Path:
        """Tensors for the images, if the situation is about these."""
        return self.folder / "embeddings"

    @property
    def table(self) -> Path:
        """Columns for the images, if the situation is about these."""
        return self.folder / "captions.jsonl"

    def arguments(self, disk: Path, *more: str) -> list[str]:
        """The command, writing to `latents` in the folder `disk`."""
        if self.table.exists():
            return [*self._before, "attach", str(disk / "latents"), str(self.table), *more]
        if self.tensors.exists():
            return ["attach", str(disk / "latents"), "--tensors", str(self.tensors), *more]
        if self.name in PARTS:
            return self.part(disk, LAST_PART)
        return self.encoding(disk, *more)

    def part(self, disk: Path, part: str) -> list[str]:
        """The command that encodes a part of them."""
        return self.encoding(disk, "--part", part)

    def encoding(self, disk: Path, *more: str) -> list[str]:
        """The command that encodes the images to `latents` in the folder `disk`: a shard at a time, in their order."""
        one = ("--workers", "1")
        arguments = encode_arguments(self.images, disk / "latents", self.world.model, *one, *more, shard_images=1)
        return [*self._before, *arguments]

    @property
    def _before(self) -> tuple[str, ...]:
        return (PIECE_ROWS,) if self.name in IN_PIECES else ()

    def begin(self, disk: Path) -> Path:
        """A folder from which a run starts, made at `disk`."""
        return Path(shutil.copytree(self.start, disk))

    @cached_property
    def unbroken(self) -> tuple[Outcome, tuple[Change, ...]]:
        """A run that nothing stops, which leaves `expected`, and the changes that it made."""
        disk = self.begin(self.folder / "unbroken")
        outcome, changes = self.world.runner.watch(self.arguments(disk), disk)
        assert outcome.code == 3, outcome.stderr
        return outcome, tuple(changes)

    @cached_property
    def steps(self) -> list[Step]:
        return steps(self.unbroken[1])

    @property
    def expected(self) -> Path:
        assert self.unbroken
        return self.folder / "unbroken" / "latents"

    def kill(self, disk: Path, point: Point, *more: str) -> None:
        """One run in `disk` that is killed at `point`, where a run from nothing would reach it."""
        trial = self.folder / "trial"
        trial.mkdir()
        _, changes = self.world.runner.watch(self.arguments(trial, *more), trial)
        stop = point.find(steps(changes))
        shutil.rmtree(trial)
        killed, _ = self.world.runner.watch(self.arguments(disk, *more), disk, stop)
        assert killed.code == -9, killed.stderr

    def kill_here(self, point: Point) -> None:
        """One run in `start` that is killed at `point`, where an unbroken one from there would reach it."""
        trial = self.begin(self.folder / "trial")
        _, changes = self.world.runner.watch(self.arguments(trial), trial)
        shutil.rmtree(trial)
        killed, _ = self.world.runner.watch(self.arguments(self.start), self.start, point.find(steps(changes)))
        assert killed.code == -9, killed.stderr


def _point(name: str) -> Point:
    return next(point for point in POINTS if point.name == name)


def _nothing(situation: Situation) -> None:
    assert not list(situation.start.iterdir())


def _left_by_a_killed_run(situation: Situation) -> None:
    """Two shards noted, a third line torn, and temporary files in both folders."""
    situation.kill(situation.start, Point("", "", "half", "write", JOURNAL, 3))
    for folder in ("latents", "latents/shards"):
        (situation.start / folder / ".0123456789abcdef.semdis-tmp").write_bytes(b"half a fi")


def _given_up(situation: Situation) -> None:
    """A run with other settings that published its first shard and did not get to note it."""
    situation.kill(situation.start, _point("first shard safe, not in the journal"), "--store-dtype", "float32")


def _not_tidied(situation: Situation) -> None:
    situation.kill(situation.start, _point("manifest safe, journal still there"))


def _change_inputs(images: Path) -> None:
    """One image is added, one is another now, and one is gone."""
    save_image(Image.new("RGB", (16, 16), "blue"), images / "00-new.png")
    save_image(Image.new("RGB", (32, 32), "red"), images / "01.png")
    (images / "02.png").unlink()


def _grown(situation: Situation) -> None:
    """A finished set whose inputs have changed since."""
    done = situation.world.runner.run(situation.arguments(situation.start))
    assert done.code == 3, done.stderr
    _change_inputs(situation.images)


def _changed_while_stopped(situation: Situation) -> None:
    """One shard of a set noted and another not, and then the inputs changed."""
    situation.kill(situation.start, _point("second shard renamed, not in the journal"))
    _change_inputs(situation.images)


def _changed_while_growing(situation: Situation) -> None:
    """A finished set to which one shard was added; then the inputs changed again."""
    _grown(situation)
    situation.kill_here(_point("between the first new shard and the second"))
    save_image(Image.new("RGB", (20, 40), "green"), situation.images / "03.png")
    (situation.images / "05.png").unlink()


def _finished(situation: Situation) -> None:
    """A finished set, and a table with columns for some of its images, and with a row for none."""
    done = situation.world.runner.run(situation.arguments(situation.start))
    assert done.code == 3, done.stderr
    rows = [
        {"key": f"{number:02d}.png", "caption": f"image {number}", "label": "ab"[number % 2]} for number in range(9)
    ]
    situation.table.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _with_tensors(situation: Situation) -> None:
    """A finished set with tensors of two columns, and others for some of its images, and one for none."""
    done = situation.world.runner.run(situation.arguments(situation.start))
    assert done.code == 3, done.stderr
    for first, numbers in ((0, range(6)), (100, range(3, 9))):
        situation.tensors.mkdir(exist_ok=True)
        for number in numbers:
            rows = torch.arange(4 * (number + 1), dtype=torch.float16).view(-1, 4) + first
            tensors = {"t5": rows, "pooled": rows[0] + first}
            save_file(tensors, situation.tensors / f"{number:02d}.png.safetensors")
        if not first:
            done = situation.world.runner.run(situation.arguments(situation.start))
            assert done.code == 0, done.stderr
            shutil.rmtree(situation.tensors)


def _but_for_one_part(situation: Situation) -> None:
    """A set of which one of two parts is written."""
    done = situation.world.runner.run(situation.part(situation.start, "0/2"))
    assert done.code in {0, 3}, done.stderr


def _grown_but_for_one_part(situation: Situation) -> None:
    """A finished set whose inputs have changed since, and to which one of two parts is added."""
    done = situation.world.runner.run(situation.encoding(situation.start))
    assert done.code == 3, done.stderr
    shutil.copytree(situation.start, situation.folder / "before")
    _change_inputs(situation.images)
    wait_until_settled(situation.images)
    _but_for_one_part(situation)


SITUATIONS: dict[str, Callable[[Situation], None]] = {
    "a new set": _nothing,
    "a set that a killed run left": _left_by_a_killed_run,
    "a plan that was given up": _given_up,
    "a finished set not yet tidied": _not_tidied,
    "a set that grows": _grown,
    IN_PIECES[0]: _grown,
    IN_PIECES[1]: _finished,
    "a stopped set whose inputs changed": _changed_while_stopped,
    "a growing set whose inputs changed again": _changed_while_growing,
    "columns for a finished set": _finished,
    "tensors for a finished set": _with_tensors,
    PARTS[0]: _but_for_one_part,
    PARTS[1]: _grown_but_for_one_part,
}


@dataclass(frozen=True)
class Broken:
    """What became of a run that was killed at a point: what it left, and what the same command made of that."""

    left: str
    code: int
    differences: tuple[str, ...]
    stderr: str

    @property
    def is_right(self) -> bool:
        return self.code == 3 and not self.differences


def break_at(situation: Situation, stop: Stop, disk: Path) -> Broken:
    """Kill a run at `stop`, in the new folder `disk`, and run the same command again."""
    situation.begin(disk)
    killed, _ = situation.world.runner.watch(situation.arguments(disk), disk, stop)
    assert killed.code == -9, f"not reached: {killed.stderr}"
    return go_on(situation, disk)


def go_on(situation: Situation, disk: Path, first: Sequence[str] = ()) -> Broken:
    """Run the command in `disk`, whatever is there; if there is another one to be run `first`, unless that finishes."""
    root = disk / "latents"
    left = describe(root)
    again = situation.world.runner.run(list(first) or situation.arguments(disk))
    if first and not is_finished(root):
        assert again.code in {0, 2, 3}, again.stderr
        again = situation.world.runner.run(situation.arguments(disk))
    wrong = differences(root, situation.expected) + [f"temporary: {name}" for name in temporaries(disk)]
    shutil.rmtree(disk)
    return Broken(left, again.code, tuple(wrong), again.stderr)


def is_finished(root: Path) -> bool:
    """Whether there is a set, and nothing left to be done about it."""
    return (root / "manifest.json").exists() and not (root / "journal").exists()


def describe(root: Path) -> str:
    """What is in a folder of latents, in a few words."""
    found = contents(root) if root.is_dir() else {}
    num_shards = sum(fnmatchcase(f"latents/{name}", SHARD) for name in found)
    num_tensors = sum(name.endswith(".safetensors") for name in found) - num_shards
    lines = [(data or b"").count(b"\n") for name, data in found.items() if fnmatchcase(f"latents/{name}", JOURNAL)]
    parts = [f"{num_shards} shards"] if num_shards else []
    parts += [f"{num_tensors} files of tensors"] if num_tensors else []
    parts += [f"{sum(lines)} journal lines"] if lines else []
    num_pieces = sum(name.startswith("index/") for name in found)
    parts += [f"{num_pieces} pieces"] if num_pieces else []
    parts += [f"{len(temporaries(root))} temporary"] if temporaries(root) else []
    parts += [name for name in ("index.jsonl", "SHA256SUMS", "manifest.json") if name in found]
    parts += ["lock"] if ".semdis-lock" in found else []
    return ", ".join(parts) or ("empty folders" if root.is_dir() else "nothing")
