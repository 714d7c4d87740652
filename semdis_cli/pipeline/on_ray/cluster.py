"""A Ray cluster, seen from a process that has nothing else to do: Ray ends its process when the cluster is gone."""

import logging
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec

from semdis_cli.errors import KilledProcessError, MissingExtraError, UsageError
from semdis_cli.settings import ProcessSettings
from semdis_cli.stops import LOOK_S, look

_ANSWER_S = 20.0  # in which a cluster answers; Ray itself waits for minutes, and hears of no signal
_CONNECT_S = 5.0
_LOOK_AGAIN_S = 2.0
_GONE_S = 20.0  # without an answer, and it is gone: after 60 s Ray would end this process
_REMEDY = "what is done is kept: run the same command again"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # an actor without a GPU is none of Ray's business
}


@dataclass
class Cluster:
    """The cluster that this process has joined. `address`: of its head, HOST:PORT."""

    address: str
    _answered: float = field(default_factory=time.monotonic)
    _looked: float = field(default_factory=time.monotonic)

    def answers(self) -> bool:
        """Look for the head from time to time; True if it is there. Ray's own questions would wait for it.

        Raises `KilledProcessError` if it has been gone for long.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_AGAIN_S:
            return False
        self._looked = now
        if _why_silent(self.address) is None:
            self._answered = time.monotonic()
            return True
        if now - self._answered > _GONE_S:
            raise KilledProcessError(f"the Ray cluster does not answer any more; {_REMEDY}", place=self.address)
        return False


def check_address(address: str | None) -> None:
    """Raise `MissingExtraError` where Ray is not installed, `UsageError` if nothing listens at an address."""
    if find_spec("ray") is None:
        raise MissingExtraError("--engine ray needs Ray: pip install 'semdis[ray]'")
    if address is None or address == "auto":
        return
    if "://" in address:
        what = "is not the HOST:PORT of a head; on a node leave --address out, from elsewhere use ray job submit"
        raise UsageError(what, place=address)
    if (reason := _why_silent(address)) is not None:
        raise UsageError(f"no Ray cluster answers there ({reason})", place=address)


def join_cluster(settings: ProcessSettings) -> Cluster:
    """Join the cluster of `settings`, quietly. Raises `UsageError` with what is wrong, in a line."""
    _hush()
    import ray

    address = settings.address or "auto"
    if address != "auto" and (reason := _why_silent(address)) is not None:  # it was there before
        raise KilledProcessError(f"the Ray cluster does not answer any more ({reason}); {_REMEDY}", place=address)
    _begin(address)
    return Cluster(ray.get_runtime_context().gcs_address)


def _hush() -> None:
    """Let nothing but our own errors be seen of this process: Ray and its libraries write to both streams."""
    os.environ |= _QUIET
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _why_silent(address: str) -> str | None:
    """Return why nothing listens at HOST:PORT; None if something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _begin(address: str) -> None:
    """Have a thread join: while it waits, nothing else is heard there. Raises `UsageError`."""
    errors: list[Exception] = []
    joining = threading.Thread(target=_join, args=(address, errors), daemon=True)
    joining.start()
    deadline = time.monotonic() + _ANSWER_S
    while joining.is_alive():
        look()
        if time.monotonic() > deadline:
            raise UsageError(
                f"what listens there does not answer as a Ray cluster, in {_ANSWER_S:.0f} s", place=address
            )
        joining.join(LOOK_S)
    if errors:
        what = " ".join(str(errors[0]).split())
        if isinstance(errors[0], ConnectionError) and address == "auto":
            what = (
                f"this machine is in no cluster; give --address HOST:PORT, or begin one: ray start --head ({what:.120})"
            )
        raise UsageError(f"Ray: {what:.600}") from errors[0]


def _join(address: str, errors: list[Exception]) -> None:
    import ray
    from ray.exceptions import RayError

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False)
    except (RuntimeError, ValueError, OSError, RayError) as error:
        errors.append(error)
