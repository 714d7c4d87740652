"""The process from which the processes of a run are forked: it has loaded what they need, and has no threads.

Little is imported here, so that it can be begun before this process has loaded PyTorch.
"""

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

_NAMES = "processes.reading", "processes.writing", "fleet.encode_job"
_NOT_ITS_OWN = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_LOADED_EARLY = [f"semdis_cli.pipeline.{name}" for name in _NAMES]


def start_early() -> None:
    """Begin to load what the processes need, in one from which they are forked: it takes as long as a model.

    Nothing happens the second time. Signals to all processes of a terminal or a job are none of its business: it has
    them blocked, and ends with the process that has begun it.
    """
    forkserver.set_forkserver_preload(_LOADED_EARLY)
    resource_tracker.ensure_running()  # the first time it unblocks some of them, here
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_ITS_OWN)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork_server() -> ForkServerContext:
    """Return what makes processes: a fork of this one would have its threads' locks, and a context of the device."""
    start_early()
    return multiprocessing.get_context("forkserver")
