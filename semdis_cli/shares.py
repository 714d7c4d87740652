"""Share of a run: one of several processes that write the same set, each by itself, and what launchers say of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from semdis_cli.errors import UsageError

T = TypeVar("T")
_MOST_SHARES = 1_000_000
_TEXT = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")
_NAME = re.compile(r"([0-9]{1,7})-of-([0-9]{1,7})")


@dataclass(frozen=True, order=True, slots=True)
class Share:
    """Part `index` of `count`, counted from 0. Raises `UsageError` where there is no such part."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_SHARES:
            raise UsageError(f"--part {self}: a run has 1 to {_MOST_SHARES:,} parts")
        if not 0 <= self.index < self.count:
            raise UsageError(f"--part {self}: parts of {self.count} are numbered from 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """Name of its files: `3-of-8`."""
        return f"{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `i/n`, or `none`: all of it. Raises `UsageError` for anything else."""
        if text == "none":
            return None
        if (found := _TEXT.fullmatch(text)) is None:
            raise UsageError(f"--part {text:.40}: a part is written i/n, as 0/8 to 7/8, or none")
        return cls(*map(int, found.groups()))

    @classmethod
    def named(cls, name: str) -> Self | None:
        """Return the share whose files are called `name`; None if none is."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            share = cls(*map(int, found.groups()))
        except UsageError:
            return None
        return share if share.name == name else None

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Return those of `items` that are for it: every `count`-th."""
        return items[self.index :: self.count]


@dataclass(frozen=True, slots=True)
class Launched:
    """A share that this process is to have; `by`: the variables of the launcher that say so, empty if none do.

    `local_rank`: of the process among those that were started with it on this machine, where the launcher says it.
    """

    share: Share
    by: str = ""
    local_rank: int | None = None


_PROCESSES = (  # index, count, index on this machine; the nearest to the process first: each of these starts others
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    # in SLURM both kinds of mpirun start a task on each node, which starts the processes there
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, Intel MPI; the first two also srun --mpi=pmi2
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun; a batch script has no number of tasks
)
_TASKS = (
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT"),  # Google Cloud Batch
    ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
)


def find_launched(environment: Mapping[str, str], share: Share | None = None) -> Launched | None:
    """Return the share that a launcher has noted in the environment of this process; None if none has.

    It is a process among those that `torchrun`, `mpirun` or `srun` have started, or a task of a job array; such a task
    is divided among its processes. One process alone is no share. Raises `UsageError` where what is noted is no share.
    `share`: counts in place of all that.
    """
    process = _process(environment)
    local_rank = None if process is None else process.local_rank
    if share is not None:
        return Launched(share, local_rank=local_rank)
    task = _array_task(environment)
    noted = task or process
    if task is not None and process is not None:
        (index, count), (rank, size) = task.value, process.value
        noted = _Noted((index * size + rank, count * size), f"{task.by}, {process.by}")
    return _launched(noted, local_rank)


@dataclass(frozen=True, slots=True)
class _Noted:
    value: tuple[int, int]
    by: str
    local_rank: int | None = None


def _launched(noted: _Noted | None, local_rank: int | None) -> Launched | None:
    if noted is None:
        return None
    index, count = noted.value
    if not 0 <= index < count:
        raise UsageError(
            f"there is no part {index} of {count}, numbered from 0; give --part i/n, or --part none", place=noted.by
        )
    return None if count == 1 else Launched(Share(index, count), noted.by, local_rank)


def _process(environment: Mapping[str, str]) -> _Noted | None:
    """Return the process among those that were started together; None if there is one alone."""
    found = filter(None, (_noted(environment, *names) for names in _PROCESSES))
    noted = [each for each in found if each.value[1] != 1]
    same = (each for each in noted if each.value == noted[0].value)
    return next((each for each in same if each.local_rank is not None), noted[0] if noted else None)


def _array_task(environment: Mapping[str, str]) -> _Noted | None:
    """Return the task among those of a job array."""
    counted = (_noted(environment, *names) for names in _TASKS)
    return _slurm_task(environment) or _grid_engine_task(environment) or next(filter(None, counted), None)


def _slurm_task(environment: Mapping[str, str]) -> _Noted | None:
    """Return the task of an array of SLURM, which says how many tasks there are, and may have any numbers."""
    noted = _noted(environment, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    if noted is None:
        return None
    number, count = noted.value
    first = _number(environment, "SLURM_ARRAY_TASK_MIN") or 0
    step = _number(environment, "SLURM_ARRAY_TASK_STEP") or 1
    last = _number(environment, "SLURM_ARRAY_TASK_MAX")
    index, rest = divmod(number - first, step)
    if rest or not 0 <= index < count or last not in {None, first + (count - 1) * step}:
        raise UsageError(
            "the numbers of the tasks have gaps, so which part each has does not follow from them; "
            "give --part i/n, or --part none",
            place=noted.by,
        )
    return _Noted((index, count), noted.by)


def _grid_engine_task(environment: Mapping[str, str]) -> _Noted | None:
    """Return the task of an array of Grid Engine, whose numbers go from one to another by steps."""
    noted = _noted(environment, "SGE_TASK_ID", "SGE_TASK_LAST")
    if noted is None:
        return None
    number, last = noted.value
    first = _number(environment, "SGE_TASK_FIRST") or 1
    step = _number(environment, "SGE_TASK_STEPSIZE") or 1
    return _Noted(((number - first) // step, (last - first) // step + 1), noted.by)


def _noted(environment: Mapping[str, str], index: str, count: str, local: str = "") -> _Noted | None:
    numbers = _number(environment, index), _number(environment, count)
    if numbers[0] is None or numbers[1] is None:
        return None
    by = f"{index}={numbers[0]}, {count}={numbers[1]}"
    return _Noted((numbers[0], numbers[1]), by, _number(environment, local))


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
