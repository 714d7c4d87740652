"""The engine of a Ray cluster: one process of this machine joins it, and has the shards done there."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from semdis_cli.files import disk
from semdis_cli.files.atomic import publish
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.fleet.fleet import Fleet, Named
from semdis_cli.pipeline.on_ray.actor import SharedJob, Token
from semdis_cli.pipeline.on_ray.job import RayJob
from semdis_cli.settings import ProcessSettings

T = TypeVar("T", bound=Named)
S = TypeVar("S", bound=Named)
R = TypeVar("R", bound=Named)


def device_in_cluster(tokenizer: Tokenizer) -> str:
    """Return the device of those that are to compute as a tokenizer here does: Ray chooses which GPU."""
    return "cpu" if tokenizer.is_on_cpu else "cuda"


@contextmanager
def ray_engine(
    job: SharedJob[S, R],
    settings: ProcessSettings,
    pack: Callable[[T, set[int]], S],
    tasks: Sequence[T],
    folder: Path,
) -> Iterator[Fleet[T, S, R]]:
    """Give what has a cluster do `tasks`, of which there is one at least, once its actors have begun.

    `pack`: as of a `Fleet`. `folder`: must be the same on all nodes; a file in it tells as long as this goes on. Raises
    what entering a `Fleet` raises.
    """
    token = Token(disk.new_temporary(folder.absolute()), secrets.token_bytes(32))
    publish(token.path, [token.content])
    try:
        with fleet_in_cluster(job, settings, pack, tasks, token) as fleet:
            yield fleet
    finally:
        token.path.unlink(missing_ok=True)


def fleet_in_cluster(
    job: SharedJob[S, R],
    settings: ProcessSettings,
    pack: Callable[[T, set[int]], S],
    tasks: Sequence[T],
    token: Token,
) -> Fleet[T, S, R]:
    """Return what has a cluster do `tasks`, all of whose nodes must see `token`; else as `ray_engine`."""

    def pack_whole(task: T, _: set[int]) -> S:
        return pack(task, set())  # nobody knows which actor gets it

    shared = RayJob(job, settings, token, pack_whole(tasks[0], set()), len(tasks))
    return Fleet([shared], pack_whole, 0)
