"""The process from which the processes of a run are forked: it has loaded what they need, and has no threads.

Little is imported here, so that it can be begun before this process has loaded PyTorch.
"""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_NAMES = "reading_processes", "writing_processes", "fleet.encode_job"
_LOADED_EARLY = [f"semdis_cli.pipeline.{name}" for name in _NAMES]


def start_early() -> None:
    """Begin to load what the processes need, in one from which they are forked: it takes as long as a model.

    Nothing happens the second time.
    """
    forkserver.set_forkserver_preload(_LOADED_EARLY)
    forkserver.ensure_running()


def fork_server() -> ForkServerContext:
    """Return what makes processes: a fork of this one would have its threads' locks, and a context of the device."""
    start_early()
    return multiprocessing.get_context("forkserver")
