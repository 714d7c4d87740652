"""Which latents share a batch, in which order and on which rank: all of it decided by the seed and the epoch."""

from collections.abc import Iterator
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import UsageError

Uneven = Literal["keep", "drop", "pad"]


class Bucketed(Protocol):
    """Items to be sampled; a `LatentDataset` is one."""

    @property
    def sha256(self) -> str:
        """Which items these are."""

    @property
    def bucket_numbers(self) -> NDArray[np.int32]:
        """Number of each item's bucket from 0 on, [N]: items of one number can share a batch."""


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of item numbers for `DataLoader(dataset, batch_sampler=...)`; a batch never mixes two buckets.

    The batches of an epoch are dealt out to `world_size` ranks, so that at most steps all ranks have the same bucket.
    Every item comes exactly once over all ranks, and the last batch of a bucket is as short as it must be. Some ranks
    then have one batch more than others. `uneven` "drop" leaves out the fewer than `world_size` batches too many, and
    "pad" repeats batches until all ranks have equally many. `drop_last` leaves out the short batches.

    A trainer that splits batches among ranks of its own accord (Accelerate) takes one of `world_size` 1. For such a
    trainer there is no attribute `batch_size`: it would take a batch of another length for the end of the epoch.

    `seed`: of the order, which is another one in each epoch; None for the order of the items. The order depends on
    nothing but the arguments and the epoch: no version of NumPy changes it. Raises `UsageError` for arguments that make
    no sense.
    """

    def __init__(
        self,
        dataset: Bucketed,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "keep",
        drop_last: bool = False,
    ) -> None:
        _check_arguments(batch_size, seed, rank, world_size, uneven)
        self.seed, self.rank, self.world_size, self.uneven = seed, rank, world_size, uneven
        self.epoch, self.start_batch = 0, 0
        self._batch_size, self._leaves_out_short = batch_size, drop_last
        self._resumed_epoch: int | None = None
        self._drawing = dataset if isinstance(dataset, LatentDataset) else None
        self._items_sha256 = dataset.sha256
        self._bucket_numbers = dataset.bucket_numbers
        self._bucket_sizes = np.bincount(self._bucket_numbers)

    @property
    def drop_last(self) -> bool:
        """Tell wrappers that split to leave out the batches of a last, incomplete step of all ranks.

        That is `uneven`, and not the argument `drop_last`. True, or there is no such attribute. Raises `UsageError` if
        the batches are dealt out to several ranks already.
        """
        if self.world_size > 1:
            raise UsageError(
                f"the sampler deals its batches out to {self.world_size} ranks, and a wrapper is about to split them "
                "again: leave out rank and world_size, or do not have the loader wrapped"
            )
        if self.uneven != "drop":
            raise AttributeError("batches are left out only with uneven='drop'", name="drop_last", obj=self)
        return True

    @property
    def sampler(self) -> "_Epochs":
        """The object with `set_epoch` where Lightning and Accelerate look for it: not in the batch sampler itself."""
        return _Epochs(self)

    def set_epoch(self, epoch: int, start_batch: int | None = None) -> None:
        """Choose the epoch that the next iteration gives, from this rank's batch `start_batch` on; tell the dataset.

        `start_batch` None: from its first batch on, or, if the epoch is chosen already, from where that was to start:
        a trainer that tells the epoch after `resume` undoes nothing. Raises `UsageError` for numbers below 0, and for
        an epoch before a resumed one, unless it comes with a `start_batch`.
        """
        if epoch < 0 or (start_batch or 0) < 0:
            raise UsageError(f"epoch {epoch}, batch {start_batch or 0}: both count from 0")
        if start_batch is None and self._resumed_epoch is not None and epoch < self._resumed_epoch:
            raise UsageError(
                f"epoch {epoch}, but the sampler was resumed in epoch {self._resumed_epoch}: have the trainer begin "
                "there (with Accelerate, set_epoch of the loader), or give a start_batch too"
            )
        if epoch != self.epoch or start_batch is not None:
            self.epoch, self.start_batch, self._resumed_epoch = epoch, start_batch or 0, None
        if self._drawing is not None:
            self._drawing.set_epoch(epoch)

    def state(self, num_batches_done: int) -> dict[str, Any]:
        """Return what `resume` needs to go on after `num_batches_done` batches of this epoch on this rank, as JSON.

        How many are done is for the training loop to say: loader workers are ahead of it.
        """
        return {"epoch": self.epoch, "start_batch": num_batches_done, "order": self._order_record()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on any of the ranks. Raises `UsageError` if the order is another one."""
        try:
            before, epoch, start_batch = dict(state["order"]), int(state["epoch"]), int(state["start_batch"])
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise UsageError(f"not the state of a sampler ({error!r:.80})") from error
        now = self._order_record()
        changed = [f"{name}: {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
        if changed:
            raise UsageError(f"the batches would come in another order than before ({'; '.join(changed)})")
        self.set_epoch(epoch, start_batch)
        self._resumed_epoch = epoch

    def _order_record(self) -> dict[str, Any]:
        return {
            "latents_sha256": self._items_sha256,
            "batch_size": self._batch_size,
            "seed": self.seed,
            "world_size": self.world_size,
            "uneven": self.uneven,
            "drop_last": self._leaves_out_short,
        }

    def __len__(self) -> int:
        """Batches that the next iteration gives."""
        each, surplus = divmod(int(self._num_batches().sum()), self.world_size)
        extra = {"keep": self.rank < surplus, "drop": False, "pad": surplus > 0}[self.uneven]
        return max(0, each + extra - self.start_batch)

    def __iter__(self) -> Iterator[list[int]]:
        order = _Order(self.seed, self.epoch)
        items = np.lexsort((order.words(len(self._bucket_numbers)), self._bucket_numbers))
        batches = self._deal(order)[self.start_batch :]
        for start, stop in self._spans()[batches].tolist():
            yield items[start:stop].tolist()

    def _num_batches(self) -> NDArray[np.int64]:
        """Batches of each bucket."""
        full, rest = np.divmod(self._bucket_sizes, self._batch_size)
        return full if self._leaves_out_short else full + (rest > 0)

    def _spans(self) -> NDArray[np.int64]:
        """Return where each batch starts and stops among the items sorted by bucket, [num_batches,2]."""
        ends, num_batches = np.cumsum(self._bucket_sizes), self._num_batches()
        bucket = np.repeat(np.arange(len(ends)), num_batches)
        starts = (ends - self._bucket_sizes)[bucket] + _count_up(num_batches) * self._batch_size
        return np.stack([starts, np.minimum(starts + self._batch_size, ends[bucket])], axis=1)

    def _deal(self, order: "_Order") -> NDArray[np.int64]:
        """The numbers of this rank's batches, in order."""
        # As many batches of one bucket as there are ranks make a step, then what is left over, as it comes.
        num_batches = self._num_batches()
        in_step = _count_up(num_batches) < np.repeat(num_batches // self.world_size * self.world_size, num_batches)
        left_over = order.shuffle(np.flatnonzero(~in_step))
        num_surplus = len(left_over) % self.world_size
        dealt = np.concatenate([np.flatnonzero(in_step), left_over[: len(left_over) - num_surplus]])
        steps = order.shuffle(dealt.reshape(-1, self.world_size))
        # The last step, which has too few
        surplus = left_over[len(left_over) - num_surplus :]
        if self.uneven == "drop":
            surplus = surplus[:0]
        if self.uneven == "pad" and num_surplus:
            repeated = np.resize(np.concatenate([steps.ravel(), surplus]), self.world_size - num_surplus)
            surplus = np.concatenate([surplus, repeated])
        return np.concatenate([steps[:, self.rank], surplus[self.rank : self.rank + 1]])


class _Epochs:
    """Hands `set_epoch` on to a batch sampler; no sampler of items."""

    def __init__(self, batches: BucketBatchSampler) -> None:
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """As of the batch sampler."""
        self._batches.set_epoch(epoch)


class _Order:
    """Random orders one after the other, from `seed` and `epoch`; with no seed, things stay as they are."""

    def __init__(self, seed: int | None, epoch: int) -> None:
        # The words of a bit generator are promised to stay the same for good; what NumPy makes of them is not.
        self._bits = None if seed is None else np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,)))

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` numbers to sort by."""
        return np.arange(count, dtype=np.uint64) if self._bits is None else self._bits.random_raw(count)

    def shuffle(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """`values` in a new order along the first axis."""
        return values[np.argsort(self.words(len(values)), kind="stable")]


def _count_up(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... for each of `counts`, one after the other: [2, 3] -> [0, 1, 0, 1, 2]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _check_arguments(batch_size: int, seed: int | None, rank: int, world_size: int, uneven: str) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size {batch_size}: a batch has at least one item")
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of {world_size}: ranks count from 0")
    if seed is not None and seed < 0:
        raise UsageError(f"seed {seed}: seeds count from 0")
    if uneven not in get_args(Uneven):
        raise UsageError(f"uneven {uneven!r}: choose one of {', '.join(get_args(Uneven))}")
