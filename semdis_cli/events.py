"""Events: what a verb tells its caller while it runs; plain values, no tensors. A terminal listens, or a test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of the run's stages, summed over all threads; `wait_s` is what no stage accounts for.

    `publish_s` is spent beside those threads: hashing and writing shards. Waiting for the disk over images is in none.
    `measure_s`: of comparing images, where a run does.
    """

    read_s: float = 0.0
    encode_s: float = 0.0
    decode_s: float = 0.0
    write_s: float = 0.0
    wait_s: float = 0.0
    publish_s: float = 0.0
    measure_s: float = 0.0

    def __add__(self, other: "StageTimes") -> "StageTimes":
        return StageTimes(
            self.read_s + other.read_s,
            self.encode_s + other.encode_s,
            self.decode_s + other.decode_s,
            self.write_s + other.write_s,
            self.wait_s + other.wait_s,
            self.publish_s + other.publish_s,
            self.measure_s + other.measure_s,
        )


@dataclass(frozen=True, slots=True)
class Planning:
    """Work of a run before it encodes anything: a `stage` like "reading headers", and how far it is with that.

    `total` 0: nobody knows how much there will be; `done` 0 as well: it is one step that takes its time.
    """

    stage: str
    done: int = 0
    total: int = 0


# Takes such news from functions that are no generators; called often, so it must be quick.
Tell = Callable[[Planning], object]


def untold(_: Planning) -> None:
    """For whom it does not matter."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run is planned: `num_images` inputs in all, of which `num_done` were finished by an earlier run.

    `megapixels`: of all inputs still to do, as far as their sizes are known. `num_failed_before`: of those finished by
    an earlier run that was stopped, how many had failed; no `Failure` tells of them again. `note`: what a person should
    know before it goes on, a line; empty if nothing.
    """

    num_images: int
    num_done: int
    megapixels: float
    num_failed_before: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """One model call's images went through. `megapixels` (10^6) counts input pixels. `times` is this batch's share."""

    num_images: int
    megapixels: float
    times: StageTimes


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Time that belongs to no model call: reading or writing a whole shard, or a member of a tar."""

    times: StageTimes


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that could not be used, and why (one line). The run goes on; the index keeps it.

    `num_bytes`, `mtime_ns` and `ctime_ns` (when it was modified, and changed in any way, nanoseconds since 1970) of the
    file whose content is the reason, so that it is not tried again unless it changes; None where another attempt may
    do better.
    """

    key: str
    reason: str
    num_bytes: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None

    @property
    def is_final(self) -> bool:
        """Tell whether the content of the file is the reason: another attempt fails too, unless the file changes."""
        return self.num_bytes is not None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An input that a filter leaves out, which is no failure. The index keeps it.

    `reason`: the filter, as in `FilterSettings`. The file's size and times as in `Failure`; by what it was judged:
    `size`, (H, W) of the picture in px, or `sha256` (hex) of its bytes.
    """

    key: str
    reason: str
    num_bytes: int
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    size: tuple[int, int] | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnTrouble:
    """A column that an image does not get, or a row of a table that no image gets, and why (one line).

    It never costs the image. `key`: that of the image, or what the row calls one.
    """

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImageMeasured:
    """One image was reconstructed, and compared with the pixels the model was given, padding left out.

    `figures`: of each contender in their order, by the names of metrics; a metric that the image is too small for is
    left out.
    """

    key: str
    figures: tuple[Mapping[str, float], ...]

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio of the first contender."""
        return self.figures[0]["psnr_db"]


@dataclass(frozen=True, slots=True)
class ShardPublished:
    """A shard is safely on disk."""

    name: str
    num_images: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ShardDecoded:
    """All images of a shard that could be decoded are on disk."""

    name: str


@dataclass(frozen=True, slots=True)
class ShardFailed:
    """A shard could not be decoded because it is missing or damaged; the others are."""

    name: str
    reason: str
    num_images: int


@dataclass(frozen=True, slots=True)
class ProcessDied:
    """A process of the run died on `device`; its `shards` that were under way are done once more.

    `how`: a signal's name, or what is known of it.
    """

    pid: int
    device: str
    how: str
    shards: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerLeftOut:
    """A node of a cluster that came later cannot take part, and why (one line)."""

    reason: str


@dataclass(frozen=True, slots=True)
class VerifyStarted:
    """The shards of a set are known: there are `num_shards` to look at, and `num_bytes` to read."""

    num_shards: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a set of latents: the file (within the set, or a source), a kind, and what it is."""

    file: str
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class ShardVerified:
    """A shard was looked at; `num_bytes` of it were read."""

    name: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class VerifyFinished:
    """All was looked at; `report` says what, and how many problems of each kind there are."""

    num_problems: int
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ColumnsAttached:
    """The images of a set have other columns; `report` says which, and of how many images and rows."""

    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is complete: ok + failed = inputs. `report` is what `report.json` holds."""

    num_ok: int
    num_failed: int
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Training can start: the model's parameters, the images to learn from and to measure with, and their bytes.

    `num_unread`: images that were left out because memory is full.
    """

    num_parameters: int
    num_images: int
    num_held_out: int
    num_unread: int
    image_bytes: int


@dataclass(frozen=True, slots=True)
class CompilingFailed:
    """Training goes on without torch's compiler, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """`step` of `num_steps` is done; `loss` averaged since the last of these events; `left_s` seconds to go."""

    step: int
    num_steps: int
    loss: float
    images_per_s: float
    left_s: float


@dataclass(frozen=True, slots=True)
class TrainingMeasured:
    """The averaged weights were saved, and reconstruct held-out images in one decoder step with this mean PSNR."""

    step: int
    psnr_db: float


@dataclass(frozen=True, slots=True)
class GeneratorMeasured:
    """A generator that learns the latents of the set `title` with `seed` has this held-out loss after `step` steps.

    It is relative to what the best linear prediction from single values leaves.
    """

    title: str
    seed: int
    step: int
    relative_loss: float


Event = (
    Planning
    | RunStarted
    | BatchDone
    | TimeSpent
    | Failure
    | LeftOut
    | ColumnTrouble
    | ImageMeasured
    | ShardPublished
    | ShardDecoded
    | ShardFailed
    | ProcessDied
    | WorkerLeftOut
    | ModelReady
    | CompilingFailed
    | TrainingProgress
    | TrainingMeasured
    | GeneratorMeasured
    | VerifyStarted
    | Problem
    | ShardVerified
    | VerifyFinished
    | ColumnsAttached
    | RunFinished
)
